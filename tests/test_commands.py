"""`vfn COMMAND` is the same as `python COMMAND.py` and `python -m vfn.COMMAND`."""

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

from tests.cli import run
from vfn.__main__ import COMMANDS
from vfn.cli.help import CONF, HELP, as_called, help_text


@pytest.mark.parametrize("words", [(), *((word,) for word in HELP)])
def test_vfn_alone_lists_every_command_with_one_line(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    lines = run("vfn", *words, cwd=tmp_path).ok().out.splitlines()
    told = dict(re.fullmatch(r"  ([a-z]+) +(\S.*)", line).groups() for line in lines[4:-2])  # type: ignore[union-attr]
    assert told == {name: command.summary for name, command in COMMANDS.items()}
    assert all(told.values())
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("word", "meant"), [("trian", "did you mean train"), ("data=folder", "as in vfn train")]
)
def test_an_unknown_command_is_named_with_the_nearest(
    word: str, meant: str, tmp_path: Path
) -> None:
    run("vfn", word, cwd=tmp_path).refused(f"{word}: no such command", meant)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_leads_to_a_function_and_a_config(name: str) -> None:
    command = COMMANDS[name]
    assert callable(resolve_name(command.work))
    assert command.config is None or (CONF / f"{command.config}.yaml").is_file()


def test_help_names_the_command_as_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "  python -m vfn train run=" not in run("train.py", "--help", cwd=tmp_path).ok().out
    called = run("vfn", "train", "--help", cwd=tmp_path).ok().out
    assert "All settings: python -m vfn train --cfg job" in called
    assert "train.py" not in called
    assert "usage: python -m vfn info" in run("vfn", "info", "--help", cwd=tmp_path).ok().out
    monkeypatch.setattr("sys.argv", ["/usr/bin/vfn", "doctor"])
    assert "  vfn doctor data=folder" in help_text("doctor")
    assert as_called("python -m vfn.data.simulated") == "python -m vfn.data.simulated"


def test_settings_are_checked_as_ever(tmp_path: Path) -> None:
    run("vfn", "train", "trainer.max_epoch=3", cwd=tmp_path).refused("trainer.max_epochs")
    run("vfn", "predict", "--ckpt", "a.ckpt", cwd=tmp_path).refused("write ckpt=a.ckpt")


def test_a_part_of_evaluate_asks_for_its_own_settings(tmp_path: Path) -> None:
    run("vfn", "score", "pred=a", "output=b", cwd=tmp_path).refused("score: truth=... is missing")
    run("vfn", "compare", "output=b", cwd=tmp_path).refused("compare: compare=... is missing")
    run("vfn", "conditions", "ckpt=a.ckpt", "output=b", cwd=tmp_path).refused(
        "data2=... is missing"
    )
    run("vfn", "conditions", "ckpt=a.ckpt", "data2.root=c", "output=b", cwd=tmp_path).refused(
        "a.ckpt"
    )
