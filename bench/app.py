"""The local page with real images, in a headless browser: does it give what predict.py gives, and how fast?

    python bench/app.py --data ../shared/data --runs outputs/app --check

A small model is trained on the JUMP field for --max-time; then the page predicts that field, dropped
file by file, and a field of other cells, which must raise the input-shift alarm. --check fails if a
downloaded file differs from predict.py's, an alarm is missing or wrong, or the page asks anybody else.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

REPOSITORY = Path(__file__).resolve().parent.parent
FIELD = "u2os_cps/jump_5ch"
INPUTS = {"golgi_actin": "ch5sk1fk1fl1", "rna": "ch2sk1fk1fl1"}
OTHERS = ("other_cps/a549_3ch", "r01c01f01p01")  # other cells, the same microscope and stains
TRAIN = [
    "data=folder", "data.split=spatial", "task=er", "logger=csv",
    "data.channels={mito:ch1sk1fk1fl1,rna:ch2sk1fk1fl1,er:ch3sk1fk1fl1,dna:ch4sk1fk1fl1,golgi_actin:ch5sk1fk1fl1}",
    "model=virfluonet", "model.generator.width=16", "model.discriminator.width=16", "trainer.max_epochs=100000",
]  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 120_000  # ms


def call(*command: str) -> None:
    """Run a command as a user would; its exit code must be 0."""
    print("$ python", *command, flush=True)
    subprocess.run([sys.executable, *command], cwd=REPOSITORY, check=True)


def predicted(tab: Any, files: list[Path], channels: dict[str, str]) -> float:
    """Give the page `files`, say which is which channel, and predict; returns seconds until it is shown."""
    if tab.locator("#clear").is_visible():
        tab.click("#clear")
    tab.set_input_files("#files", files)
    tab.wait_for_selector(f"#fields select >> nth={len(channels) - 1}")
    for channel, name in channels.items():
        select = tab.get_by_label(f"image for {channel}")
        select.locator("option", has_text=name).first.wait_for(state="attached", timeout=PATIENCE)
        select.select_option(label=name)
    start = time.monotonic()
    tab.wait_for_selector("#predict:enabled")
    tab.click("#predict")
    tab.wait_for_selector("#progress", state="visible")
    tab.wait_for_selector("#progress", state="hidden", timeout=PATIENCE)
    tab.wait_for_selector("#viewer", timeout=PATIENCE)
    return time.monotonic() - start


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument("--runs", type=Path, default=Path("outputs/app"))
    parser.add_argument("--max-time", default="00:00:00:15")
    parser.add_argument("--check", action="store_true", help="fail where anything is wrong")
    args = parser.parse_args()
    data, runs = args.data.absolute(), args.runs.absolute()
    shutil.rmtree(runs, ignore_errors=True)
    call(
        "train.py", f"run={runs}/er", f"data.root={data / FIELD}", *TRAIN,
        f"trainer.max_time={args.max_time}",
    )  # fmt: skip
    ckpt = runs / "er" / "checkpoints" / "best.ckpt"
    call("-m", "vfn.calibrate", f"ckpt={ckpt}", "steps=10")
    call(
        "predict.py",
        f"ckpt={ckpt}",
        f"input={data / FIELD}",
        f"output={runs}/out",
        "uncertainty=0.9",
    )
    (truth,) = (runs / "out").glob("*.ome.tif")

    command = [sys.executable, "-m", "vfn.app", f"runs={runs}", "port=0"]
    app = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    wrong, strangers = [], []
    try:
        assert app.stdout is not None
        url = app.stdout.readline().split()[1]
        own = url.split("#")[0]
        with sync_playwright() as playwright:
            path = next(filter(None, map(shutil.which, NAMES)), None)
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            tab = browser.new_page(accept_downloads=True)
            tab.on(
                "request",
                lambda r: r.url.startswith((own, "data:", "blob:")) or strangers.append(r.url),
            )
            tab.goto(url)
            tab.wait_for_selector(".model")
            files = {c: next((data / FIELD).glob(f"*{token}*")) for c, token in INPUTS.items()}
            names = {channel: file.name for channel, file in files.items()}
            seconds = predicted(tab, list(files.values()), names)
            print(f"1080 x 1080, two inputs: shown after {seconds:.1f} s")
            with tab.expect_download() as download:
                tab.click("#download")
            if Path(download.value.path()).read_bytes() != truth.read_bytes():
                wrong.append(f"{download.value.suggested_filename} is not what predict.py wrote")
            if "unlike" in tab.locator("#trust").inner_text():
                wrong.append("an alarm on the field that the model was trained on")
            place, stem = OTHERS
            others = {
                c: next((data / place).glob(f"{stem}-{t}*"))
                for c, t in (("golgi_actin", "ch2"), ("rna", "ch3"))
            }
            predicted(tab, list(others.values()), {c: f.name for c, f in others.items()})
            if "unlike" not in tab.locator("#trust").inner_text():
                wrong.append("no alarm on another cell line")
            print(tab.locator("#trust").inner_text())
            browser.close()
    finally:
        app.terminate()
        code = app.wait(30)
    if code != 130:
        wrong.append(f"the page ended with exit code {code}, not 130")
    wrong += [f"the page asked {stranger}" for stranger in strangers]
    print(f"{len(wrong)} disagreements")
    print(*wrong, sep="\n")
    if wrong and args.check:
        sys.exit(1)


if __name__ == "__main__":
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    main()
