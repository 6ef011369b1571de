"""What happens to running work when things break: is anything lost, and does the same command finish it?

    python bench/faults.py --check
    python bench/faults.py --kills 50 --write docs/reliability.md

Small commands on simulated images are broken on purpose, as `FAULTS` lists: killed, interrupted, left
without disk, without an image, with a damaged checkpoint, or with another process in their folder. After
each fault no file under its final name may be half, and the same command, given again, must end with the
results of a run that nothing happened to, to the last bit. --check fails if anything was lost.
"""

import argparse
import contextlib
import fcntl
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from bench.sections import Tee, write_section
from bench.survival import (
    RUN,
    Job,
    fingerprint,
    half_files,
    leftovers,
    make_jobs,
    train_model,
    write_specimen,
)
from tests.cli import Result, Running

# Share of the kills.
KILLED = {"training": 16, "predicting": 10, "building a store": 7, "evaluating": 8, "a panel": 9}
INTERRUPTS = 5  # of each command and each kind
HANG = 30.0  # s; a command that was told to stop and still runs hangs
DISK = 64 * 2**20  # bytes of the small disk
ROOM = 0.5  # share of what a command writes that finds room on the full one
PLACES = 2  # chains side by side, one for each core of a small machine


@dataclass
class Case:
    """One kind of fault.

    Attributes:
        lost: a sentence for each time that it was not survived.
    """

    name: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    note: str = ""

    def outcome(self, faults: list[str], times: int = 1) -> None:
        """Count one fault, or `times` of them that are judged together by their end."""
        self.tried += times
        self.lost += faults[:times]


@dataclass(frozen=True)
class Setting:
    """Where a chain of faults takes place.

    Attributes:
        jobs: by name.
        wanted: fingerprints of the results that nothing happened to.
        seconds: how long each job works.
        base: folder below which each trial gets its own.
    """

    jobs: dict[str, Job]
    wanted: dict[str, str]
    seconds: dict[str, float]
    base: Path
    specimen: Path

    @contextlib.contextmanager
    def trial(self, name: str) -> Iterator[Path]:
        """A folder with what the job begins from; removed afterwards."""
        folder = (
            self.base / f"{name.replace(' ', '_')}_{threading.get_ident()}_{time.monotonic_ns()}"
        )
        folder.mkdir(parents=True)
        try:
            self.fill(name, folder)
            yield folder
        finally:
            shutil.rmtree(folder)

    def fill(self, name: str, folder: Path) -> None:
        """Copy what the job begins from."""
        for target, source in self.jobs[name].inputs.items():
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, folder / target)

    def written(self, name: str) -> dict[Path, int]:
        """Files that the job writes when nothing happens, and their sizes."""
        folder = self.base.parent / "unbroken" / name.replace(" ", "_")
        given = [folder / target for target in self.jobs[name].inputs if name != "calibrating"]
        return {p: n for p, n in _bytes(folder).items() if p not in given}

    def finish(self, name: str, folder: Path, *more: str) -> list[str]:
        """Give the command again: what is wrong with how it ended."""
        result = self.jobs[name].start(folder, *more).wait()
        return self.judge(name, folder, result)

    def judge(self, name: str, folder: Path, result: Result | None) -> list[str]:
        """What is wrong with a command that should have ended well."""
        if result is None:
            return [f"{name}: hangs"]
        if result.code:
            return [f"{name}: exit code {result.code}: {result.err.strip()[-300:]}"]
        found = [f"{name}: half: {text}" for text in half_files(folder)]
        if not found and fingerprint(self.jobs[name].content(folder)) != self.wanted[name]:
            found = [f"{name}: other results than a run that nothing happened to"]
        return found or [f"{name}: left behind: {text}" for text in leftovers(folder)]


def unbroken(jobs: dict[str, Job], base: Path) -> tuple[dict[str, str], dict[str, float]]:
    """Run every job once: fingerprints of the results, and seconds at work."""

    def one(name: str) -> tuple[str, float]:
        job, folder = jobs[name], base / name.replace(" ", "_")
        folder.mkdir(parents=True)
        Setting(jobs, {}, {}, base, base).fill(name, folder)
        command = job.start(folder)
        job.at_work(folder, command)
        start = time.monotonic()
        result = command.wait()
        seconds = time.monotonic() - start
        if result is None or result.code:
            sys.exit(f"error: {name} fails without any fault: {result}")
        return fingerprint(job.content(folder)), seconds

    with ThreadPoolExecutor(PLACES) as pool:
        done = dict(zip(jobs, pool.map(one, jobs), strict=True))
    return {n: d[0] for n, d in done.items()}, {n: d[1] for n, d in done.items()}


