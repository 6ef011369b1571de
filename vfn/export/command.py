"""The command `export`: write a checkpoint as a file for other programs."""

import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from vfn.cli.entry import plain, refuse_unread, set_up_logging
from vfn.commands.predict import required
from vfn.errors import UserError
from vfn.export.bioimage import Label, write_bioimage
from vfn.export.facts import facts
from vfn.inference.programs import write_onnx, write_torch
from vfn.models.card import NOT_STATED, card_of, markdown
from vfn.models.checkpoint import Checkpoint, load_checkpoint
from vfn.refocus.step import refocusing_of
from vfn.system.dotted import trusted
from vfn.system.files import write_text
from vfn.system.locks import claimed

CARD = "model_card.md"
LICENCE = "CC-BY-4.0"  # of a package whose maker states none: the zoo wants one
FORMATS = ("onnx", "torch", "bioimage")

log = logging.getLogger(__name__)


def export(config: DictConfig) -> None:
    """Write `ckpt` as `format` into `output`.

    Raises:
        UserError: unknown format, bad label; see `write_bioimage`, `write_onnx`.
    """
    set_up_logging()
    ckpt = required(config, "ckpt", "outputs/NAME/checkpoints/best.ckpt")
    output = required(config, "output", "DIR")
    if config.format not in FORMATS:
        raise UserError(f"format={config.format}: unknown; choose one of {', '.join(FORMATS)}")
    package = ("name", "description", "authors", "license", "pixel_size")
    refuse_unread({"with format=bioimage": package}, {f"with format={config.format}"})
    checkpoint = load_checkpoint(ckpt, trusted(config.trust))
    inputs = len(checkpoint.task.inputs)
    card = card_of(checkpoint.recipe)
    label = _label(config, card)
    with claimed(output):
        if config.format == "bioimage":
            path = write_bioimage(output, checkpoint, label)
        elif config.format == "onnx":
            path = output / "model.onnx"
            write_onnx(path, checkpoint.generator, inputs, facts(checkpoint))
        else:
            path = output / "model.pt2"
            write_torch(path, checkpoint.generator, inputs, facts(checkpoint))
        write_text(output / CARD, markdown(card))
    for missing in _left_out(checkpoint):
        log.warning("not in the file: %s", missing)
    log.info("%s", path)


def _label(config: DictConfig, card: Mapping[str, Any]) -> Label:
    """Return the label of a package; the model card fills the gaps.

    Raises:
        UserError: no author, a pixel size that is none.
    """
    authors = plain(config.authors)
    if not isinstance(authors, list) or not authors or not all(authors):
        raise UserError(f"authors={authors}: give one name or more, as authors=[Jane Doe]")
    size = config.pixel_size
    if size is not None and (
        isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 1000
    ):
        raise UserError(f"pixel_size={size}: give micrometres a pixel, or null")
    name, description = (
        None if config[key] is None else str(config[key]) for key in ("name", "description")
    )
    stated = None if card["licence"] == NOT_STATED else str(card["licence"])
    licence = str(config.license or stated or LICENCE)
    size = card["data"]["pixel_size"] if size is None else size
    return Label(name, description, [str(a) for a in authors], licence, size)


def _left_out(checkpoint: Checkpoint) -> list[str]:
    """Return the steps of `predict.py` that the exported file lacks."""
    steps = {
        "the correction of illumination": any(flat is not None for flat in checkpoint.flats),
        "the refocusing of blurred inputs": refocusing_of(checkpoint) is not None,
        "the intervals of python -m vfn.calibrate": checkpoint.uncertainty is not None,
    }
    return [step for step, there in steps.items() if there]
