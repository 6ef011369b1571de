"""`--help`, misspelt words, the settings that are shown before a run, and the demo."""

import re
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from tests.cli import ROOT, finish, run, start
from tests.test_cli import SIMULATED, TINY
from vfn.cli.help import CONF, DEMO, WIDTH, choices, groups_of, help_text, settings_of

SCRIPTS = ("train", "predict", "evaluate")
COMMANDS = sorted(path.stem for path in CONF.glob("*.yaml"))
LINES = 45
KEY = re.compile(r"^  (?:and )?([a-z][\w.]*)=(\S+?)(?=\s{2,}|$)", re.MULTILINE)


def script(command: str) -> str:
    return f"{command}.py" if command in SCRIPTS else f"vfn.{command}"


def default(command: str, key: str) -> object:
    """Of a setting, as the files say: the command's own, else that of its groups' default choices."""
    node = OmegaConf.load(CONF / f"{command}.yaml")
    own = OmegaConf.select(node, key, throw_on_missing=False)
    group, _, rest = key.partition(".")
    choice = groups_of(command).get(group)
    if own is None and choice:
        files = [CONF / group / f"{choice}.yaml"]
        while files:  # what a file is based on comes after it
            loaded = OmegaConf.load(files.pop(0))
            assert isinstance(loaded, DictConfig)
            own = OmegaConf.select(loaded, rest)
            if own is not None:
                break
            bases = [b for b in loaded.get("defaults", []) if isinstance(b, str) and b != "_self_"]
            files += [CONF / group / f"{base}.yaml" for base in bases]
    return OmegaConf.to_container(own) if OmegaConf.is_config(own) else own


def written(value: object) -> str:
    if isinstance(value, list):
        return f"[{','.join(str(v) for v in value)}]"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, tmp_path: Path) -> None:
    text = run(script(command), "--help", cwd=tmp_path).ok().out
    assert text == run(script(command), "data=nonsense", "-h", cwd=tmp_path).ok().out
    lines = text.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= WIDTH
    assert "hydra.help" not in text
    assert "$" not in text
    examples = [line for line in lines if line.startswith("  python ")]
    assert len(examples) >= 3
    assert all(re.search(rf"python (-m {script(command)}|\w+\.py)", line) for line in examples)
    assert "0 done, 2 your input is wrong" in text
    assert "130 interrupted" in text


@pytest.mark.parametrize("module", ["vfn.download", "vfn.data.simulated"])
def test_help_of_the_commands_without_groups(module: str, tmp_path: Path) -> None:
    process = start(module, "--help", cwd=tmp_path, env={"COLUMNS": str(WIDTH)})
    lines = finish(process).ok().out.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= WIDTH
    assert sum(f"  python -m {module}" in line for line in lines) == 3
    assert lines[-1].startswith("exit codes: 0 done, 2 ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_every_choice_and_true_defaults(command: str) -> None:
    text = help_text(command)
    for group, chosen in groups_of(command).items():
        (line,) = re.findall(rf"^  {group} (.*(?:\n {{10}}.*)*)", text, re.MULTILINE)
        told = line.replace("\n", " ").replace("*", "").split(",")
        assert sorted(name.strip() for name in told) == choices(group)
        if chosen:
            assert f"{chosen}*" in line
    keys = KEY.findall(text)
    assert len(keys) >= 4
    if command == "train":
        assert len(keys) == 10
    names = settings_of(command)
    for key, shown in keys:
        assert key in names
        if key == "run":  # told in words
            continue
        if shown in ("DIR", "CKPT"):  # stands for what the user gives
            assert default(command, key) is None
        else:
            assert shown == written(default(command, key)), key


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        ("train", ["dta=folder"], "did you mean data?"),
        ("train", ["model.adam.lr=1"], "did you mean model.adam.lr_generator?"),
        ("evaluate", ["channels={dapi: dapi}"], "channels={dapi: dapi}: this setting takes another kind"),
        ("train", ["data=foldr"], "did you mean folder?"),
        ("train", ["loss=virflonet"], "did you mean virfluonet?"),
        ("train", ["data.chanels=x"], "did you mean data.channels?"),
        ("train", ["trainr.max_time=1"], "did you mean trainer.max_time?"),
        ("train", ["model.generator.widht=3"], "did you mean model.generator.width?"),
        ("train", ["max_time=1"], "did you mean trainer.max_time?"),
        ("train", ["width=32"], "did you mean model.generator.width?"),
        ("train", ["xyzzy=1"], "xyzzy: no such setting (--help"),
        ("train", ["images"], "settings are written KEY=VALUE"),
        ("train", ["data.root", "images"], "write data.root=images"),
        ("train", ["--data.root", "images"], "write data.root=images"),
        ("train", ["--data.root=images"], "write data.root=images"),
        ("train", ["--run", "nuclei"], "write run=nuclei"),
        ("train", ["-h2"], "settings have no dashes"),
        ("train", ["task.inputs=[phase,", "dapi]"], "quotes: 'task.inputs=[phase, dapi]'"),
        ("train", ["task.inputs=[phase"], "a bracket is not closed"),
        ("train", ["data=u2os_cps", "data.root=.", "task.inputs=[golgi]"], "golgi is like golgi_actin"),
        ("predict", ["best.ckpt"], "KEY=best.ckpt"),
        ("predict", ["chkpt=x"], "did you mean ckpt?"),
        ("evaluate", ["verdict.pearson.us=1"], "did you mean verdict.pearson.use?"),
        ("evaluate", ["data2.rot=x"], "did you mean data2.root?"),
        ("doctor", ["data.chanels=x"], "did you mean data.channels?"),
    ],
)  # fmt: skip
def test_what_is_misspelt(command: str, words: list[str], says: str, tmp_path: Path) -> None:
    run(script(command), *words, cwd=tmp_path).refused(says)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_offered_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "best.ckpt").write_text("")
    run("train.py", "images", cwd=tmp_path).refused("here data.root=images")
    run("predict.py", "best.ckpt", cwd=tmp_path).refused("here ckpt=best.ckpt")
    run("predict.py", "images", cwd=tmp_path).refused("here input=images")


