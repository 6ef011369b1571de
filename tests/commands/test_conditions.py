import pytest

from vfn.commands.conditions import _treated
from vfn.data.config import DataConfig
from vfn.errors import UserError

LISTED = DataConfig("folder", manifest="control/m.csv", channels={"phase": "BF"})


@pytest.mark.parametrize(
    ("second", "root", "manifest"),
    [
        ({"match": None, "root": "treated"}, "treated", None),
        ({"manifest": "treated/m.csv"}, None, "treated/m.csv"),
        ({"exclude": "x.csv"}, None, "control/m.csv"),
    ],
)
def test_treated_fields_are_never_those_of_the_control_s_manifest(
    second: dict[str, object], root: str | None, manifest: str | None
) -> None:
    """Else control fields would be compared with themselves."""
    second.pop("match", None)
    treated = _treated(LISTED, second)
    assert (treated.root, treated.manifest) == (root, manifest)
    assert treated.channels == LISTED.channels


def test_keys_of_one_data_set_alone() -> None:
    control = DataConfig("simulated", extra={"fields": 8, "first_seed": 0})
    treated = _treated(control, {"first_seed": 9})
    assert treated.extra == {"fields": 8, "first_seed": 9}
    with pytest.raises(UserError, match=r"data2\.first_seed: data=folder has no such setting"):
        _treated(LISTED, {"first_seed": 9})
