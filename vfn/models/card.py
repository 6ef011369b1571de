"""The model card of a checkpoint: its data, training, scores and limits, as plain data.

Training writes it into the checkpoint's recipe. What a stranger's card says is printed, never obeyed.
"""

import platform
from collections.abc import Iterable, Mapping, Sequence
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
EACH_FIELD = " spreads from the median of each field, in which the next table's levels are, too"
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
    def from_dict(cls, data: Mapping[str, Any]) -> "About":
        """Read the config.

        Raises:
            UserError: a licence or a note that is no text.
        """
        given = {key: value for key, value in data.items() if value is not None}
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
    task = recipe["task"]
    made = {"vfn": str(recipe["version"]), "python": platform.python_version()}
    made |= {"torch": str(torch.__version__), "lightning": str(lightning.__version__)}
    inputs = _ranges(task["inputs"], recipe["inputs"])
    for channel, envelope in zip(inputs, recipe["envelopes"], strict=True):
        channel["seen"] = {k: list(v) for k, v in envelope["seen"].items() if k in SEEN}
    card = {
        "made": made,
        "task": dict(task),
        "data": {
            "name": recipe["data"]["name"],
            "split_by": recipe["split"]["by"],
            "pixel_size": recipe["pixel_size"],
            "parts": {part: dict(counts[part]) for part in PARTS},
        },
        "inputs": inputs,
        "targets": _ranges(task["targets"], recipe["targets"]),
        "network": {"model": recipe["model"], "generator": name_of(recipe["generator"])},
        **dict.fromkeys(("training", "validation", "test")),
        "licence": about.licence,
        "note": about.note,
    }
    return updated(card)


def _ranges(channels: Sequence[str], fitted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "channel": name,
            **{key: one[key] for key in ("dtype", "low", "high")},
            "per_field": bool(one.get("per_field", False)),
        }
        for name, one in zip(channels, fitted, strict=True)
    ]


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
    """Return the card of a checkpoint, with what was added since it was made.

    Raises:
        UserError: it is damaged.
    """
    try:
        calibrated = recipe.get("uncertainty")
        card = {
            **recipe["card"],
            "intervals": calibrated and [int(n) for n in calibrated["fields"]],
            "interval_units": units_of(calibrated) if calibrated else [],
        }
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


def markdown(card: Mapping[str, Any]) -> str:
    """Return the card as a page."""
    task = card["task"]
    inputs, targets = (
        text(word.join(task[key])) for word, key in ((" + ", "inputs"), (", ", "targets"))
    )
    about = [
        f"# {inputs} to {targets}",
        f"Virtual fluorescence staining: predicts {targets} from {inputs} of the same field of view.",
        *([text(card["note"])] if card["note"] else []),
        f"Licence of the weights: {text(card['licence'])}.",
    ]
    sections = {
        "Verdict": ["\n".join(f"- {text(verdict.text)}" for verdict in stain_verdicts(card))],
        "Data": _data_lines(card["data"]),
        "Inputs": [_grey_values(card["inputs"]), _seen(card["inputs"])],
        "Outputs": [_grey_values(card["targets"])],
        "Training": _training_lines(card),
        "Scores": _score_lines(card),
        "Limits": ["\n".join(f"- {text(line)}" for line in card["limits"])],
    }
    pages = ["\n\n".join(about)]
    pages += [f"## {title}\n\n" + "\n\n".join(parts) for title, parts in sections.items()]
    return "\n\n".join(pages) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _data_lines(data: Mapping[str, Any]) -> list[str]:
    size, units = data["pixel_size"], ("fields", "wells", "plates")
    counts = {name: data["parts"][part] for part, name in PARTS.items()}
    return [
        f"Data set {text(data['name'])}, split by {text(data['split_by'])}; pixel size "
        f"{f'{float(size):g} um' if size else NOT_STATED}.",
        _table(
            ("part", *units),
            (
                [name, *(str(int(part[unit]) or "") for unit in units)]
                for name, part in counts.items()
            ),
        ),
    ]


def _grey_values(channels: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("channel", "dtype", "grey values that become -1 to 1"),
        (
            [
                text(c["channel"]),
                text(c["dtype"]),
                f"{float(c['low']):g} to {float(c['high']):g}"
                f"{EACH_FIELD if c.get('per_field') else ''}",
            ]
            for c in channels
        ),
    )


def _seen(channels: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the statistics of the training fields."""
    shown = [key for key in SEEN if all(key in c["seen"] for c in channels)]
    return _table(
        ("training fields", *shown),
        (
            [
                text(c["channel"]),
                *(" to ".join(number(float(v)) for v in c["seen"][k]) for k in shown),
            ]
            for c in channels
        ),
    )


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
    found, tested, intervals = card["validation"], card["test"], card["intervals"]
    lines = ["Validation figures are not in this checkpoint."]
    if found:
        rivals = ", ".join(f"{text(k)} {float(v):.4f}" for k, v in found["baselines"].items())
        figure = "undefined" if found["mae"] is None else f"{float(found['mae']):.4f}"
        psnr = "" if found["psnr"] is None else f" (PSNR {float(found['psnr']):.1f} dB)"
        lines = [
            f"Validation, {counted(int(found['patches']), 'patch')}: mean absolute error {figure} of "
            f"[-1, 1]{psnr}; baselines: {rivals}."
        ]
    if tested:
        rows = (
            [
                text(channel), str(int(row["fields"])), text(row["verdict"]),
                *("" if row[k] is None else f"{float(row[k]):.4g}" for k in FIGURES),
            ]
            for channel, row in tested.items()
            if channel in card["task"]["targets"]
        )  # fmt: skip
        lines.append(_table(("test", "fields", "verdict", *FIGURES), rows))
    if intervals is None:
        return [*lines, "Not calibrated: no intervals (python -m vfn.calibrate ckpt=CKPT)."]
    units = zip(intervals, card["interval_units"], strict=True)
    on = ", ".join(counted(n, f"validation {unit}") for n, unit in units)
    return [*lines, f"Intervals: calibrated on {on}."]
