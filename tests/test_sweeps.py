"""Sweeps: Hydra's launchers, and the search by Optuna, through the real command line."""

import csv
import importlib.util
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from tests.cli import ROOT, Result, finish, interrupt_in_step, run, start
from tests.conftest import write_tokens
from vfn.cli.messages import config_message, lost_job
from vfn.errors import UserError
from vfn.training.search import _dimension

TINY = [
    "model=virfluonet", "data.patch_size=64", "data.batch_size=2", "data.patches_per_epoch=4", "trainer=cpu",
    "trainer.precision=32-true", "model.generator.width=4", "model.generator.max_width=8",
    "model.discriminator.width=4", "logger=csv",
]  # fmt: skip
SEARCH = [
    "data=simulated", "data.fields=4", "data.height=70", "data.width=91",
    *(word for word in TINY if not word.startswith("model.generator.width")),
    "trainer.max_epochs=2", "sweep=optuna", "sweep.startup_trials=0", "sweep.warmup_epochs=0", "run=s",
    "sweep.space={loss.adversarial: [0, 0.1], model.generator.width: [2, 4],"
    " model.generator.depth: {low: 2, high: 4}, model.adam.lr_generator: {low: 1e-5, high: 1e-3, log: true}}",
]  # fmt: skip


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Launchers

LAUNCHERS = ["joblib", "submitit_local", "ray"]


def _sweep(launcher: str, folder: Path) -> tuple[Path, Result]:
    write_tokens(folder / "images", ["phase", "dapi"], 4, "uint16")
    # The store of decoded images is cold: both jobs want to fill it. A genuine process, since joblib's
    # workers do not end under a fork server.
    process = start(
        "train.py", "-m", "data=folder", "data.root=images", "data.cache_dir=store", *TINY,
        "task.inputs=[phase]", "task.targets=[dapi]", "trainer.max_epochs=1", "run=sweep",
        f"hydra/launcher={launcher}", "loss.adversarial=0,0.1", "freeze=none", cwd=folder,
    )  # fmt: skip
    return folder, finish(process)


@pytest.fixture(scope="module")
def launched(
    tmp_path_factory: pytest.TempPathFactory, workers: ThreadPoolExecutor
) -> dict[str, Future[tuple[Path, Result]]]:
    return {
        launcher: workers.submit(_sweep, launcher, tmp_path_factory.mktemp(launcher))
        for launcher in LAUNCHERS
        if launcher != "ray" or importlib.util.find_spec("ray") is not None
    }


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_in_processes_of_their_own(
    launcher: str, launched: dict[str, Future[tuple[Path, Result]]]
) -> None:
    if launcher not in launched:
        pytest.skip("ray is not installed (422 MB): pip install hydra-ray-launcher")
    base, result = launched[launcher].result()
    assert result.code == 0, result.err
    assert launcher == "ray" or result.err == ""  # Ray talks of itself there
    folder = base / "outputs" / "sweep"
    for name, weight in (("0_loss.adversarial=0", 0), ("1_loss.adversarial=0.1", 0.1)):
        assert (folder / name / "checkpoints" / "best.ckpt").is_file()
        config = yaml.safe_load((folder / name / "config.yaml").read_text())
        assert config["loss"]["adversarial"] == weight
        assert len(read_csv(folder / name / "metrics.csv")) == 1
    runs = {path.name for path in folder.iterdir() if path.is_dir()}
    assert runs - {".submitit"} == {"0_loss.adversarial=0", "1_loss.adversarial=0.1"}
    assert (".submitit" in runs) == (launcher == "submitit_local")
    assert {path.name for path in base.iterdir()} == {"images", "outputs", "store"}


def test_a_failed_job_loses_no_other(tmp_path: Path) -> None:
    result = run(
        "train.py", "-m", *SEARCH[:4], *TINY, "trainer.max_epochs=1", "run=s", "data.patch_size=60,64",
        cwd=tmp_path,
    )  # fmt: skip
    assert result.code == 2
    assert "Traceback" not in result.err
    first, *_, last = result.err.splitlines()
    assert first.startswith("error: job 0: data.patch_size=60")
    assert last.startswith(
        "error: the sweep ran on past what failed, first job 0: data.patch_size=60"
    )
    folder = tmp_path / "outputs" / "s"
    assert {p.name for p in folder.iterdir()} == {
        "multirun.yaml", "sweep.csv", "1_data.patch_size=64",
    }  # fmt: skip
    (row,) = read_csv(folder / "sweep.csv")
    assert (row["run"], row["data.patch_size"]) == ("1_data.patch_size=64", "64")
    assert "1 run, the best first" in result.out
    assert (folder / "1_data.patch_size=64" / "checkpoints" / "best.ckpt").is_file()
    resume = "resume=outputs/s/1_data.patch_size=64"  # Hydra's grammar has no `=` in a value
    run("train.py", resume, "trainer.max_epochs=2", cwd=tmp_path).ok()
    assert len(read_csv(folder / "1_data.patch_size=64" / "metrics.csv")) == 2


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("joblib' Available options in 'hydra/launcher': basic Config search path: x",
         "hydra/launcher=joblib: not installed; pip install hydra-joblib-launcher"),
        ("joblip' Available options in 'hydra/launcher': basic joblib Config search path: x",
         "hydra/launcher=joblip: unknown; did you mean joblib? choose one of basic, joblib"),
    ],
)  # fmt: skip
def test_a_launcher_that_is_not_there(message: str, line: str) -> None:
    text = f"In 'hydra/config': Could not find 'hydra/launcher/{message}"
    assert config_message(ValueError(text), "train") == line


