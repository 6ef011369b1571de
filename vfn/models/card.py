"""The model card of a checkpoint: its data, training, scores and limits, as plain data.

Training writes it into the checkpoint's recipe; checkpoints of earlier versions have one of what their
recipe tells. What a stranger's card says is printed, never obeyed.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch

from vfn.data.input_shift import number
from vfn.errors import UserError
from vfn.models.intervals import units_of
from vfn.models.nets import name_of
from vfn.models.verdicts import FIGURES, StainVerdict, stain_verdicts
from vfn.models.words import counted, duration, plain, text

NOT_STATED = "not stated"
PARTS = {"train": "training", "val": "validation", "test": "testing"}
SEEN = ("background", "mean", "bright", "contrast", "noise", "sharpness")  # of the envelopes
Card = dict[str, Any]


@dataclass(frozen=True)
class About:
    """The settings `card` of `conf/train.yaml`.

    Attributes:
        licence: of the weights.
        note: what the model is for, and what it is not, in its maker's words; empty for nothing.
    """

    licence: str = NOT_STATED
    note: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> "About":
        """Read the config; run folders of earlier versions have none.

        Raises:
            UserError: a licence or a note that is no text.
        """
        given = {key: value for key, value in (data or {}).items() if value is not None}
        for key, value in given.items():
            if not isinstance(value, str) or not value.strip():
                raise UserError(f"card.{key}={value}: give a text, in quotes, or null")
        return cls(**given)


def make_card(recipe: Mapping[str, Any], about: About, counts: Mapping[str, Any]) -> Card:
    """Return the card of a model that was not trained yet.

    Args:
        recipe: of its checkpoint.
        about: what the user says of it.
        counts: part of the split -> samples, fields, wells, plates, as far as they are known.
    """
    task, split = recipe["task"], recipe["split"]
    card = {
        "made": {
            "vfn": str(recipe["version"]),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "lightning": str(lightning.__version__),
        },
        "task": dict(task),
        "data": {
            "name": recipe["data"]["name"],
            "split_by": split["by"],
            "pixel_size": recipe.get("pixel_size"),
            "parts": {part: dict(counts[part]) for part in PARTS},
        },
        "inputs": [
            {
                **_range(name, fitted),
                "seen": {k: list(v) for k, v in envelope["seen"].items() if k in SEEN},
            }
            for name, fitted, envelope in zip(
                task["inputs"], recipe["inputs"], recipe["envelopes"], strict=True
            )
        ],
        "targets": [
            _range(name, fitted)
            for name, fitted in zip(task["targets"], recipe["targets"], strict=True)
        ],
        "network": {"model": recipe["model"], "generator": name_of(recipe["generator"])},
        "training": None,
        "validation": None,
        "test": None,
        "licence": about.licence,
        "note": about.note,
    }
    return {**card, "limits": limits(card)}


def _range(channel: str, fitted: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "channel": channel,
        "dtype": fitted["dtype"],
        "low": fitted["low"],
        "high": fitted["high"],
    }


def updated(card: Mapping[str, Any], **parts: Any) -> Card:
    """Return `card` with other parts and the limits that follow."""
    new = {**card, **parts}
    return {**new, "limits": limits(new)}


def limits(card: Mapping[str, Any]) -> list[str]:
    """Return sentences on the images and uses that the model is not for."""
    data, task = card["data"], card["task"]
    train = data["parts"]["train"]
    shown = ", ".join(
        counted(train[f"{word}s"], word) for word in ("field", "well", "plate") if train[f"{word}s"]
    )
    said = [
        f"Trained on {shown} of data={data['name']}. Cells, stains, treatments, microscopes and exposures "
        "that these do not show were never seen; python predict.py warns of inputs whose "
        "brightness, contrast, noise or sharpness lies outside of theirs."
    ]
    if data["name"] == "simulated":
        said.append("Trained on simulated cells: it knows nothing of real images.")
    if train["plates"] == 1:
        said.append("All training fields are of one plate: another day's staining was never seen.")
    size = data["pixel_size"]
    said.append(
        f"Pixels are {size:g} um: images of another magnification must be resampled to that."
        if size
        else "The training images did not state their pixel size: give it images of the same magnification."
    )
    if task["input_z"]:
        planes = ", ".join(f"{z:g}" for z in task["input_z"])
        said.append(f"Inputs lie at {planes} um from focus; others were never seen.")
    if data["split_by"] == "spatial":
        said.append(
            "Training and testing parts lie in the same fields: scores are those of new areas, not of "
            "new experiments."
        )
    found = card["validation"]
    if found and found["mae"] is not None and found["baselines"]:
        best = min(found["baselines"], key=found["baselines"].get)
        if found["mae"] >= found["baselines"][best]:
            said.append(
                f"It does not beat the baseline that costs nothing ({best}) on the validation "
                "fields: it has learnt nothing more than that."
            )
    said.append(
        "A predicted stain is an estimate, not a measurement: what the inputs do not show cannot be "
        "there for sure. Not for diagnosis."
    )
    return said


def card_of(recipe: Mapping[str, Any]) -> Card:
    """Return the card of a checkpoint, with what was added since it was made; without one, what the
    recipe tells.

    Raises:
        UserError: it is damaged.
    """
    try:
        card = recipe.get("card")
        if card is None:
            card = make_card(recipe, About(), _counts(recipe["split"]))
            # What runs here is not what it was made with.
            card["made"] = {"vfn": str(recipe["version"])}
        calibrated = recipe.get("uncertainty")
        counts = None if calibrated is None else [int(n) for n in calibrated["fields"]]
        units = [] if calibrated is None else units_of(calibrated)
        card = {**card, "intervals": counts, "interval_units": units}
        if list(card["task"]["targets"]) != list(recipe["task"]["targets"]):
            raise ValueError("it is of another task")
        markdown(card)  # says whether all of it is there
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as exc:
        raise UserError(
            f"its model card is damaged ({type(exc).__name__}: {exc}); train anew"
        ) from exc
    return card


def verdicts_of(recipe: Mapping[str, Any]) -> tuple[StainVerdict, ...]:
    """Return the verdict on each stain of a checkpoint, or one that says that its card is damaged."""
    try:
        return stain_verdicts(card_of(recipe))
    except UserError as exc:
        return (StainVerdict("", None, plain(exc)),)


def _counts(split: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Count the samples of a recipe, which tells only their names."""
    return {
        part: {"views": len(split[part]), "fields": len(split[part]), "wells": 0, "plates": 0}
        for part in PARTS
    }


