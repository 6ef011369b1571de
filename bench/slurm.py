"""Does what docs/cluster.md says hold under a real SLURM?

    python bench/slurm.py --check
    python bench/slurm.py --write docs/cluster.md

Submits small jobs on simulated images to the default partition, on CPUs: a training on two nodes, the same
stopped in three ways and requeued, a Hydra sweep, and jobs that share a plate and an evaluation. What they
leave must be what the same commands leave without SLURM, to the last bit where they compute in float32.
Runs in a folder that all nodes see; a quarter of an hour. Where there is no SLURM it says so.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from bench.sections import Tee, write_section
from bench.survival import RUN, TASK, TINY, evaluation, fingerprint, pixels, training
from vfn.data.simulated import write_fields

LIMIT = 600.0  # s that a job may take, waiting for others included
AT_WORK = 200  # steps of an epoch; the stops come within the first
NODES = 2
FEW = tuple(word for word in TINY if not word.startswith(("data.patches", "trainer=")))
LEARN = (*TASK, "data.root=images", *FEW, f"data.patches_per_epoch={4 * AT_WORK}", f"run={RUN}",
         "trainer.max_epochs=2", "resume=auto", "trainer.accelerator=cpu")  # fmt: skip
JOBS = 3  # of an array
submitted: list[str] = []


def script(command: str, *options: str) -> str:
    """A batch script of docs/cluster.md, on CPUs."""
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {option}" for option in options), command, ""])


def python(program: str, *overrides: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / program), *overrides]


def call(*command: str) -> str:
    """What a command of SLURM's prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def submit(folder: Path, text: str) -> str:
    """The number of the job."""
    (folder / "job.sh").write_text(text)
    log = ("--open-mode=append", "--output=job.log", f"--chdir={folder}")
    job = call("sbatch", "--parsable", *log, str(folder / "job.sh")).split(";")[0]
    submitted.append(job)
    return job


def state(job: str) -> tuple[str, int]:
    """In a word, and how often it was requeued; of an array the word of those that are not done."""
    shown = call("scontrol", "show", "job", job)
    states = set(re.findall(r"JobState=(\w+)", shown))
    restarts = max(int(n) for n in re.findall(r"Restarts=(\d+)", shown))
    return (states - {"COMPLETED"} or states).pop(), restarts


def wait(what: Callable[[], bool], why: str) -> None:
    end = time.monotonic() + LIMIT
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"{why}: not within {LIMIT:.0f} s")
        time.sleep(0.5)


def finish(job: str) -> None:
    """Wait for its end; what was requeued need not wait out SLURM's two minutes."""

    def over() -> bool:
        word, _ = state(job)
        if word == "PENDING":
            subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], check=False, capture_output=True)  # fmt: skip
        return word not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")

    wait(over, f"job {job}")
    if (word := state(job)[0]) != "COMPLETED":
        raise RuntimeError(f"job {job}: {word}")


def train(folder: Path, overrides: tuple[str, ...] = LEARN, *options: str) -> str:
    """Submit the training of docs/cluster.md."""
    command = python("train.py", *overrides, "trainer=slurm", f"trainer.num_nodes={NODES}")
    learn = " ".join(f"'{word}'" for word in command)
    again = "{ code=$?; [ $code -eq 130 ] && scontrol requeue $SLURM_JOB_ID; exit $code; }"
    options = (f"--nodes={NODES} --ntasks-per-node=1", "--requeue", *options)
    return submit(folder, script(f"srun --kill-on-bad-exit {learn} || {again}", *options))


def two_nodes(folder: Path, wanted: str) -> str:
    finish(train(folder))
    return compared(folder, wanted)


def compared(folder: Path, wanted: str) -> str:
    if fingerprint(training(folder)) != wanted:
        raise RuntimeError("other weights or figures than trainer=ddp")
    said = (folder / "job.log").read_text()
    if said.count("epoch 1: ") != 1 or "Traceback" in said:
        raise RuntimeError(f"the log: {said[-500:]}")
    return "weights, optimisers, metrics.csv as trainer=ddp trainer.devices=2, bit for bit"


def stopped(stop: list[str], folder: Path, wanted: str) -> str:
    """Stop it within its first epoch; the queue starts it again."""
    job = train(folder)
    log = folder / "job.log"
    wait(lambda: log.exists() and "training phase" in log.read_text(), "the training")
    time.sleep(2.0)
    call(*stop, job)
    requeued(folder, job)
    finish(job)
    return "saved within the epoch, requeued; " + compared(folder, wanted)


def requeued(folder: Path, job: str) -> None:
    wait(lambda: state(job) == ("PENDING", 1), "the requeue")  # not while it still leaves
    said = (folder / "job.log").read_text()
    if "interrupted and saved" not in said or "epoch 0: " in said:
        raise RuntimeError(f"not saved within its first epoch: {said[-500:]}")


def timed_out(folder: Path, _: str) -> str:
    """An epoch that takes longer than the job may; SLURM looks at the time every half minute or so."""
    job = train(folder, (*LEARN, "data.patches_per_epoch=80000"), "--time=2", "--signal=TERM@60")
    requeued(folder, job)
    return "--signal=TERM@60: saved within the epoch, requeued"


