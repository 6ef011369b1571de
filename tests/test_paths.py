"""Paths as people have them, on Hydra's command line."""

import re
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vfn.cli.help import CONF, settings_of
from vfn.cli.paths import PATHS, TEXTS, expand, is_path, readable
from vfn.errors import UserError

SIGNS = "ab 1.()[]{}'\",#=;&!<>|\\~/:$%"
PATH_WORDS = re.compile(
    r"(or )?(a )?(folders?|CSV|checkpoint|outputs/NAME|focus\.json|of the stores)\b"
)
COMMANDS = sorted(path.stem for path in CONF.glob("*.yaml"))


def read(word: str) -> object:
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize(
    "path",
    ["my images (1)", "it's", "a,b", "#5", "[x]", "{a}", "a=b", 'say "x"', "~/base", "C:\\x (1)\\", "1e3", "a;b", "true"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["data.root", "+data.root", "ckpt", "data.pattern"])
def test_a_path_means_itself(key: str, path: str) -> None:
    (word,) = readable([f"{key}={path}"])
    assert read(word) == path


@settings(max_examples=200, deadline=None)
@given(st.text(SIGNS, min_size=1, max_size=12))
@example("\\'")
def test_any_signs_mean_themselves_unless_hydra_has_words_for_them(path: str) -> None:
    try:
        parsed = OverridesParser.create().parse_override(f"input={path}")
        own = None if parsed.is_sweep_override() else parsed.value()
    except HydraException:
        own = None
    (word,) = readable([f"input={path}"])
    assert read(word) == (own if isinstance(own, str) else path) or word == f"input={path}"
    assert str(read(word)) in (path, str(own))


@pytest.mark.parametrize(
    ("words", "read_as"),
    [
        (["data.root=null"], "data.root=null"),
        (["resume=auto"], "resume=auto"),
        (["output=outputs/${run}"], "output=outputs/${run}"),
        (["data.root='my images (1)'"], "data.root='my images (1)'"),  # quoted for Hydra already
        (["compare=[outputs/a,outputs/b]"], "compare=[outputs/a,outputs/b]"),
        (["compare=[run (1), ~/b, 'c,d (2)']"], "compare=['run (1)','~/b','c,d (2)']"),
        (["resume=outputs/s/0_seed=1"], "resume='outputs/s/0_seed=1'"),
        (["data2={root: treated}"], "data2={root: treated}"),
        (["-m", "data.root=a,b"], "data.root=a,b"),  # a sweep over folders
        (["data.root=a (1),~/b", "-m"], "data.root='a (1)','~/b'"),
    ],
)
def test_what_stays_and_what_is_quoted(words: list[str], read_as: str) -> None:
    assert next(word for word in readable(words) if "=" in word) == read_as


def test_a_sweep_takes_a_folder_that_is_there_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert readable(["-m", "data.root=a,b"])[1] == "data.root='a,b'"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("task.name=a;b", "\"task.name='a;b'\""),
        ("task.inputs=a,b", "'task.inputs=[a,b]'"),
        ("loss.mae=(", "\"loss.mae='('\""),
    ],
)
def test_no_words_of_the_parser(word: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        readable([word])
    assert says in str(caught.value)
    assert not re.search(r"mismatched|Lexer|hydra|\n", str(caught.value))


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = OmegaConf.create(
        {
            "data": {"root": "~/x", "manifest": None, "name": "~/no path"},
            "compare": ["~/a", "b"],
            "ckpt": "~nobody_of_that_name/x",
            "output": "${data.root}",
        }
    )
    expand(config)
    assert OmegaConf.to_container(config, resolve=True) == {
        "data": {"root": "/home/me/x", "manifest": None, "name": "~/no path"},
        "compare": ["/home/me/a", "b"],
        "ckpt": "~nobody_of_that_name/x",
        "output": "/home/me/x",
    }


def test_every_path_of_the_configs_is_known() -> None:
    """A setting whose comment speaks of a folder or a file is a path; what is listed is a setting."""
    named = [key for command in COMMANDS for key in settings_of(command)]
    assert {key.rpartition(".")[2] for key in named if is_path(key)} == PATHS - {"dir"}
    assert {k.rpartition(".")[2] for k in named} >= TEXTS
    for file in CONF.rglob("*.yaml"):
        for key, comment in re.findall(
            r"^ *(\w+): (?:null|\[\]|outputs) # (.*)$", file.read_text(), re.M
        ):
            if PATH_WORDS.match(comment):
                assert is_path(key), f"{file.name}: {key}: {comment}"
