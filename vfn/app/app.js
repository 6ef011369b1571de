"use strict";
const $ = (id) => document.getElementById(id);
const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// ---------------------------------------------------------------- the program on this computer

const GONE = "The program no longer answers. Start python -m vfn.app again and open the address that it prints.";

// The address gives the key once; then this tab alone has it. No cookie: those go to every port of 127.0.0.1.
const KEY = (() => {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  try {
    if (given) sessionStorage.setItem("key", given);
    const kept = sessionStorage.getItem("key") || "";
    if (given) history.replaceState(null, "", "/");
    return kept;
  } catch { // no storage allowed: it stays in the address
    return given || "";
  }
})();
addEventListener("hashchange", () => location.reload()); // the address of a new start, opened in this tab

async function request(method, url, body) {
  let answer;
  try {
    answer = await fetch(url, { method, body: body === undefined ? undefined : JSON.stringify(body), headers: { "X-VFN-Key": KEY } });
  } catch {
    throw new Error(GONE);
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error || `the program answered ${answer.status}`);
}

const ask = async (method, url, body) => (await request(method, url, body)).json();

// The browser itself fetches a download, without the key: by a link that works once.
async function download(url) {
  try {
    const { link } = await ask("POST", `/once?to=${encodeURIComponent(url)}`);
    element("a", { href: link, download: "" }).click();
  } catch (error) {
    say("field-error", error.message);
  }
}

function say(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

const bytes = (n) => (n < 1e6 ? `${Math.max(1, Math.round(n / 1e3))} kB` : `${(n / 1e6).toPrecision(3)} MB`);
const grey = (value) => (Math.abs(value) >= 100 || Number.isInteger(value) ? Math.round(value).toString() : value.toPrecision(3));
const depth = (dtype) => ({ uint8: "8 bit", uint16: "16 bit", float32: "real numbers" })[dtype] || dtype;

// ---------------------------------------------------------------- 1 model

const chosen = { model: null, drop: null, files: 0, used: false, folder: null, found: null, looking: 0 };
let models = [];

// How a level of a verdict looks and what it is called.
const LEVELS = { use: ["good", "use"], care: ["warn", "use with care"], "do not use": ["bad", "do not use"] };
const lookOf = (verdict) => LEVELS[verdict.level] || ["warn", "never scored"];
const verdictLine = (tag, verdict, textContent) => element(tag, { className: `line ${lookOf(verdict)[0]}`, textContent });

async function listModels() {
  try {
    models = (await ask("GET", "/api/models")).models;
  } catch (error) {
    $("models").replaceChildren(element("p", { className: "line bad", textContent: error.message }));
    return;
  }
  $("filter-row").hidden = models.length < 7;
  showModels();
  const keep = models.find((m) => m.name === chosen.model?.name) || models.find((m) => !m.problem);
  if (keep) choose(keep);
  $("models").querySelector(":checked")?.closest("label").scrollIntoView({ block: "nearest" });
}

function showModels() {
  const wanted = $("filter").value.trim().toLowerCase();
  const matching = models.filter((m) =>
    [m.name, m.data, m.task, ...(m.inputs || []), ...(m.targets || [])].join(" ").toLowerCase().includes(wanted));
  if (!matching.length) {
    const none = models.length ? "No model matches." : "No trained model there yet. Train one: python train.py";
    $("models").replaceChildren(element("p", { className: "soft", textContent: none }));
    return;
  }
  $("models").replaceChildren(...matching.map((model) => {
    const input = element("input", { type: "radio", name: "model", value: model.name, disabled: Boolean(model.problem),
      checked: model.name === chosen.model?.name });
    input.addEventListener("change", () => choose(model));
    const label = element("label", { className: model.problem ? "model broken" : "model" }, input,
      element("strong", { textContent: model.name }));
    if (model.problem) label.append(element("span", { className: "soft", textContent: model.problem }));
    else {
      const score = model.val_psnr === null ? "" : `, PSNR ${model.val_psnr.toFixed(1)} dB`;
      label.append(
        element("span", { textContent: `${model.inputs.join(" + ")} → ${model.targets.join(", ")}` }),
        element("span", { className: "soft", textContent: `${model.data}, ${model.date}${score}${model.calibrated ? ", with uncertainty" : ""}` }),
        ...model.verdicts.map((verdict) => verdictLine("span", verdict, verdict.channel ? `${verdict.channel}: ${lookOf(verdict)[1]}` : "its card is damaged")));
    }
    return label;
  }));
}

function choose(model) {
  chosen.model = model;
  for (const input of $("models").querySelectorAll("input")) input.checked = input.value === model.name;
  const facts = [
    ["Wants", model.inputs.map((c, i) => `${c} (${depth(model.input_dtypes[i])})`).join(", ")],
    ["Predicts", `${model.targets.join(", ")} (${depth(model.target_dtype)})`],
    ["Pixel size", model.pixel_size ? `${Number(model.pixel_size.toPrecision(4))} µm. Images of another magnification are predicted wrongly.`
      : "not known: the training images did not state it. Use images of the same microscope and objective."],
    ["Learnt from", `${model.train_fields} field(s) of ${model.data}${model.root ? ` in ${model.root}` : ""}. Other cells, stainings and microscopes are new to it.`],
    ["Validation", model.val_psnr === null ? "no figures beside the checkpoint"
      : `PSNR ${model.val_psnr.toFixed(1)} dB, mean error ${(50 * model.val_mae).toFixed(1)} % of the grey range; best of ${model.epochs} epoch(s)`],
    ["Verdict", model.verdicts.map((verdict) => verdict.text).join(" ")],
    ["Uncertainty", model.calibrated ? `calibrated on ${model.calibrated} field(s)` : "not calibrated (python -m vfn.calibrate)"],
  ];
  if (model.refocuses) facts.push(["Focus", "blurred fields are refocused first"]);
  $("about").querySelector("dl").replaceChildren(
    ...facts.flatMap(([term, text]) => [element("dt", { textContent: term }), element("dd", { textContent: text })]));
  $("about").hidden = false;
  say("wants", `This model wants ${model.inputs.join(" + ")}, ${[...new Set(model.input_dtypes.map(depth))].join(" and ")}.`);
  $("coverage").disabled = !model.calibrated;
  say("uncalibrated", model.calibrated ? "" : `This model gives no uncertainty. Calibrate it once: python -m vfn.calibrate ckpt=.../${model.name}/checkpoints/best.ckpt`);
  look();
}

$("filter").addEventListener("input", showModels);
$("refresh").addEventListener("click", () => begin());

// ---------------------------------------------------------------- 2 images

let mostBytes = 0;
let uploading = Promise.resolve();

function upload(url, file, told) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", url);
    request.setRequestHeader("X-VFN-Key", KEY);
    request.upload.addEventListener("progress", (event) => told(event.loaded / event.total));
    request.addEventListener("load", () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* no line of ours */ }
      if (request.status === 200) resolve(answer);
      else reject(new Error(answer.error || `${file.name}: the program answered ${request.status}`));
    });
    request.addEventListener("error", () => reject(new Error(GONE)));
    request.send(file);
  });
}