def test_hydras_own_options_pass(tmp_path: Path) -> None:
    shown = run("train.py", "--cfg", "job", "--package", "trainer", cwd=tmp_path).ok().out
    assert "max_epochs: 100" in shown


def test_the_settings_that_were_given_are_shown(tmp_path: Path) -> None:
    given = [
        *SIMULATED, *TINY, "data.height=160", "data.width=160", "logger=csv", "run=r", "task.inputs=phase",
        "task.targets=[dapi]",
    ]  # fmt: skip
    out = run("train.py", *given, cwd=tmp_path).ok().out
    first, *lines = out.partition("data: simulated,")[0].splitlines()
    assert first == "settings (verbose=true prints all):"
    idle = "model.discriminator.width: has no effect, since loss.adversarial is 0.0"
    assert lines == [*(f"  {word}" for word in given), idle]
    best = "outputs/r/checkpoints/best.ckpt"
    assert f"next: python evaluate.py ckpt={best} output=outputs/r/evaluation" in out
    scored = run("evaluate.py", f"ckpt={best}", "output=e", cwd=tmp_path).ok().out
    assert scored.splitlines()[1:3] == [f"  ckpt={best}", "  output=e"]
    assert "verdict" not in scored.partition("verdict on")[0]  # none of its limits
    (tmp_path / "new").mkdir()
    refused = run("predict.py", f"ckpt={best}", "input=new", "output=p", cwd=tmp_path)
    assert refused.out.splitlines()[1:] == [f"  ckpt={best}", "  input=new", "  output=p"]
    more = ["resume=outputs/r", "trainer.max_epochs=2"]
    resumed = run("train.py", *more, cwd=tmp_path).ok().out.splitlines()
    assert resumed[1:4] == [
        *(f"  {word}" for word in more),
        "  all others as in outputs/r/config.yaml",
    ]
    more = ["resume=outputs/r", "trainer.max_epochs=3", "verbose=true"]
    resumed = run("train.py", *more, cwd=tmp_path).ok().out.splitlines()
    assert resumed[0] == "settings:"
    assert {"  height: 160", "  max_epochs: 3", "  batch_size: 2"} <= set(resumed)


def test_no_settings_train_the_demo(tmp_path: Path) -> None:
    demo = run("train.py", cwd=tmp_path, prepare=shorten).ok().out
    assert demo.startswith(f"no settings given, so this is the demo: {' '.join(DEMO)}\n")
    (folder,) = (tmp_path / "outputs").iterdir()
    stored = OmegaConf.load(folder / "config.yaml")
    assert stored.trainer.max_time == "2m"
    assert (stored.data.name, stored.model.name) == ("simulated", "recommended")
    assert stored.logger.name == "csv"
    assert "next: python evaluate.py" in demo


def shorten() -> None:
    """The demo's two minutes end with its second batch."""
    from tests.cli import run_out_of_time

    run_out_of_time(2)


def test_the_demo_of_make_is_the_same() -> None:
    make = (ROOT / "Makefile").read_text().replace("\\\n", " ").split()
    assert set(DEMO) <= set(make)