def markdown(card: Mapping[str, Any]) -> str:
    """Return the card as a page."""
    task, data = card["task"], card["data"]
    about = [
        f"# {text(' + '.join(task['inputs']))} to {text(', '.join(task['targets']))}",
        f"Virtual fluorescence staining: predicts {text(', '.join(task['targets']))} from "
        f"{text(' + '.join(task['inputs']))} of the same field of view.",
    ]
    if card["note"]:
        about.append(text(card["note"]))
    about.append(f"Licence of the weights: {text(card['licence'])}.")
    verdicts = [f"- {text(verdict.text)}" for verdict in stain_verdicts(card)]
    sections = [
        ("Verdict", ["\n".join(verdicts)]),
        ("Data", _data_lines(data)),
        ("Inputs", [_table(card["inputs"]), *_seen_lines(card["inputs"])]),
        ("Outputs", [_table(card["targets"])]),
        ("Training", _training_lines(card)),
        ("Scores", _score_lines(card)),
        ("Limits", ["\n".join(f"- {text(line)}" for line in card["limits"])]),
    ]
    pages = ["\n\n".join(about)]
    pages += [f"## {title}\n\n" + "\n\n".join(parts) for title, parts in sections]
    return "\n\n".join(pages) + "\n"


def _data_lines(data: Mapping[str, Any]) -> list[str]:
    size = data["pixel_size"]
    keys = ("fields", "wells", "plates")
    rows = [
        f"| {name} | " + " | ".join(str(int(data["parts"][part][key]) or "") for key in keys) + " |"
        for part, name in PARTS.items()
    ]
    return [
        f"Data set {text(data['name'])}, split by {text(data['split_by'])}; pixel size "
        f"{f'{float(size):g} um' if size else NOT_STATED}.",
        "\n".join(["| part | fields | wells | plates |", "| --- | --- | --- | --- |", *rows]),
    ]