async function receive(files) {
  say("images-error", "");
  if (!files.length) return;
  const total = files.reduce((sum, file) => sum + file.size, 0);
  if (total > mostBytes) {
    say("images-error", `${bytes(total)} are too much: the page takes ${bytes(mostBytes)} at once. Choose a folder instead, or start the page with a higher upload_mb=.`);
    return;
  }
  if (chosen.used) await clear(false); // after a prediction, new files are new work
  for (const file of files) {
    const bar = element("progress", { max: 1, value: 0 });
    const entry = element("li", {}, element("span", { textContent: file.name }), element("span", { className: "soft", textContent: bytes(file.size) }), bar);
    $("dropped").append(entry);
    try {
      chosen.drop ??= (await ask("POST", "/api/drops")).drop;
      await upload(`/api/drops/${chosen.drop}/files?name=${encodeURIComponent(file.name)}`, file, (share) => { bar.value = share; });
      bar.remove();
      chosen.files += 1;
    } catch (error) {
      bar.replaceWith(element("span", { className: "line bad", textContent: error.message }));
    }
  }
  $("clear").hidden = false;
  await look();
}

function take(list) {
  const files = [...list]; // the browser empties its own list
  uploading = uploading.then(() => receive(files)).catch((error) => say("images-error", error.message));
}

async function clear(remove = true) {
  const { drop } = chosen;
  Object.assign(chosen, { drop: null, files: 0, used: false, found: null });
  $("dropped").replaceChildren();
  $("clear").hidden = true;
  say("images-error", "");
  if (remove && drop) await ask("DELETE", `/api/drops/${drop}`).catch(() => {});
  showFields();
}

$("choose").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => { take($("files").files); $("files").value = ""; });
$("clear").addEventListener("click", () => clear(!chosen.used).then(look));
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => { event.preventDefault(); $("zone").classList.add("over"); });
}
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("zone").classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  $("zone").classList.remove("over");
  const from = document.querySelector('input[name="from"][value="drop"]');
  if (!from.checked) from.click();
  const entries = [...(event.dataTransfer.items || [])].map((item) => item.webkitGetAsEntry?.());
  if (entries.some((entry) => entry?.isDirectory)) {
    say("images-error", "That is a folder: drop the image files in it, or start the page with folders=[...] and choose it there.");
    return;
  }
  take(event.dataTransfer.files);
});

// A folder among those that the program may look into.
const place = { root: 0, path: "" };

async function open(path) {
  try {
    const told = await ask("POST", "/api/folder", { root: place.root, path });
    place.path = told.path;
    const root = $("root").selectedOptions[0].textContent;
    $("where").textContent = [root, ...told.path.split("/").filter(Boolean)].join(" / ") + ` (${told.images} image file${told.images === 1 ? "" : "s"})`;
    const up = told.path ? [["..", told.path.split("/").slice(0, -1).join("/")]] : [];
    const down = told.folders.map((name) => [name, told.path ? `${told.path}/${name}` : name]);
    $("folders").replaceChildren(...[...up, ...down].map(([name, to]) => {
      const button = element("button", { type: "button", textContent: name === ".." ? "↑ one folder up" : `${name} /` });
      button.addEventListener("click", () => open(to));
      return element("li", {}, button);
    }));
    say("images-error", "");
  } catch (error) {
    say("images-error", error.message);
  }
}