def killed(setting: Setting, name: str, kills: int, seed: int) -> Case:
    """kill -9 at random moments of the work, the same command again after each."""
    case, job = Case(f"kill -9: {name}"), setting.jobs[name]
    rng = random.Random(f"{seed} {name}")
    seconds = setting.seconds[name]
    while case.tried < kills:
        with setting.trial(name) as folder:
            wrong: list[str] = []
            stopped = 0
            while True:
                command = job.start(folder)
                if case.tried + stopped < kills and job.at_work(folder, command):
                    moment = rng.uniform(0, seconds)
                    start = time.monotonic()
                    result = command.wait(moment)
                    if result is None:
                        command.kill()
                        stopped += 1
                        wrong += [
                            f"{name} at {moment:.2f} s: half: {t}" for t in half_files(folder)
                        ]
                        continue
                    if not stopped:  # the machine was slower when the job was timed
                        seconds = min(seconds, time.monotonic() - start)
                else:
                    result = command.wait()
                break
            wrong += setting.judge(name, folder, result)
            if not stopped:
                continue  # it was faster than the moment that was drawn
            case.outcome(wrong, stopped)
    case.note = "same results, bit for bit, after the same command"
    return case


def interrupted(setting: Setting, name: str, how: str, times: int, seed: int) -> Case:
    """Ctrl-C twice, or the terminal closed: exit code 130 at once, and the same command goes on."""
    case = Case(f"{how}: {name}")
    rng = random.Random(f"{seed} {name} {how}")
    seconds = [_interrupt(case, setting, name, how, rng) for _ in range(times)]
    case.note = f"exit code 130 (0: it was done before) within {max(seconds):.1f} s"
    return case


def _interrupt(case: Case, setting: Setting, name: str, how: str, rng: random.Random) -> float:
    """One such fault; the seconds that the command took to leave."""
    job = setting.jobs[name]
    with setting.trial(name) as folder:
        master, slave = os.openpty()
        closed = how == "terminal closed"
        prepare = partial(_in_terminal, os.ttyname(slave)) if closed else None
        command = job.start(folder, prepare=prepare)
        if not job.at_work(folder, command):
            case.outcome([f"{name}: was never at work"])
            return 0.0
        time.sleep(rng.uniform(0, min(1.0, 0.5 * setting.seconds[name])))
        start = time.monotonic()
        os.close(slave)
        if not closed:
            for pause in (0.05, 0.0):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(command.pid, signal.SIGINT)
                time.sleep(pause)
        os.close(master)
        result = command.wait(HANG)
        seconds = time.monotonic() - start
        if result is None:
            command.kill()
            wrong = [f"{name}: hangs"]
        elif result.code not in (130, 0):  # 0: it was done before
            wrong = [f"{name}: exit code {result.code}: {result.err[-300:]}"]
        else:
            wrong = (
                [f"{name}: a traceback: {result.err[-600:]}"] if "Traceback" in result.err else []
            )
        wrong += [f"{name}: half: {text}" for text in half_files(folder)]
        case.outcome(wrong or setting.finish(name, folder))
        return seconds


