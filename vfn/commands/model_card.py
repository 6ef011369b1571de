"""Scores of a model's own test fields on their way into its model card."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vfn.cli.help import CONF
from vfn.commands.held_out import HeldOutData
from vfn.data.describe import count
from vfn.data.samples import Sample
from vfn.errors import UserError
from vfn.models.checkpoint import Checkpoint, store_test_scores
from vfn.models.verdicts import scores_of
from vfn.system.locks import claimed

# Settings that choose the images, beside those of one data set alone.
SAME = ("channels", "pattern", "manifest", "exclude", "z_zero", "z_step")
INSIST = "card=true puts them there all the same"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CardUpdate:
    """The scores of an evaluation on their way into the card.

    Attributes:
        wanted: the key `card`: True insists, False leaves the card alone, "auto" decides.
        output: folder of the evaluation, which this process has claimed.
        own_limits: the user changed the limits of the verdict.
    """

    wanted: bool | str
    checkpoint: Checkpoint
    trained: HeldOutData
    samples: Sequence[Sample]
    output: Path
    own_limits: bool

    @classmethod
    def of(
        cls, config: DictConfig, checkpoint: Checkpoint, trained: HeldOutData,
        samples: Sequence[Sample], output: Path,
    ) -> "CardUpdate":  # fmt: skip
        """Read the keys `card`, `shard` and `verdict`.

        Raises:
            UserError: `card=true`, and these are not the test fields of the training.
        """
        shipped = OmegaConf.load(CONF / "evaluate.yaml").verdict
        update = cls(config.card, checkpoint, trained, samples, output, config.verdict != shipped)
        if config.card is True and (reason := update._other_fields()):
            raise UserError(f"card=true: {reason}; leave out data..., or card")
        return update

    def store(self, summary: Mapping[str, Any]) -> None:
        """Put the scores of `summary` into the card, or log why they stay out.

        Raises:
            UserError: `card=true`, and they cannot be put there.
        """
        if self.wanted is False:
            return
        try:
            reason = "" if self.wanted is True else self._why_not()
            if not reason:
                with claimed_run(self.checkpoint.path, self.output):
                    self._store(summary)
        except UserError as exc:
            if self.wanted is True:
                raise
            reason = str(exc)
        if reason:
            log.info("the scores are not put into the model card: %s", reason)
        else:
            log.info(
                "the scores are in the model card: python -m vfn.info %s", self.checkpoint.path
            )

    def _store(self, summary: Mapping[str, Any]) -> None:
        units = {}
        for number, channel in enumerate(self.checkpoint.task.targets):
            scored = [sample for sample in self.samples if sample.targets[number] is not None]
            units[channel] = count(scored)
            if not all(sample.well for sample in scored):
                units[channel]["wells"] = 0
        scores = scores_of(summary, units, self.own_limits)
        store_test_scores(self.checkpoint.path, self.checkpoint.identity, scores)

    def _other_fields(self) -> str:
        own = {str(name) for name, _ in self.checkpoint.recipe["split"]["test"]}
        names = {sample.name for sample in self.samples}
        if names == own:
            return ""
        return (
            f"only the {len(own)} test fields of the training belong there, all of them; "
            f"of the {len(names)} here {len(names & own)} are"
        )

    def _why_not(self) -> str:
        """Return why the scores do not belong into the card, or cannot be put there."""
        if reason := self._other_fields():
            return reason
        path, data = self.checkpoint.path, self.trained.data.config.to_dict()
        stored = self.checkpoint.recipe["data"]
        if not self.trained.same_split:
            return "the data are not divided as they were in training"
        if _folder(data["root"]) != _folder(stored["root"]):
            return f"data.root={data['root']} is not the folder of the training; {INSIST}"
        chosen, then = (
            {key: d.get(key) or None for key in SAME} | dict(d.get("extra") or {})
            for d in (data, stored)
        )
        changed = [key for key in {**chosen, **then} if chosen.get(key) != then.get(key)]
        if changed:
            return f"data.{changed[0]} is not that of the training; {INSIST}"
        if self.own_limits:
            return f"the limits of the verdict are not those of vfn; {INSIST}"
        if not (os.access(path, os.W_OK) and os.access(path.resolve().parent, os.W_OK)):
            return f"{path} cannot be written"
        return ""


def _folder(root: str | None) -> Path | None:
    return None if root is None else Path(root).expanduser().resolve()


@contextmanager
def claimed_run(checkpoint: Path, held: Path | None = None) -> Iterator[None]:
    """Keep a training that would replace `checkpoint` out of its run folder.

    Args:
        held: folder that this process has claimed already.

    Raises:
        UserError: see `claimed`.
    """
    folder = checkpoint.parent
    if folder.name == "checkpoints":
        folder = folder.parent
    is_held = held is not None and held.resolve() == folder.resolve()
    with nullcontext() if is_held else claimed(folder, parts=("checkpoints",)):
        yield