for (const radio of document.querySelectorAll('input[name="from"]')) {
  radio.addEventListener("change", () => {
    const folder = radio.value === "folder" && radio.checked;
    $("from-folder").hidden = !folder;
    $("from-drop").hidden = folder;
    chosen.folder = null;
    say("images-error", "");
    if (folder) open(place.path);
    look();
  });
}
$("root").addEventListener("change", () => { place.root = Number($("root").value); open(""); });
$("use-folder").addEventListener("click", () => { chosen.folder = { ...place }; look(); });

const fromFolder = () => !$("from-folder").hidden;
const source = () => (fromFolder() ? (chosen.folder ? { folder: chosen.folder } : null) : (chosen.files ? { drop: chosen.drop } : null));

// Which fields the model finds there.
async function look() {
  const from = source();
  chosen.found = null;
  ready(); // a click now would predict nothing
  const turn = ++chosen.looking;
  if (!from || !chosen.model) return showFields();
  try {
    const found = await ask("POST", "/api/fields", { model: chosen.model.name, ...from });
    if (turn !== chosen.looking) return undefined;
    chosen.found = found;
    say("images-error", "");
  } catch (error) {
    if (turn !== chosen.looking) return undefined;
    say("images-error", error.message);
  }
  return showFields();
}

const planeName = (plane, planes) =>
  planes.filter((other) => other.file === plane.file).length > 1 ? `${plane.file}, channel ${plane.index + 1}` : plane.file;

function showFields() {
  const { found } = chosen;
  const box = $("fields");
  box.hidden = !found;
  box.replaceChildren();
  if (!found) return ready();
  for (const line of found.damaged) box.append(element("p", { className: "line bad", textContent: line }));
  const names = found.planes.map((plane) => planeName(plane, found.planes));
  if (found.count > 1) listFields(found, box);
  else if (found.count === 1 && !names.length) {
    box.append(element("p", { textContent: `One field: ${found.fields[0].name}` }));
  } else if (names.length) assignment(found, names, box);
  else say("images-error", found.damaged.length ? "" : found.problem);
  return ready();
}

function listFields(found, box) {
  const few = found.count <= 8;
  box.append(element("p", { textContent: `${found.count} fields found. Predict:` }));
  const list = element("div", { className: "list", role: "group" });
  list.setAttribute("aria-label", "fields to predict");
  found.fields.forEach((field, i) => {
    const input = element("input", { type: "checkbox", value: field.name, checked: few || i === 0 });
    input.addEventListener("change", ready);
    const one = found.wanted.length === 1; // then the position in the file says nothing
    const files = Object.entries(field.channels).map(([c, file]) => `${c}: ${one ? file.replace(/, channel 1$/, "") : file}`).join(", ");
    list.append(element("label", {}, input, ` ${field.name} `, element("small", { textContent: files })));
  });
  box.append(list);
  if (found.count > found.fields.length) {
    box.append(element("p", { className: "soft", textContent: `The first ${found.fields.length} are listed. For whole plates use predict.py.` }));
  }
}

// One field: which image is which channel, to be set right by hand.
function assignment(found, names, box) {
  const guess = found.fields[0]?.channels || {};
  if (found.problem) {
    const few = names.length < found.wanted.length;
    box.append(element("p", { className: "line warn", textContent: few
      ? `The model wants ${found.wanted.length} channels (${found.wanted.join(", ")}), ${names.length === 1 ? "1 image is" : `${names.length} images are`} there: add the others.`
      : `${names.length} image${names.length === 1 ? "" : "s"} for ${found.wanted.length} channel${found.wanted.length === 1 ? "" : "s"}, and the names do not tell which is which. Choose:` }));
    box.append(element("details", {}, element("summary", { textContent: "Why" }), element("p", { className: "soft", textContent: found.problem })));
  }
  const table = element("table");
  for (const channel of found.wanted) {
    const select = element("select");
    select.dataset.channel = channel;
    select.setAttribute("aria-label", `image for ${channel}`);
    const at = found.planes.findIndex((plane, i) => [names[i], `${plane.file}, channel ${plane.index + 1}`].includes(guess[channel]));
    if (at < 0) select.append(element("option", { value: "", textContent: "choose an image" }));
    names.forEach((name, i) => select.append(element("option", { value: String(i), textContent: name, selected: i === at })));
    select.dataset.guess = at < 0 ? "" : String(at);
    select.addEventListener("change", ready);
    table.append(element("tr", {}, element("th", { scope: "row", textContent: channel }), element("td", {}, select)));
  }
  box.append(table);
}