def _in_terminal(path: str) -> None:
    """Let this process have a terminal of its own, as under ssh; closing it hangs up."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever nohup this bench is run under
    terminal = os.open(path, os.O_RDWR)
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for stream in (0, 1, 2):
        os.dup2(terminal, stream)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of `DISK` bytes at `folder`."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)
        folder.rmdir()


def can_mount(base: Path) -> bool:
    """Whether this user may make a small disk."""
    try:
        with small_disk(base / "may_mount"):
            return True
    except (subprocess.CalledProcessError, FileNotFoundError):
        (base / "may_mount").rmdir()
        return False


def full_disk(setting: Setting, name: str) -> Case:
    """A disk that has room for a part of what is written; then it has room for all."""
    case, folder = Case(f"disk full: {name}"), setting.base / f"disk_{name.replace(' ', '_')}"
    written = setting.written(name)
    with small_disk(folder):
        setting.fill(name, folder)
        filler = folder / "filler"
        filled = shutil.disk_usage(folder).free - int(ROOM * sum(written.values()))
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, filled)
        result = setting.jobs[name].start(folder).wait()
        wrong = _refused(name, result, ("no space", "are free"))
        wrong += [f"{name}: half: {text}" for text in half_files(folder)]
        filler.unlink()
        case.outcome(wrong or setting.finish(name, folder))
    case.note = "one line, exit code 2; done once there is room"
    return case


def file_limit(setting: Setting, name: str) -> Case:
    """The limit on the size of a file is below that of the largest one (ulimit -f)."""
    case = Case(f"file size limit: {name}")
    written = setting.written(name)
    with setting.trial(name) as folder:
        limit = partial(_limit_files, int(ROOM * max(written.values())))
        result = setting.jobs[name].start(folder, prepare=limit).wait()
        wrong = _refused(name, result, ("no space",))
        wrong += [f"{name}: half: {text}" for text in half_files(folder)]
        case.outcome(wrong or setting.finish(name, folder))
    case.note = "one line, exit code 2; done once the limit is gone"
    return case


def _bytes(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def _limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _refused(name: str, result: Result | None, words: tuple[str, ...]) -> list[str]:
    """What is wrong with a refusal: exit code 2, and one line that holds one of the words."""
    if result is None:
        return [f"{name}: hangs"]
    lines = result.err.strip().splitlines()
    if result.code != 2 or len(lines) != 1 or not any(word in lines[0] for word in words):
        return [f"{name}: exit code {result.code}, stderr: {result.err.strip()[-1500:]!r}"]
    return []


def vanishing(setting: Setting, name: str, how: str) -> Case:
    """An image is deleted, or cut in two, while the command is at work; then it is there again."""
    case = Case(f"image {how}: {name}")
    job = setting.jobs[name]
    with setting.trial(name) as folder:
        source = {
            "predicting": setting.specimen / "plate",
            "scoring": folder / "truth",
            "training": setting.specimen / "images",
            "building a store": setting.specimen / "large",
        }[name]
        own = folder / "own"
        shutil.copytree(source, own)
        key = {"predicting": "input", "scoring": "truth"}.get(name, "data.root")
        uncached = ("data.cache=off",) if name == "training" else ()
        changed = (f"{key}={own}", *uncached)
        command = job.start(folder, *changed)
        if not job.at_work(folder, command):
            case.outcome([f"{name}: was never at work"])
            return case
        if name == "training":
            _await(folder / f"outputs/{RUN}/metrics.csv")
        elif name != "predicting":
            time.sleep(0.2 * setting.seconds[name])
        os.kill(command.pid, signal.SIGSTOP)  # so that it is gone before it is read
        victim = sorted(own.glob("*.tif"))[-1]
        saved = victim.read_bytes()
        if how == "deleted":
            victim.unlink()
        else:
            os.truncate(victim, len(saved) // 2)
        os.kill(command.pid, signal.SIGCONT)
        result = command.wait()
        done = len(list((folder / "out").glob("*.ome.tif")))
        halves = [f"{name}: half: {text}" for text in half_files(folder) if victim.name not in text]
        left = len(list(own.glob("*.tif"))) - (how != "deleted")
        victim.write_bytes(saved)
        shutil.copystat(source / victim.name, victim)
        if result is not None and result.code == 0:  # it was read before
            wrong = setting.judge(name, folder, result)
        else:
            wrong = _refused(name, result, (victim.name.split("_")[0],))
        wrong += halves
        if name == "predicting" and done != left:
            wrong.append(f"{name}: {done} fields were predicted")
        case.outcome(wrong or setting.finish(name, folder, *changed))
        case.note = "one line, exit code 2; done once it is back"
    return case


def _await(path: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.002)


def damaged(setting: Setting) -> list[Case]:
    """`last.ckpt` is damaged in many ways: the training goes on from the one before it."""
    name, cases = "training", []
    job = setting.jobs[name]
    with setting.trial(name) as begun:
        job.start(begun, "trainer.max_epochs=3").wait()
        checkpoints = Path("outputs") / RUN / "checkpoints"
        for how, damage in DAMAGES.items():
            case = Case(f"last.ckpt {how}")
            with setting.trial(name) as folder:
                shutil.copytree(begun, folder, dirs_exist_ok=True)
                damage(folder / checkpoints / "last.ckpt")
                result = job.start(folder).wait()
                wrong = setting.judge(name, folder, result)
                if not wrong and result and "going on from" not in result.out:
                    wrong = [f"{name}: does not say that it went back: {result.out[-300:]}"]
                case.outcome(wrong)
                case.note = "goes on from previous.ckpt and says so; same results"
            cases.append(case)
        case = Case("last.ckpt and previous.ckpt damaged")
        for one in ("last", "previous"):
            _flip(begun / checkpoints / f"{one}.ckpt")
        before = _bytes(begun)
        case.outcome(_refused(name, job.start(begun).wait(), ("init=",)))
        if _bytes(begun) != before:
            case.outcome([f"{name}: files were changed"], 0)
        case.note = "refused in a line that names best.ckpt; nothing is overwritten"
        cases.append(case)
    case = Case("best.ckpt with one flipped byte: predicting")
    with setting.trial("predicting") as folder:
        _flip(folder / "model.ckpt")
        case.outcome(_refused(name, setting.jobs["predicting"].start(folder).wait(), ("damaged",)))
        case.note = "refused in a line; torch alone would read it"
    return [*cases, case]


def _flip(path: Path) -> None:
    """Change a byte in the middle of the largest tensor."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    name, extra = (
        int.from_bytes(
            content[largest.header_offset + at : largest.header_offset + at + 2], "little"
        )
        for at in (26, 28)
    )  # what stands between an entry's header of 30 bytes and its content
    content[largest.header_offset + 30 + name + extra + largest.file_size // 2] ^= 0xFF
    path.write_bytes(content)


def _scribble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 512] = random.Random(0).randbytes(512)
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut in two": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "all zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "with 512 random bytes": _scribble,
    "with one flipped byte": _flip,
    "missing": lambda path: path.unlink(),
}


