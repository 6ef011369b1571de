"""Processes that SLURM starts for one training: `srun python train.py trainer=slurm`.

Lightning supports SLURM, but takes any job with tasks for a distributed training: also a batch script that
requested tasks to get cores, or a shell. It reports a mismatch by a traceback, or hangs.
"""

import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from vfn.errors import UserError


@dataclass(frozen=True)
class Step:
    """The SLURM job step of this process.

    Attributes:
        on_each: tasks on each node, as SLURM writes them: 4(x2).
    """

    tasks: int
    nodes: int
    on_each: str

    @classmethod
    def here(cls) -> "Step | None":
        """Return the step, or None in a batch script, in a shell (srun --pty) and outside SLURM."""
        env = os.environ
        # What a shell starts by a further srun inherits its variables, but not its terminal.
        shell = "SLURM_PTY_PORT" in env and sys.stdin is not None and sys.stdin.isatty()
        if "SLURM_STEP_ID" not in env or shell:
            return None
        tasks, nodes = (int(env.get(f"SLURM_STEP_NUM_{what}", 1)) for what in ("TASKS", "NODES"))
        return cls(tasks, nodes, env.get("SLURM_STEP_TASKS_PER_NODE", str(tasks)))


class _Tasks(SLURMEnvironment):
    """Lightning's environment without its checks, which read the numbers of the job, not of the step."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Do nothing: `processes` has checked."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Do nothing: any way of requesting tasks is fine."""


def processes(trainer: dict[str, Any], gpu: bool) -> tuple[Any, list[ClusterEnvironment]]:
    """Tell whether SLURM has started the processes of a training or Lightning will.

    Args:
        trainer: the settings of the group.

    Returns:
        Lightning's `devices`, and its plugins; without any it detects the environment itself.

    Raises:
        UserError: SLURM started other processes than the settings ask for.
    """
    devices, step, name = trainer["devices"], Step.here(), trainer.get("name")
    if TorchElasticEnvironment.detect():  # torchrun, under SLURM or not
        return devices, []
    ours = name == "slurm"
    if ours and step is None:
        raise UserError(
            "trainer=slurm: srun did not start this process; put srun before python train.py in the batch "
            "script, or give trainer=ddp for the GPUs of this machine"
        )
    if step is None or (step.tasks == 1 and not ours):
        return devices, [LightningEnvironment()] if "SLURM_NTASKS" in os.environ else []
    on_each = _tasks_on_each_node(trainer, step)
    seen = torch.cuda.device_count()
    if gpu and seen < on_each:
        raise UserError(
            f"trainer={name}: {on_each} tasks on each node, and this one sees {seen} GPU(s); give "
            f"--gpus-per-node={on_each} in place of --gpus-per-task, one for each task"
        )
    return devices if isinstance(devices, list) else on_each, [_Tasks(auto_requeue=False)]


def _tasks_on_each_node(trainer: dict[str, Any], step: Step) -> int:
    """Return the number of tasks on each node.

    Raises:
        UserError: the settings ask for others.
    """
    devices, name = trainer["devices"], trainer.get("name")
    wanted = str(len(devices) if isinstance(devices, list) else devices)
    on_each = step.tasks // step.nodes
    if wanted == "1" and trainer["num_nodes"] == 1 and step.tasks > 1:
        raise UserError(
            f"trainer={name}: srun started {step.tasks} tasks, and each would train by itself; "
            "give trainer=slurm, or srun --ntasks=1"
        )
    if "," in step.on_each:
        raise UserError(
            f"trainer={name}: srun started {step.on_each} tasks on the nodes; give as many to "
            "each, by --ntasks-per-node"
        )
    if trainer["num_nodes"] != step.nodes:
        raise UserError(
            f"trainer.num_nodes={trainer['num_nodes']}: srun started tasks on {step.nodes} node(s); give "
            f"trainer.num_nodes={step.nodes}"
        )
    if wanted not in ("auto", "-1", str(on_each)):
        raise UserError(
            f"trainer.devices={devices}: srun started {on_each} task(s) on each node; leave trainer.devices "
            f"out, or give --ntasks-per-node={wanted}"
        )
    return on_each