// What to ask for; a string says what is still missing.
function wanted() {
  const { found, model } = chosen;
  if (!model) return "Choose a model.";
  if (!source()) return fromFolder() ? "Choose a folder." : "Drop images.";
  if (!found) return "";
  const order = { model: model.name, ...source(), coverage: model.calibrated && $("coverage").value ? Number($("coverage").value) : null };
  const selects = [...$("fields").querySelectorAll("select[data-channel]")];
  if (selects.length) {
    if (selects.some((select) => select.value === "")) return "Choose an image for each channel.";
    if (selects.some((select) => select.value !== select.dataset.guess)) {
      return { ...order, channels: Object.fromEntries(selects.map((select) => [select.dataset.channel, found.planes[Number(select.value)]])) };
    }
  }
  if (!found.count) return found.damaged.length ? "No image that can be read." : "No field that this model can predict.";
  const boxes = [...$("fields").querySelectorAll("input[type=checkbox]")];
  const fields = boxes.length ? boxes.filter((box) => box.checked).map((box) => box.value) : found.fields.map((field) => field.name);
  return fields.length ? { ...order, fields } : "Choose a field.";
}

// ---------------------------------------------------------------- 3 predict

let running = null;

function ready() {
  const order = wanted();
  $("predict").disabled = running !== null || typeof order === "string";
  $("missing").textContent = running === null && typeof order === "string" ? order : "";
}

$("coverage").addEventListener("change", ready);
$("predict").addEventListener("click", async () => {
  const order = wanted();
  if (typeof order === "string") return;
  say("predict-error", "");
  try {
    running = (await ask("POST", "/api/jobs", order)).job;
    chosen.used = Boolean(order.drop);
    ready();
    await follow(running);
  } catch (error) {
    say("predict-error", error.message);
  }
  running = null;
  $("progress").hidden = $("stop").hidden = true;
  ready();
});
$("stop").addEventListener("click", () => { $("stop").disabled = true; ask("DELETE", `/api/jobs/${running}`).catch(() => {}); });