def test_a_job_that_its_queue_ended() -> None:
    """submitit knows by then only that there is no result."""
    from submitit.core.utils import UncompletedJobError

    error = UncompletedJobError(
        "Job 7 (task: 0) with path s/.submitit/7\nhas not produced any output"
    )
    line = lost_job(error) or ""
    assert "\n" not in line
    for part in ("ended from outside", "Job 7 (task: 0)", ".submitit", "resume=FOLDER"):
        assert part in line
    assert lost_job(RuntimeError("Job 7")) is None


# Search


def prune(*numbers: int) -> None:
    """Let these trials be hopeless after their first epoch; for `prepare`."""
    from optuna.pruners import MedianPruner

    MedianPruner.prune = lambda _self, _study, trial: trial.number in numbers  # type: ignore[method-assign]


def search(
    folder: Path, trials: int, *more: str, prepare: Callable[[], None] | None = None
) -> Result:
    return run(
        "train.py", "-m", *SEARCH, f"sweep.trials={trials}", *more, cwd=folder,
        prepare=prepare or partial(prune, 1),
    )  # fmt: skip


def table(folder: Path) -> list[dict[str, str]]:
    rows = read_csv(folder / "outputs" / "s" / "trials.csv")
    for row in rows:
        assert (
            float(row.pop("seconds")) >= 0
        )  # to a tenth of a second: a trial that fails at once has none
    return rows


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, search(folder, 3).ok()


def test_a_search_leaves_a_run_a_trial_and_a_table(unbroken: tuple[Path, Result]) -> None:
    folder, result = unbroken
    rows = table(folder)
    assert [row["trial"] for row in rows] == ["trial_000", "trial_001", "trial_002"]
    assert [row["state"] for row in rows] == ["complete", "pruned", "complete"]
    assert [row["epochs"] for row in rows] == ["2", "1", "2"]
    assert "loss.weight_l1" not in rows[0]  # a space of one's own replaces the usual one
    for row in rows:
        trial = folder / "outputs" / "s" / row["trial"]
        kept = {"best.ckpt", "last.ckpt"} | ({"previous.ckpt"} if row["epochs"] == "2" else set())
        assert {p.name for p in (trial / "checkpoints").iterdir()} == kept
        config = OmegaConf.load(trial / "config.yaml")
        assert "sweep" not in config
        for key in ("loss.adversarial", "model.generator.width", "model.adam.lr_generator"):
            assert OmegaConf.select(config, key) == float(row[key])
        scores = [float(line["val/mae"]) for line in read_csv(trial / "metrics.csv")]
        assert float(row["val_mae"]) == pytest.approx(min(scores), rel=1e-5)
    assert "pruned: " in (folder / "outputs" / "s" / "trial_001" / "log.txt").read_text()
    assert "3 trials (2 whole, 1 pruned)" in result.out


def test_the_printed_command_trains_the_best_again(
    unbroken: tuple[Path, Result], tmp_path: Path
) -> None:
    folder, result = unbroken
    (line,) = [line for line in result.out.splitlines() if line.startswith("best again: ")]
    command = shlex.split(line.removeprefix("best again: "))
    assert command[:2] == ["python", "train.py"]
    run("train.py", *command[2:], cwd=tmp_path).ok()
    scores = [
        float(row["val/mae"]) for row in read_csv(tmp_path / "outputs" / "s_best" / "metrics.csv")
    ]
    assert f"{min(scores):.6g}" == min(
        r["val_mae"] for r in table(folder) if r["state"] == "complete"
    )


def test_a_search_in_pieces_is_an_unbroken_one(
    unbroken: tuple[Path, Result], tmp_path: Path
) -> None:
    search(tmp_path, 1).ok()
    search(tmp_path, 3).ok()
    assert table(tmp_path) == table(unbroken[0])
    search(tmp_path, 3).ok()  # nothing is left to do
    assert table(tmp_path) == table(unbroken[0])


def test_an_interrupted_trial_is_taken_up(unbroken: tuple[Path, Result], tmp_path: Path) -> None:
    stopped = search(tmp_path, 1, prepare=partial(interrupt_in_step, 3))  # in the second epoch
    assert stopped.code == 130
    assert "the search goes on by the same command with run=s" in stopped.out
    search(tmp_path, 1).ok()
    (row,) = table(tmp_path)
    assert row == table(unbroken[0])[0]
    assert [p.name for p in (tmp_path / "outputs" / "s").glob("trial_*")] == ["trial_000"]


