"""Configs from run folders are read as plain data, in bounded time and memory."""

import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vfn.cli.stored import MOST_BYTES, MOST_VALUES, read_stored
from vfn.errors import UserError
from vfn.system.files import write_text


def test_what_omegaconf_writes(tmp_path: Path) -> None:
    config = {
        "seed": 0,
        "loss": {"mae": 1e-5, "terms": None},
        "task": {"inputs": ["a b", "1"]},
        "x": True,
    }
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    assert read_stored(path) == config
    path.write_text("lr: 1e-3")  # by hand; YAML 1.1 alone would take it for a word
    assert read_stored(path) == {"lr": 0.001}


def test_references_are_refused_or_kept_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hush")
    path = tmp_path / "config.yaml"
    for text in (
        "seed: 0\nrun: ${oc.env:SECRET}\n",
        "${oc.env:SECRET}: 1",
        "a: [{b: 'x ${seed}'}]",
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="holds a reference") as caught:
            read_stored(path)
        assert "hush" not in str(caught.value)
    path.write_text("run: ${oc.env:SECRET}")
    assert read_stored(path, references=True) == {"run": "${oc.env:SECRET}"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: &x [1]\nb: *x\n", "line 1: holds an anchor or alias"),
        (b"a: 1\nb: *x\n", "line 2: holds an anchor or alias"),
        (b"a: !!python/object/apply:os.system [ls]\n", "line 1: holds a tag"),
        (b"a: " + b"[" * 50 + b"]" * 50, "nested too deep"),
        (b"a: " + b"[" * 5000, "nested too deep"),
        (b"a:\n" + b"".join(b" " * (2 * i + 1) + b"a:\n" for i in range(60)), "nested too deep"),
        (b"a: " + b"9" * 5000, "a number of 5000 signs"),
        (b"x" * (MOST_BYTES + 1), "has more than 256 kB"),
        (b"a:\tb:\t1\n", "is no config, or a damaged one (ScannerError, line 1)"),
        (b"- a\n- b\n", "is no table of settings"),
        (b"", None),
        (b"\x00\xff\xfe\x01", "is no config, or a damaged one"),
        (b"a: 1\na: 2\n", "is no config, or a damaged one"),
    ],
)  # fmt: skip
def test_damaged_or_meant_to_do_harm(content: bytes, says: str | None, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    start = time.monotonic()
    if says is None:
        assert read_stored(path) == {}
        return
    with pytest.raises(UserError) as caught:
        read_stored(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert time.monotonic() - start < 5


def test_a_large_one_takes_a_bounded_time(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"a: [{','.join('1' * (MOST_VALUES - 1))}]")
    assert read_stored(path) == {"a": [1] * (MOST_VALUES - 1)}
    path.write_text(f"a: [{','.join('1' * MOST_VALUES)}]")
    with pytest.raises(UserError, match="has more than 10000 values"):
        read_stored(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_stored(tmp_path / "gone.yaml")


def test_names_that_are_not_utf8_come_back(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_text(path, OmegaConf.to_yaml({"root": "ro\udcffot"}))
    assert read_stored(path) == {"root": "ro\udcffot"}