async function follow(job) {
  $("progress").hidden = $("stop").hidden = false;
  $("stop").disabled = false;
  const bar = $("progress").querySelector("progress");
  for (;;) {
    const told = await ask("GET", `/api/jobs/${job}`);
    if (told.state === "done") return show(job, told);
    if (told.state === "failed") throw new Error(told.error);
    if (told.state === "stopped") throw new Error("Stopped.");
    // Before the first figure it moves without end.
    if (told.share > 0) bar.value = told.share; else bar.removeAttribute("value");
    $("progress-text").textContent = told.state === "waiting"
      ? `Waiting: ${told.ahead} prediction${told.ahead === 1 ? "" : "s"} before this one.`
      : `${$("stop").disabled ? "Stopping after this step" : told.label || "starting"}, ${Math.round(told.seconds)} s`;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

// ---------------------------------------------------------------- result

const shown = { job: null, told: null, field: 0, sides: { left: 0, right: 0 }, at: 0.5, contrast: new Map() };

function show(job, told) {
  const same = shown.told?.model === told.model;
  Object.assign(shown, { job, told, field: 0 });
  if (!same) shown.contrast.clear();
  $("empty").hidden = true;
  $("shown").hidden = false;
  $("field").replaceChildren(...told.fields.map((field, i) => element("option", { value: String(i), textContent: field.error ? `${field.name} (not predicted)` : field.name })));
  $("field-row").hidden = told.fields.length < 2;
  $("download-all").hidden = told.fields.filter((field) => !field.error).length < 2;
  $("command").textContent = told.command;
  const first = told.fields.findIndex((field) => !field.error);
  showField(Math.max(0, first), true);
  $("title").focus({ preventScroll: innerWidth > 900 });
}

const layerName = (layer) => ({ input: `${layer.channel} (input)`, stain: `${layer.channel} (predicted)`, halfwidth: `${layer.channel.replace(/_halfwidth(\d+)$/, "")} ± uncertainty` })[layer.kind];

function showField(number, anew) {
  shown.field = number;
  const field = shown.told.fields[number];
  $("field").value = String(number);
  $("title").textContent = field.name;
  say("field-error", field.error);
  $("viewer").hidden = $("download").hidden = $("notes").hidden = Boolean(field.error);
  $("trust").replaceChildren(...(field.error ? [] : trust(field)));
  if (field.error) return;
  $("download").textContent = `Download OME-TIFF (${bytes(field.bytes)})`;
  const notes = [`${field.width} × ${field.height} px, ${depth(field.layers.find((l) => l.kind === "stain").dtype)}${field.pixel_size ? `, ${Number(field.pixel_size.toPrecision(4))} µm a pixel` : ""}. What is shown is reduced to the screen; the file has every pixel.`];
  $("by").textContent = `predicted by ${shown.told.model}`;
  $("notes").querySelector("ul").replaceChildren(...notes.map((text) => element("li", { textContent: text })));
  for (const side of ["left", "right"]) {
    $(side).replaceChildren(...field.layers.map((layer, i) => element("option", { value: String(i), textContent: layerName(layer) })));
  }
  if (anew) shown.sides = { left: 0, right: field.layers.findIndex((layer) => layer.kind === "stain") };
  $("left").value = String(shown.sides.left);
  $("right").value = String(shown.sides.right);
  viewer.open(field);
}

function trust(field) {
  const parts = shown.told.verdicts.map((verdict) => verdictLine("p", verdict, verdict.text));
  if (field.warnings.length) {
    parts.push(element("div", { className: "line warn" },
      element("strong", { textContent: "Trust this prediction less: the image is unlike those that the model learnt from." }),
      element("ul", {}, ...field.warnings.map((text) => element("li", { textContent: text })))));
  } else {
    // An image like those of the training makes no bad model good.
    const usable = shown.told.verdicts.every((verdict) => verdict.level === "use");
    parts.push(element("p", { className: usable ? "line good" : "line",
      textContent: `${usable ? "No warning: brightness" : "Brightness"}, contrast, noise and sharpness are like those of the training images.` }));
  }
  const soft = (text) => element("p", { className: "soft", textContent: text });
  parts.push(...field.notes.map(soft));
  for (const width of field.layers.filter((layer) => layer.kind === "halfwidth")) {
    const target = width.channel.replace(/_halfwidth\d+$/, "");
    const stain = field.layers.find((layer) => layer.kind === "stain" && layer.channel === target);
    const share = Math.round(100 * width.bright / (stain.training[1] - stain.training[0]));
    parts.push(soft(`${target}: prediction ± ${grey(width.bright)} grey values where the stain is bright (${share} % of its range), ± ${grey(width.median)} in the median pixel.`));
  }
  return parts;
}

$("download").addEventListener("click", () => download(`/api/jobs/${shown.job}/file?field=${shown.field}`));
$("download-all").addEventListener("click", () => download(`/api/jobs/${shown.job}/all`));
$("field").addEventListener("change", () => showField(Number($("field").value), false));

// ---------------------------------------------------------------- colours and contrast

const fire = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
const ramp = (colours) => Array.from({ length: 256 }, (_, i) => {
  const x = (i / 255) * (colours.length - 1), k = Math.min(Math.floor(x), colours.length - 2);
  return colours[k].map((c, j) => Math.round(c + (x - k) * (colours[k + 1][j] - c)));
});
const MAPS = {
  grey: ramp([[0, 0, 0], [255, 255, 255]]), "grey, inverted": ramp([[255, 255, 255], [0, 0, 0]]),
  blue: ramp([[0, 0, 0], [40, 110, 255], [190, 220, 255]]), green: ramp([[0, 0, 0], [0, 255, 0]]), red: ramp([[0, 0, 0], [255, 40, 40]]),
  magenta: ramp([[0, 0, 0], [255, 0, 255]]), cyan: ramp([[0, 0, 0], [0, 255, 255]]), yellow: ramp([[0, 0, 0], [255, 255, 0]]), fire: ramp(fire),
};

// Of a layer: kept for the field's other layers of that name, since fields are compared.
function contrast(layer) {
  const key = `${shown.field}/${layer.kind}/${layer.channel}`;
  if (!shown.contrast.has(key)) {
    const black = layer.kind === "halfwidth" ? 0 : layer.black;
    shown.contrast.set(key, { black, white: Math.max(layer.white, black + 1e-9), map: shown.contrast.get(`map/${layer.kind}/${layer.channel}`) || (layer.kind === "halfwidth" ? "fire" : "grey") });
  }
  return shown.contrast.get(key);
}

function table(layer) {
  const { black, white, map } = contrast(layer);
  const colours = new Uint32Array(MAPS[map].map(([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r));
  const codes = new Uint32Array(65536), factor = 255 / (white - black);
  for (let code = 0; code < 65536; code++) {
    const shade = (layer.offset + layer.step * code - black) * factor;
    codes[code] = colours[shade <= 0 ? 0 : shade >= 255 ? 255 : Math.round(shade)];
  }
  return codes;
}

function paint(tile, layer) {
  const state = contrast(layer), key = `${state.black} ${state.white} ${state.map}`;
  if (tile.key === key) return;
  const codes = table(layer), image = new ImageData(tile.w, tile.h), out = new Uint32Array(image.data.buffer);
  for (let i = 0; i < out.length; i++) out[i] = codes[tile.codes[i]];
  tile.bitmap ??= element("canvas", { width: tile.w, height: tile.h });
  tile.bitmap.getContext("2d").putImageData(image, 0, 0);
  tile.key = key;
}

// ---------------------------------------------------------------- the picture

const viewer = {
  field: null, tiles: new Map(), scale: 1, x: 0, y: 0, timer: 0, turn: 0, pending: 0,

  open(field) {
    this.field = field;
    this.tiles = new Map();
    this.turn += 1;
    const ratio = field.width / field.height;
    for (const id of ["stack", "slider"]) $(id).style.width = `min(100%, ${72 * ratio}vh)`;
    $("canvas").style.aspectRatio = `${field.width} / ${field.height}`;
    this.fit();
    this.sides();
  },

  // Of the layers that are looked at, the whole at first and the part on the screen where that is finer.
  async load(number) {
    const whole = { top: 0, left: 0, height: this.field.height, width: this.field.width };
    if (!this.tiles.has(number)) {
      this.tiles.set(number, { whole: null, part: null });
      await this.fetch(number, whole, "whole");
    }
  },

  async fetch(number, box, slot) {
    const { turn } = this;
    this.pending += 1;
    $("stack").setAttribute("aria-busy", "true");
    if (slot === "part") this.tiles.get(number).wanted = box;
    try {
      await this.receive(number, box, slot);
    } catch (error) {
      if (turn === this.turn) say("field-error", error.message);
    }
    this.pending -= 1;
    $("stack").setAttribute("aria-busy", String(this.pending > 0));
  },

  async receive(number, box, slot) {
    const { turn } = this;
    const url = `/api/jobs/${shown.job}/pixels?field=${shown.field}&layer=${number}&top=${box.top}&left=${box.left}&height=${box.height}&width=${box.width}`;
    const answer = await request("GET", url);
    const codes = new Uint16Array(await answer.arrayBuffer());
    if (turn !== this.turn || (slot === "part" && this.tiles.get(number).wanted !== box)) return; // another was asked for since
    const tile = { ...box, h: Number(answer.headers.get("X-Height")), w: Number(answer.headers.get("X-Width")), codes, key: "", bitmap: null };
    this.tiles.get(number)[slot] = tile;
    if (slot === "whole") for (const side of ["left", "right"]) if (shown.sides[side] === number) histogram(side);
    this.draw();
  },

  finer() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const canvas = $("canvas"), { field } = this;
      const left = Math.max(0, Math.floor(this.x)), top = Math.max(0, Math.floor(this.y));
      const box = { left, top, width: Math.min(field.width - left, Math.ceil(canvas.clientWidth / this.scale) + 1), height: Math.min(field.height - top, Math.ceil(canvas.clientHeight / this.scale) + 1) };
      for (const number of new Set(Object.values(shown.sides))) {
        const whole = this.tiles.get(number)?.whole;
        if (whole && whole.w < field.width && this.scale > (1.02 * whole.w) / field.width * Math.min(1, canvas.clientWidth / whole.w)
          && (box.width < field.width || box.height < field.height)) this.fetch(number, box, "part");
      }
    }, 160);
  },

  sides() {
    const field = this.field;
    for (const side of ["left", "right"]) {
      const number = shown.sides[side], width = this.widthOf(number);
      $(`tag-${side}`).textContent = layerName(field.layers[number]);
      contrastControls(side);
      this.load(number);
      if (width >= 0) this.load(width); // for what the pointer reads
    }
    $("canvas").setAttribute("aria-label", `${field.name}: left ${layerName(field.layers[shown.sides.left])}, right ${layerName(field.layers[shown.sides.right])}`);
    this.draw();
    this.finer();
  },

  least() { return $("canvas").clientWidth / this.field.width; },

  fit() { this.scale = this.least(); this.x = this.y = 0; this.moved(); },

  // Zoom by a factor, so that the image's point under (px, py) of the canvas stays there.
  zoom(factor, px = $("canvas").clientWidth / 2, py = $("canvas").clientHeight / 2) {
    const scale = Math.min(Math.max(this.scale * factor, this.least()), 16);
    this.x += px / this.scale - px / scale;
    this.y += py / this.scale - py / scale;
    this.scale = scale;
    this.moved();
  },

  moved() {
    const canvas = $("canvas"), { field } = this;
    this.x = Math.min(Math.max(this.x, 0), Math.max(0, field.width - canvas.clientWidth / this.scale));
    this.y = Math.min(Math.max(this.y, 0), Math.max(0, field.height - canvas.clientHeight / this.scale));
    canvas.classList.toggle("far", this.scale > 1.01 * this.least());
    $("zoom").textContent = `${Math.round(100 * this.scale)} %`;
    if (field.pixel_size) {
      const wide = canvas.clientWidth / this.scale * field.pixel_size / 4, power = 10 ** Math.floor(Math.log10(wide));
      const length = [5, 2, 1].map((n) => n * power).find((n) => n <= wide);
      $("bar").textContent = `${Number(length.toPrecision(1))} µm`;
      $("bar").style.width = `${length / field.pixel_size * this.scale}px`;
    }
    $("bar").hidden = !field.pixel_size;
    this.draw();
    this.finer();
  },

  draw() {
    const canvas = $("canvas"), dense = devicePixelRatio || 1;
    if (!this.field || !canvas.clientWidth) return;
    const width = Math.round(canvas.clientWidth * dense), height = Math.round(canvas.clientHeight * dense);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, width, height);
    const line = Math.round(shown.at * width), scale = this.scale * dense;
    for (const [side, from, to] of [["left", 0, line], ["right", line, width]]) {
      const number = shown.sides[side], tiles = this.tiles.get(number);
      if (!tiles || to <= from) continue;
      pen.save();
      pen.beginPath();
      pen.rect(from, 0, to - from, height);
      pen.clip();
      for (const tile of [tiles.whole, tiles.part]) {
        if (!tile) continue;
        paint(tile, this.field.layers[number]);
        pen.imageSmoothingEnabled = scale * tile.width / tile.w < 3;
        pen.drawImage(tile.bitmap, (tile.left - this.x) * scale, (tile.top - this.y) * scale, tile.width * scale, tile.height * scale);
      }
      pen.restore();
    }
    $("divider").style.left = `${100 * shown.at}%`;
  },

  // Grey value of a layer at a point of the image; null where it is not loaded.
  value(number, x, y) {
    const tiles = this.tiles.get(number), layer = this.field.layers[number];
    const tile = [tiles?.part, tiles?.whole].find((t) => t && x >= t.left && y >= t.top && x < t.left + t.width && y < t.top + t.height);
    if (!tile) return null;
    const column = Math.min(tile.w - 1, Math.floor((x - tile.left) / tile.width * tile.w));
    const row = Math.min(tile.h - 1, Math.floor((y - tile.top) / tile.height * tile.h));
    return layer.offset + layer.step * tile.codes[row * tile.w + column];
  },

  // The layer that tells how far a stain may be off; -1 where there is none.
  widthOf(number) {
    const { kind, channel } = this.field.layers[number];
    return kind === "stain" ? this.field.layers.findIndex((other) => other.kind === "halfwidth" && layerName(other) === `${channel} ± uncertainty`) : -1;
  },

  read(x, y) {
    if (x < 0 || y < 0 || x >= this.field.width || y >= this.field.height) return;
    const values = [...new Set(Object.values(shown.sides))].map((number) => {
      const value = this.value(number, x, y), width = this.widthOf(number);
      const off = width < 0 ? null : this.value(width, x, y);
      return value === null ? "" : `${layerName(this.field.layers[number])} ${grey(value)}${off === null ? "" : ` ± ${grey(off)}`}`;
    });
    $("readout").textContent = [`x ${Math.floor(x)}, y ${Math.floor(y)}`, ...values].filter(Boolean).join(" \u00b7 ");
  },
};