def test_two_processes_share_a_search(tmp_path: Path, workers: ThreadPoolExecutor) -> None:
    both = [workers.submit(search, tmp_path, 4, "trainer.max_epochs=1") for _ in range(2)]
    for result in both:
        result.result().ok()
    rows = table(tmp_path)
    assert [row["trial"] for row in rows] == [f"trial_{n:03d}" for n in range(4)]
    assert {row["state"] for row in rows} <= {"complete", "pruned"}


def test_trials_that_fail(tmp_path: Path) -> None:
    deep = [*SEARCH[:-1], "sweep.space={model.generator.depth: [7]}", "sweep.trials=2"]
    run("train.py", "-m", *deep, cwd=tmp_path).refused(
        "none of 2 trials ran whole", "trials.csv", "data.patch_size=64"
    )
    assert [row["state"] for row in table(tmp_path)] == ["fail", "fail"]


def test_another_search_in_the_folder(unbroken: tuple[Path, Result]) -> None:
    search(unbroken[0], 3, "seed=1").refused("holds a search with seed=0, not 1", "run=NAME")


def missing() -> None:
    sys.modules["optuna"] = None  # type: ignore[assignment]
    sys.modules.pop("vfn.training.search", None)  # this very file has imported it


@pytest.mark.parametrize(
    ("given", "prepare", "parts"),
    [
        ([], missing, ["sweep=optuna", "pip install optuna"]),
        (["sweep.trials=0"], None, ["sweep.trials=0", "1 or more"]),
        (["sweep.space=3"], None, ["sweep.space=3", "give settings"]),
        (["trainer.devices=2"], None, ["trainer.devices=2", "CUDA_VISIBLE_DEVICES"]),
        (["resume=outputs/s"], None, ["resume=outputs/s", "same run=NAME"]),
        (["data.fields=1"], None, ["field"]),
        (
            ["loss.adversarial=0"],
            None,
            ["loss.adversarial: is given, and searched", "leave out one"],
        ),
    ],
)
def test_refused(
    given: list[str], prepare: Callable[[], None] | None, parts: list[str], tmp_path: Path
) -> None:
    result = run("train.py", *SEARCH, *given, cwd=tmp_path, prepare=prepare)
    result.refused(*parts)
    assert not (tmp_path / "outputs").exists()


def test_what_is_given_is_not_searched(tmp_path: Path) -> None:
    usual = [word for word in SEARCH if not word.startswith("sweep.space")]
    given = [
        "model.generator.depth=3",
        "loss.weight_l1=0",
        "sweep.trials=1",
        "trainer.max_epochs=1",
    ]
    keys = {word.partition("=")[0] for word in given}
    usual = [word for word in usual if word.partition("=")[0] not in keys]
    said = run("train.py", *usual, *given, cwd=tmp_path).ok().out
    assert "model.generator.depth: is given, so it is not searched" in said
    (row,) = table(tmp_path)
    assert not keys & row.keys()
    assert "loss.adversarial" in row
    config = OmegaConf.load(tmp_path / "outputs" / "s" / "trial_000" / "config.yaml")
    assert (config.model.generator.depth, config.loss.weight_l1) == (3, 0)


@pytest.mark.parametrize(
    ("key", "spec", "part"),
    [
        ("loss.adversrial", [0], "did you mean loss.adversarial?"),
        ("data.patch_size", [64], "no single setting of loss or model"),
        ("model.generator", [64], "no single setting"),
        ("loss.adversarial", 0.1, "give a list"),
        ("loss.adversarial", [], "give values such as 0.01"),
        ("loss.adversarial", ["x"], "give values such as 0.01"),
        ("model.generator.width", [1.5], "give values such as 64"),
        ("model.generator.width", {"low": 8, "high": 8}, "low below high"),
        ("loss.adversarial", {"low": 0.0, "high": 1.0, "log": True}, "above 0"),
        ("loss.adversarial", {"low": 0.1, "high": 1.0, "log": "yes"}, "true or false"),
        ("loss.adversarial", {"low": 0.1, "high": 1.0, "step": 1}, "give a list"),
        ("model.generator.residual", {"low": False, "high": True}, "give numbers"),
    ],
)
def test_a_space_that_cannot_be(key: str, spec: object, part: str) -> None:
    files = {g: OmegaConf.load(ROOT / "conf" / g / "virfluonet.yaml") for g in ("loss", "model")}
    config = OmegaConf.create({**files, "data": {"patch_size": 64}})
    with pytest.raises(UserError, match=r"sweep\.space: ") as caught:
        _dimension(key, spec, config)
    assert part in str(caught.value)


def test_the_kinds_of_a_space() -> None:
    from optuna import distributions as d

    config = OmegaConf.create(
        {"model": OmegaConf.load(ROOT / "conf" / "model" / "virfluonet.yaml")}
    )
    for key, spec, kind in (
        ("model.generator.depth", {"low": 4, "high": 6}, d.IntDistribution(4, 6)),
        ("model.adam.lr_generator", {"low": 1e-5, "high": 1, "log": True}, d.FloatDistribution(1e-5, 1, log=True)),
        ("model.generator.residual", [False, True], d.CategoricalDistribution([False, True])),
    ):  # fmt: skip
        assert _dimension(key, spec, config) == kind
