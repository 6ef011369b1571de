"""All that was found on one data set, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vfn.data.config import DataConfig
from vfn.data.samples import Task
from vfn.doctor.findings import FATAL, LOOK, Finding, plane_names
from vfn.doctor.reading import FieldStats, Key


@dataclass(frozen=True)
class Case:
    """One data set, looked over.

    Attributes:
        fields: what was measured of each.
        findings: the gravest first.
        parts: field -> parts of the split ("train", "val", "test") that it is in.
        overrides: what the user typed, quoted for a shell, without the output folder.
    """

    fields: Sequence[FieldStats]
    task: Task
    config: DataConfig
    findings: Sequence[Finding]
    parts: Mapping[str, tuple[str, ...]]
    overrides: Sequence[str]

    @cached_property
    def names(self) -> dict[Key, str]:
        """Name of each plane, inputs first."""
        return plane_names(self.fields)

    @cached_property
    def about(self) -> dict[str, list[Finding]]:
        """Field -> its findings, the gravest first."""
        found: dict[str, list[Finding]] = {}
        for finding in self.findings:
            for name in finding.fields:
                found.setdefault(name, []).append(finding)
        return found

    def of_severity(self, severity: str) -> list[Finding]:
        """Findings of one severity."""
        return [f for f in self.findings if f.severity == severity]

    @property
    def concerned(self) -> tuple[str, ...]:
        """Names of the fields that somebody should look at, in the order of the findings."""
        return tuple(dict.fromkeys(name for f in self.of_severity(LOOK) for name in f.fields))

    @property
    def verdict(self) -> str:
        """`ready`, `look at N fields`, or `do not train` with the reason."""
        fatal = self.of_severity(FATAL)
        if fatal:
            return f"do not train: {fatal[0].text}"
        # A damaged file of which field and channel are not known counts, too.
        count = len(self.concerned) + sum(not f.fields for f in self.of_severity(LOOK))
        return f"look at {count} field{'' if count == 1 else 's'}" if count else "ready"

    @cached_property
    def excluded(self) -> dict[tuple[str, str], list[str]]:
        """(field, channel) -> why training should do without; channel "" is the whole field.

        Where there are several targets, a bad one costs the field that target alone.
        """
        reasons: dict[tuple[str, str], list[str]] = {}
        droppable = set(self.task.targets) - set(self.task.inputs)
        for finding in self.findings:
            alone = len(self.task.targets) > 1 and finding.channel in droppable
            for name in finding.exclude:
                key = (name, finding.channel if alone else "")
                reasons.setdefault(key, []).append(finding.text)
        return reasons