function slide(share) {
  shown.at = Math.min(Math.max(share, 0), 1);
  $("slider").value = String(100 * shown.at);
  $("slider").setAttribute("aria-valuetext", `left image on ${Math.round(100 * shown.at)} % of the width`);
  viewer.draw();
}

$("slider").addEventListener("input", () => slide($("slider").value / 100));
for (const side of ["left", "right"]) {
  $(side).addEventListener("change", () => { shown.sides[side] = Number($(side).value); viewer.sides(); });
}

// Near the line a drag moves the line; elsewhere it moves an enlarged image, or the line again.
let drag = null;
const point = (event) => { const box = $("canvas").getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
$("canvas").addEventListener("pointerdown", (event) => {
  const [px, py] = point(event);
  $("canvas").setPointerCapture(event.pointerId);
  const near = Math.abs(px - shown.at * $("canvas").clientWidth) < 24;
  drag = { pan: !near && $("canvas").classList.contains("far"), px, py };
  if (!drag.pan) slide(px / $("canvas").clientWidth);
});
$("canvas").addEventListener("pointermove", (event) => {
  const [px, py] = point(event);
  if (viewer.field) viewer.read(viewer.x + px / viewer.scale, viewer.y + py / viewer.scale);
  if (!drag) return;
  if (drag.pan) {
    viewer.x -= (px - drag.px) / viewer.scale;
    viewer.y -= (py - drag.py) / viewer.scale;
    Object.assign(drag, { px, py });
    viewer.moved();
  } else slide(px / $("canvas").clientWidth);
});
for (const end of ["pointerup", "pointercancel"]) $("canvas").addEventListener(end, () => { drag = null; });
$("canvas").addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey && !$("canvas").matches(":focus")) return; // the page scrolls
  event.preventDefault();
  viewer.zoom(Math.exp(-event.deltaY / 400), ...point(event));
}, { passive: false });
$("canvas").addEventListener("keydown", (event) => {
  const step = 60 / viewer.scale;
  const keys = { "+": () => viewer.zoom(1.5), "=": () => viewer.zoom(1.5), "-": () => viewer.zoom(1 / 1.5), 0: () => viewer.fit(),
    ArrowLeft: () => { viewer.x -= step; viewer.moved(); }, ArrowRight: () => { viewer.x += step; viewer.moved(); },
    ArrowUp: () => { viewer.y -= step; viewer.moved(); }, ArrowDown: () => { viewer.y += step; viewer.moved(); } };
  if (keys[event.key] && !event.ctrlKey && !event.metaKey) { event.preventDefault(); keys[event.key](); }
});
$("zoom-in").addEventListener("click", () => viewer.zoom(1.5));
$("zoom-out").addEventListener("click", () => viewer.zoom(1 / 1.5));
$("zoom-fit").addEventListener("click", () => viewer.fit());
$("zoom-one").addEventListener("click", () => viewer.zoom(1 / viewer.scale));
let fitted = 0;
new ResizeObserver(() => {
  if (!viewer.field || $("canvas").clientWidth === fitted) return;
  const whole = !$("canvas").classList.contains("far");
  fitted = $("canvas").clientWidth;
  if (whole) viewer.fit(); else viewer.moved();
}).observe($("canvas"));
$("save").addEventListener("click", () => $("canvas").toBlob((blob) => {
  const link = element("a", { href: URL.createObjectURL(blob), download: `${viewer.field.name}_view.png` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}));

// ---------------------------------------------------------------- contrast controls, one set a side

const panel = (side) => document.querySelector(`.contrast[data-side="${side}"]`);
const layerOf = (side) => viewer.field.layers[shown.sides[side]];

// What the sliders span: twice what is shown at first, so that one bright speck does not rule them.
function span(layer) {
  const { black, white } = contrast(layer), width = layer.white - layer.black || 1;
  return [Math.min(black, Math.max(layer.low, layer.black - width / 2)), Math.max(white, Math.min(layer.high, layer.white + width), layer.black + width / 100)];
}

function contrastControls(side) {
  const box = panel(side), layer = layerOf(side), state = contrast(layer), [low, high] = span(layer);
  box.querySelector("legend").textContent = layerName(layer);
  for (const end of ["black", "white"]) {
    const slider = box.querySelector(`.${end}`), number = box.querySelector(`.${end}-number`);
    Object.assign(slider, { min: low, max: high, step: layer.dtype === "float32" || high - low < 100 ? (high - low) / 500 || 1 : Math.max(1, Math.round((high - low) / 500)) });
    slider.value = state[end];
    slider.setAttribute("aria-label", `${end} point of ${layerName(layer)}`);
    if (document.activeElement !== number) number.value = grey(state[end]);
  }
  box.querySelector(".map select").value = state.map;
  histogram(side);
}

function histogram(side) {
  const canvas = panel(side).querySelector(".histogram"), layer = layerOf(side), tile = viewer.tiles.get(shown.sides[side])?.whole;
  const pen = canvas.getContext("2d"), { width, height } = canvas, [low, high] = span(layer), state = contrast(layer);
  pen.clearRect(0, 0, width, height);
  if (!tile) return;
  if (tile.counts?.span !== `${low} ${high}`) {
    const counts = new Float64Array(width);
    for (const code of tile.codes) {
      const bin = Math.floor((layer.offset + layer.step * code - low) / (high - low) * width);
      if (bin >= 0 && bin < width) counts[bin] += 1;
    }
    tile.counts = { span: `${low} ${high}`, heights: counts.map((n) => Math.log1p(n)) };
  }
  const style = getComputedStyle(document.documentElement), most = Math.max(...tile.counts.heights) || 1;
  pen.fillStyle = style.getPropertyValue("--soft");
  tile.counts.heights.forEach((n, x) => pen.fillRect(x, height - n / most * (height - 4), 1, height));
  pen.strokeStyle = style.getPropertyValue("--accent");
  pen.lineWidth = 2;
  const [black, white] = [state.black, state.white].map((value) => (value - low) / (high - low) * width);
  pen.beginPath();
  pen.moveTo(black, height);
  pen.lineTo(white, 1);
  pen.stroke();
}

function setContrast(side, change) {
  const layer = layerOf(side), state = contrast(layer);
  const least = layer.dtype === "float32" ? (layer.high - layer.low) / 1e4 || 1e-9 : 1;
  if ("black" in change && !("white" in change)) change.black = Math.min(change.black, state.white - least);
  if ("white" in change && !("black" in change)) change.white = Math.max(change.white, state.black + least);
  Object.assign(state, change);
  if (state.white <= state.black) state.white = state.black + least;
  if (change.map) shown.contrast.set(`map/${layer.kind}/${layer.channel}`, change.map);
  for (const each of ["left", "right"]) contrastControls(each); // both may show one layer
  viewer.draw();
}

for (const side of ["left", "right"]) {
  const box = panel(side);
  for (const end of ["black", "white"]) {
    box.querySelector(`.${end}`).addEventListener("input", (event) => setContrast(side, { [end]: Number(event.target.value) }));
    box.querySelector(`.${end}-number`).addEventListener("change", (event) => {
      if (event.target.value !== "" && Number.isFinite(Number(event.target.value))) setContrast(side, { [end]: Number(event.target.value) });
      event.target.value = grey(contrast(layerOf(side))[end]);
    });
  }
  box.querySelector(".auto").addEventListener("click", () => {
    const layer = layerOf(side);
    setContrast(side, { black: layer.kind === "halfwidth" ? 0 : layer.black, white: layer.white });
  });
  box.querySelector(".training").addEventListener("click", () => { const [black, white] = layerOf(side).training; setContrast(side, { black, white }); });
  box.querySelector(".full").addEventListener("click", () => { const { low, high } = layerOf(side); setContrast(side, { black: low, white: high }); });
  const maps = box.querySelector(".map select");
  maps.append(...Object.keys(MAPS).map((name) => element("option", { value: name, textContent: name })));
  maps.addEventListener("change", () => setContrast(side, { map: maps.value }));
}

// ---------------------------------------------------------------- start

async function begin() {
  try {
    const settings = await ask("GET", "/api/settings");
    mostBytes = settings.upload_mb * 2 ** 20;
    $("version").textContent = `vfn ${settings.version}`;
    $("refresh").textContent = `Look again in ${settings.runs}`;
    $("from").hidden = !settings.folders.length;
    $("root").replaceChildren(...settings.folders.map((name, i) => element("option", { value: String(i), textContent: name })));
    $("root").value = String(place.root);
  } catch (error) {
    $("models").replaceChildren(element("p", { className: "line bad", textContent: error.message }));
    return;
  }
  await listModels();
}

begin();
ready();