def together(setting: Setting, name: str) -> Case:
    """A second process on the same folder, while the first is at work."""
    case, job = Case(f"two processes: {name}"), setting.jobs[name]
    with setting.trial(name) as folder:
        first = job.start(folder)
        if not job.at_work(folder, first):
            case.outcome([f"{name}: was never at work"])
            return case
        os.kill(first.pid, signal.SIGSTOP)
        second = job.start(folder).wait()
        os.kill(first.pid, signal.SIGCONT)
        wrong = _refused(name, second, (f"process {first.pid} ",))
        case.outcome(wrong + setting.judge(name, folder, first.wait()))
        case.note = "the second is told who is at it, and since when"
    return case


def jobs_of_a_plate(setting: Setting) -> Case:
    """Two shares of a plate go side by side; the same share twice, or the whole beside it, does not."""
    name, case = "predicting", Case("two processes: shares of a plate")
    job = setting.jobs[name]
    with setting.trial(name) as folder:
        first = job.start(folder, "shard=1/2")
        job.at_work(folder, first)
        os.kill(first.pid, signal.SIGSTOP)
        holder = (f"process {first.pid} ",)
        other = job.start(folder, "shard=2/2")
        again = job.start(folder, "shard=1/2")
        result = other.wait()
        wrong = [] if result and result.code == 0 else [f"{name}: the other share: {result}"]
        wrong += _refused(name, again.wait(), holder)
        wrong += _refused(name, job.start(folder).wait(), holder)
        wrong += _refused(name, job.start(folder, "shard=1/3").wait(), holder)
        os.kill(first.pid, signal.SIGCONT)
        case.outcome(wrong + setting.judge(name, folder, first.wait()))
        case.note = "1/2 and 2/2 share the folder; 1/2 again, 1/3 and the whole are refused"
    return case


