"""Names of fields, wells and plates as people write them."""

import re
from collections.abc import Iterable

from vfn.errors import UserError, nearest


class Names:
    """Known names, found whatever their case and whether `-`, `_`, `/` or a blank parts their words.

    >>> Names(["Plate 1_A02-s1", "B02"]).find("plate_1_a02_S1")
    'Plate 1_A02-s1'
    """

    def __init__(self, there: Iterable[str]) -> None:
        self.there = sorted(set(there))
        self._folded: dict[str, list[str]] = {}
        for name in self.there:
            self._folded.setdefault(_fold(name), []).append(name)

    def find(self, name: str) -> str | None:
        """Return the known name that is meant; None if there is none.

        Raises:
            UserError: several may be meant.
        """
        found = self._folded.get(_fold(name), [])
        if name in found:
            return name
        if len(found) > 1:
            raise UserError(f"{name}: may be {' or '.join(found)}; write it as it is")
        return found[0] if found else None

    def pick(self, given: Iterable[str], setting: str, kind: str) -> set[str]:
        """Return the known names that a setting means.

        Args:
            kind: what is named, for the message.

        Raises:
            UserError: a name that is not there, or may be several.
        """
        found = {name: self.find(name) for name in given}
        unknown = [name for name, known in found.items() if known is None]
        if unknown:
            near = dict.fromkeys(filter(None, (nearest(name, self.there) for name in unknown)))
            like = f" (did you mean {', '.join(near)}?)" if near else ""
            raise UserError(
                f"{setting}: no {kind} {', '.join(unknown)}{like}; there are "
                f"{', '.join(self.there) or 'none'}"
            )
        return {name for name in found.values() if name is not None}


def _fold(name: str) -> str:
    return re.sub(r"[-_/\s]+", "_", name.casefold()).strip("_")