def _table(channels: Sequence[Mapping[str, Any]]) -> str:
    head = "| channel | dtype | grey values that become -1 to 1 |\n| --- | --- | --- |"
    return "\n".join(
        [
            head,
            *(
                f"| {text(c['channel'])} | {text(c['dtype'])} | "
                f"{float(c['low']):g} to {float(c['high']):g} |"
                for c in channels
            ),
        ]
    )


def _seen_lines(channels: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of the statistics of the training fields."""
    shown = [key for key in SEEN if all(key in c["seen"] for c in channels)]
    rows = [
        f"| {text(c['channel'])} | "
        + " | ".join(" to ".join(number(float(v)) for v in c["seen"][key]) for key in shown)
        + " |"
        for c in channels
    ]
    head = [f"| training fields | {' | '.join(shown)} |", f"|{' --- |' * (len(shown) + 1)}"]
    return ["\n".join([*head, *rows])]


def _training_lines(card: Mapping[str, Any]) -> list[str]:
    network, made, spent = card["network"], card["made"], card["training"]
    versions = ", ".join(f"{text(name)} {text(version)}" for name, version in made.items())
    kind = f"Model {text(network['model'])}, generator {text(network['generator'])}"
    if not spent:
        return [f"{kind}; {versions}."]
    return [
        f"{kind} of {int(spent['parameters']):,} parameters; {versions}.",
        f"{duration(float(spent['seconds']))} on {text(spent['device'])} "
        f"({counted(int(spent['processes']), 'process')}, {text(spent['precision'])}), {text(spent['date'])}: "
        f"epoch {int(spent['epoch'])}, {counted(int(spent['steps']), 'step')}, "
        f"{counted(int(spent['patches']), 'patch')} of {int(spent['patch_size'])} x {int(spent['patch_size'])} px.",
    ]


def _score_lines(card: Mapping[str, Any]) -> list[str]:
    lines = []
    found, tested, intervals = card["validation"], card["test"], card["intervals"]
    if found:
        rivals = ", ".join(f"{text(k)} {float(v):.4f}" for k, v in found["baselines"].items())
        figure, psnr = (found["mae"], found["psnr"])
        lines.append(
            f"Validation, {counted(int(found['patches']), 'patch')}: mean absolute error "
            f"{'undefined' if figure is None else f'{float(figure):.4f}'} of [-1, 1]"
            + ("" if psnr is None else f" (PSNR {float(psnr):.1f} dB)")
            + f"; baselines: {rivals}."
        )
    else:
        lines.append("Validation figures are not in this checkpoint.")
    if tested:
        head = [f"| test | fields | verdict | {' | '.join(FIGURES)} |", f"|{' --- |' * 8}"]
        rows = [
            f"| {text(channel)} | {int(row['fields'])} | {text(row['verdict'])} | "
            + " | ".join("" if row[k] is None else f"{float(row[k]):.4g}" for k in FIGURES)
            + " |"
            for channel, row in tested.items()
            if channel in card["task"]["targets"]
        ]
        lines.append("\n".join([*head, *rows]))
    lines.append(
        "Not calibrated: no intervals (python -m vfn.calibrate ckpt=CKPT)."
        if intervals is None
        else "Intervals: calibrated on "
        + ", ".join(
            counted(n, f"validation {unit}")
            for n, unit in zip(intervals, card["interval_units"], strict=True)
        )
        + "."
    )
    return lines


__all__ = ["About", "card_of", "make_card", "markdown", "updated", "verdicts_of"]