def panels_together(setting: Setting) -> Case:
    """Two processes of one panel share its trainings."""
    name, case = "a panel", Case("two processes: a panel")
    with setting.trial(name) as folder:
        both: list[Running] = [setting.jobs[name].start(folder) for _ in range(2)]
        results = [one.wait() for one in both]
        case.outcome([w for r in results for w in setting.judge(name, folder, r)])
        case.note = "by design they share the trainings out; same results"
    return case


def chains(
    setting: Setting, kills: int, seed: int
) -> list[tuple[str, Callable[[], Case | list[Case]]]]:
    """Everything that is tried, by name, the longest first."""
    whole = sum(KILLED.values())
    shares = {name: round(kills * part / whole) for name, part in KILLED.items()}
    shares["training"] += kills - sum(shares.values())

    work: list[tuple[str, Callable[[], Case | list[Case]]]] = []

    def add(what: Callable[..., Case | list[Case]], *args: object) -> None:
        work.append((f"{what.__name__} {args}", partial(what, setting, *args)))

    for name, count in shares.items():
        add(killed, name, count, seed)
    add(damaged)
    common = ["training", "predicting", "building a store", "evaluating", "a panel"]
    if can_mount(setting.base):
        for name in [*common, "the doctor", "calibrating"]:
            add(full_disk, name)
    for name in common:
        add(file_limit, name)
    for name, how in (
        ("predicting", "deleted"), ("predicting", "cut in two"), ("scoring", "deleted"),
        ("scoring", "cut in two"), ("training", "deleted"), ("building a store", "deleted"),
    ):  # fmt: skip
        add(vanishing, name, how)
    for name in ("training", "predicting", "evaluating", "the doctor", "calibrating"):
        add(together, name)
    add(jobs_of_a_plate)
    add(panels_together)
    for name in ("training", "predicting", "evaluating", "a panel"):
        add(interrupted, name, "Ctrl-C twice", INTERRUPTS, seed)
    for name in ("training", "predicting", "evaluating"):
        add(interrupted, name, "terminal closed", INTERRUPTS, seed)
    return work


def _told(chain: Callable[[], Case | list[Case]]) -> list[Case]:
    """Do a chain, and say what came of it as soon as it is done."""
    found = chain()
    cases = found if isinstance(found, list) else [found]
    for case in cases:
        print(
            f"{case.name}: {case.tried} tried, {len(case.lost)} lost", file=sys.stderr, flush=True
        )
    return cases


def main() -> int:
    """Command line; 1 with --check where something was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="kill -9, in all")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "outputs" / "faults")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--check", action="store_true", help="fail if anything was lost")
    parser.add_argument("--write", type=Path, help="put the table into this page")
    parser.add_argument(
        "--only", default="", help="only chains whose names match this regular expression"
    )
    args = parser.parse_args()
    start = time.monotonic()
    output = args.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    specimen = output / "specimen"
    write_specimen(specimen)
    train_model(specimen)
    jobs = make_jobs(specimen)
    wanted, seconds = unbroken(jobs, output / "unbroken")
    print("seconds at work: " + ", ".join(f"{n} {s:.1f}" for n, s in seconds.items()), flush=True)
    setting = Setting(jobs, wanted, seconds, output / "trials", specimen)
    setting.base.mkdir()
    work = [
        chain
        for name, chain in chains(setting, args.kills, args.seed)
        if re.search(args.only, name)
    ]
    with ThreadPoolExecutor(PLACES) as pool:
        results = list(pool.map(_told, work))
    cases = [case for found in results for case in found]
    shutil.rmtree(output)
    say = Tee()
    tried, lost = sum(c.tried for c in cases), sum(len(c.lost) for c in cases)
    say(f"{'fault':<44} {'tried':>5} {'survived':>8}  note")
    for case in cases:
        say(f"{case.name:<44} {case.tried:>5} {case.tried - len(case.lost):>8}  {case.note}")
    for sentence in [sentence for case in cases for sentence in case.lost]:
        say(f"LOST {sentence}")
    say(f"{tried} faults in {time.monotonic() - start:.0f} s, {PLACES} side by side")
    say(f"RATIO faults_survived {(tried - lost) / tried:.4f}")
    if args.write:
        write_section(args.write, "faults", say.lines)
    return 1 if args.check and lost else 0


if __name__ == "__main__":
    sys.exit(main())