def swept(folder: Path, _: str) -> str:
    launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=10",
                "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2")  # fmt: skip
    few = (*TASK, "data.root=images", *TINY, "trainer.max_epochs=1", "run=s")
    for more in (launcher, ("run=alone",)):
        subprocess.run(python("train.py", "-m", *few, "seed=0,1", *more), cwd=folder, check=True,
                       capture_output=True, timeout=LIMIT)  # fmt: skip
    tables = []
    for name in ("s", "alone"):
        rows = [(folder / f"outputs/{name}/{k}_seed={k}/metrics.csv").read_text().split(",") for k in (0, 1)]  # fmt: skip
        tables.append([row[-4:] for row in rows])
    if tables[0] != tables[1]:
        raise RuntimeError(f"other figures: {tables}")
    return (
        "a job array of two trainings; the last four columns of metrics.csv as without a launcher"
    )


def array(command: list[str], folder: Path) -> None:
    line = " ".join(f"'{word}'" for word in command)
    finish(submit(folder, script(f"{line} shard=$SLURM_ARRAY_TASK_ID/{JOBS}", f"--array=1-{JOBS}")))


def plate(folder: Path, _: str) -> str:
    predict = python("predict.py", "ckpt=model.ckpt", "input=plate", "precision=float32")
    array([*predict, "output=out"], folder)
    subprocess.run([*predict, "output=alone"], cwd=folder, check=True, capture_output=True)
    counts = [int(n) for n in re.findall(r"(\d+) field\(s\) in", (folder / "job.log").read_text())]
    fields = len(list((folder / "plate").iterdir()))
    if sum(counts) != fields or fingerprint(pixels(folder / "out")) != fingerprint(pixels(folder / "alone")):  # fmt: skip
        raise RuntimeError(f"{counts} of {fields} fields, or other pixels")
    return f"{fields} fields by jobs of {sorted(counts)}, each once; pixels as by one job"


def evaluated(folder: Path, _: str) -> str:
    evaluate = python("evaluate.py", "ckpt=model.ckpt", "data.root=images", "precision=float32")
    array([*evaluate, "output=e"], folder)
    shared = {p.name: p.stat().st_mtime_ns for p in (folder / "e" / "predictions").iterdir()}
    subprocess.run([*evaluate, "output=e"], cwd=folder, check=True, capture_output=True)
    if shared != {p.name: p.stat().st_mtime_ns for p in (folder / "e" / "predictions").iterdir()}:
        raise RuntimeError("fields were predicted anew")
    found = fingerprint(evaluation(folder))
    shutil.rmtree(folder / "e")
    subprocess.run([*evaluate, "output=e"], cwd=folder, check=True, capture_output=True)
    if fingerprint(evaluation(folder)) != found:
        raise RuntimeError("other figures than by one job")
    return f"{len(shared)} test fields; nothing predicted anew, figures as by one job"


CASES: dict[str, Callable[[Path, str], str]] = {
    "two nodes": two_nodes,
    "scancel --signal=TERM": lambda *a: stopped(["scancel", "--signal=TERM"], *a),
    "scontrol requeue": lambda *a: stopped(["scontrol", "requeue"], *a),
    "time is up": timed_out,
    "Hydra sweep": swept,
    "predict.py array": plate,
    "evaluate.py array": evaluated,
}


def main() -> int:
    """Command line; 1 with --check where something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=REPOSITORY / "outputs" / "slurm")
    parser.add_argument("--check", action="store_true", help="fail if anything failed")
    parser.add_argument("--write", type=Path, help="put the lines into this page")
    parser.add_argument("--only", default="", help="only cases that match this regular expression")
    args = parser.parse_args()
    if not shutil.which("sbatch") or subprocess.run(["sinfo"], check=False, capture_output=True).returncode:  # fmt: skip
        print("not run: no SLURM here")
        return 0
    base = args.output.resolve()
    shutil.rmtree(base, ignore_errors=True)
    specimen = base / "specimen"
    write_fields(specimen / "images", range(8), ("phase", "dapi"), (96, 128))
    write_fields(specimen / "plate", range(100, 107), ("phase",), (200, 240))
    os.environ |= {"VFN_CACHE": str(base / "cache"), "OMP_NUM_THREADS": "1"}
    alone = python("train.py", *LEARN, "trainer=ddp", f"trainer.devices={NODES}")
    subprocess.run(alone, cwd=specimen, check=True, capture_output=True)
    wanted = fingerprint(training(specimen))
    shutil.copy(specimen / "outputs" / RUN / "checkpoints" / "best.ckpt", specimen / "model.ckpt")
    say, failed = Tee(), 0
    say(f"{call('sinfo', '--version')}; {NODES} nodes")
    for name, case in CASES.items():
        if not re.search(args.only, name):
            continue
        folder = base / re.sub(r"\W+", "_", name)
        shutil.copytree(specimen, folder, ignore=shutil.ignore_patterns("outputs"))
        try:
            say(f"OK      {name:<22} {case(folder, wanted)}")
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            failed += 1
            say(f"FAILED  {name:<22} {' '.join(str(error).split())}")
        finally:  # what a case leaves to the queue
            subprocess.run(["scancel", *submitted], check=False, capture_output=True)
    if args.write:
        write_section(args.write, "slurm", say.lines)
    return 1 if args.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
