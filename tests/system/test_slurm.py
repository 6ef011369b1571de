"""What SLURM started, from its variables: SLURM itself is tried by bench/slurm.py."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from tests.cli import run
from vfn.errors import UserError
from vfn.system.slurm import processes
from vfn.training.outcome import _leave_to_first

AUTO = {"name": "auto", "devices": 1, "num_nodes": 1}
SLURM = {"name": "slurm", "devices": "auto", "num_nodes": 1}
FEW = ["data=simulated", "data.fields=4", "data.height=64", "data.width=64", "data.patch_size=32"]


def step(tasks: int, on_each: str, nodes: int = 1) -> dict[str, str]:
    """The variables of a task that srun started."""
    return {
        "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": str(tasks), "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_STEP_TASKS_PER_NODE": on_each,
    }  # fmt: skip


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch):
    """Sets SLURM's variables, and none but those."""

    def start(variables: dict[str, str]) -> None:
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    start({})
    return start


@pytest.mark.parametrize("devices", ["auto", 2, [0, 1]])
def test_the_tasks_are_the_processes(started, devices: object) -> None:
    started(step(4, "2(x2)", nodes=2) | {"SLURM_NTASKS_PER_NODE": "8"})  # what sbatch was asked for
    found, (environment,) = processes({**SLURM, "num_nodes": 2, "devices": devices}, gpu=False)
    assert found == (devices if isinstance(devices, list) else 2)
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue  # its handlers would take the place of ours
    environment.validate_settings(2, 2)
    assert environment.world_size() == 4


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"},  # a batch script
        step(1, "1"),  # srun with one task, as the jobs of a sweep
    ],
)
def test_a_training_of_its_own(started, variables: dict[str, str]) -> None:
    started(variables)
    for trainer in (AUTO, {"name": "ddp", "devices": 4, "num_nodes": 1}):
        devices, environment = processes(trainer, gpu=False)
        assert devices == trainer["devices"]
        assert [type(e) for e in environment] == [LightningEnvironment] * bool(variables)


def test_torchrun_goes_before_slurm(started, monkeypatch: pytest.MonkeyPatch) -> None:
    started(step(2, "1(x2)", nodes=2))
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    assert processes({"name": "ddp", "devices": 4, "num_nodes": 2}, gpu=False) == (4, [])


@pytest.mark.parametrize(
    ("variables", "trainer", "parts"),
    [
        ({}, SLURM, ["trainer=slurm", "put srun before", "trainer=ddp"]),
        ({"SLURM_NTASKS": "4"}, SLURM, ["trainer=slurm", "put srun before"]),
        (step(4, "4"), AUTO, ["trainer=auto", "4 tasks", "trainer=slurm, or srun --ntasks=1"]),
        (step(4, "2(x2)", 2), SLURM, ["trainer.num_nodes=1", "give trainer.num_nodes=2"]),
        (step(3, "2,1", 2), {**SLURM, "num_nodes": 2}, ["2,1 tasks", "--ntasks-per-node"]),
        (step(4, "4"), {**SLURM, "devices": 8}, ["trainer.devices=8", "4 task(s)", "=8"]),
    ],
)
def test_what_does_not_fit_is_refused(started, variables, trainer, parts: list[str]) -> None:
    started(variables)
    with pytest.raises(UserError) as refused:
        processes(trainer, gpu=False)
    for part in parts:
        assert part in str(refused.value)


def test_a_gpu_for_each_task(started, monkeypatch: pytest.MonkeyPatch) -> None:
    started(step(4, "4"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"sees 1 GPU.*--gpus-per-node=4"):
        processes(SLURM, gpu=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes(SLURM, gpu=True)[0] == 4


def test_a_batch_script_without_srun(tmp_path: Path) -> None:
    """Its tasks may be meant as cores: `trainer=slurm` alone needs srun."""
    env = {"SLURM_NTASKS": "3", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}
    few = [*FEW, "data.patches_per_epoch=4", "trainer.max_epochs=1", "model.generator.width=4",
           "model.generator.depth=3", "loss=mae", "logger=csv", "trainer.accelerator=cpu"]  # fmt: skip
    run("train.py", *few, "run=r", cwd=tmp_path, env=env).ok()
    run("train.py", *few, "run=s", "trainer=slurm", cwd=tmp_path, env=env).refused("put srun")


def test_the_first_process_outlives_those_it_started() -> None:
    """Lightning, which killed them, would take that for a crash and kill the first, too."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = [child]
    child.kill()
    launcher = SimpleNamespace(procs=started)
    trainer = SimpleNamespace(global_rank=0, strategy=SimpleNamespace(launcher=launcher))
    _leave_to_first(trainer)  # type: ignore[arg-type]
    assert child.returncode is not None
    assert started == []


def test_the_others_leave_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another exit code than 0 would let SLURM, torchrun or Lightning kill the first."""
    ignored = []
    monkeypatch.setattr("vfn.training.outcome.ignore_signals", lambda: ignored.append(True))
    with pytest.raises(SystemExit) as left:
        _leave_to_first(SimpleNamespace(global_rank=1))  # type: ignore[arg-type]
    assert (left.value.code, ignored) == (0, [True])
