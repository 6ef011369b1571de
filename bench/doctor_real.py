"""The doctor on every folder of real images: is what it finds true, and does it find what is planted?

    python bench/doctor_real.py --data ../shared/data --output outputs/doctor --check

First every folder as it is; what must be found, and that nothing else above a note is, stands in
`FOLDERS`. Then faults are planted in copies. --check fails if a finding is missing or unexpected.
"""

import argparse
import contextlib
import csv
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from vfn.data.images import read_image
from vfn.doctor.case import Case
from vfn.doctor.command import diagnose
from vfn.doctor.findings import NOTE

PHENIX = "sk1fk1fl1"
BBBC022 = ["data.channels={dna:Ch01,rna:Ch02}", "task.inputs=[dna]", "task.targets=[rna]"]
SCHWANN = [
    "data.channels={dna:1,er:2,actin:3}", "task.inputs=[er,actin]", "task.targets=[dna]",
    'data.pattern="(?P<well>[A-H]\\d)_01_(?P<channel>\\d)_(?P<site>\\d)_"',
]  # fmt: skip
TRANSLOCATION = [
    "data.channels={gfp:Channel1,dna:Channel2}", "task.inputs=[gfp]", "task.targets=[dna]",
]  # fmt: skip

DEEPCELL = [
    "task.inputs=[phase]", "task.targets=[nuclear]", "data.unpaired=skip", "data.illumination=true",
]  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """A folder below --data.

    Attributes:
        overrides: of train.py.
        look: (kind, channel) of what must be found above a note; nothing else may be.
        note: (kind, channel) of what must be noted.
        never: (kind, channel) of what must not be found at all.
        verdict: how it must begin.
    """

    path: str
    overrides: list[str]
    look: set[tuple[str, str]] = field(default_factory=set)
    note: set[tuple[str, str]] = field(default_factory=set)
    never: set[tuple[str, str]] = field(default_factory=set)
    verdict: str = "ready"


def phenix(**channels: int) -> str:
    """`data.channels` of Opera Phenix names."""
    return f"data.channels={{{','.join(f'{n}:ch{i}{PHENIX}' for n, i in channels.items())}}}"


SPATIAL = "data.split=spatial"
FOLDERS = {
    "bbbc036": Folder(
        "u2os_cps/bbbc036_5ch",
        ["data.channels={dna:Hoechst,er:ERSyto,rna:ERSytoBleed,golgi_actin:Ph_golgi,mito:Mito}",
         "task.inputs=[golgi_actin,rna]", "task.targets=[dna,er,mito]", SPATIAL],
        note={("saturated", "golgi_actin"), ("saturated", "rna")},
    ),
    # Dead cells clip; three channels lie 1 to 3 rows off; DNA against actin has no clear peak.
    "jump": Folder(
        "u2os_cps/jump_5ch",
        [phenix(mito=1, rna=2, er=3, dna=4, golgi_actin=5),
         "task.inputs=[dna]", "task.targets=[mito,rna,er,golgi_actin]", SPATIAL],
        note={("saturated", "mito"), ("saturated", "rna"), ("saturated", "er")},
        never={("shift", "golgi_actin")},
    ),
    "bbbc022_w1w2w3": Folder(
        "u2os_cps/bbbc022_w1w2w3",
        ["data.channels={dna:0,er:1,rna:2}", "task.inputs=[er]", "task.targets=[rna,dna]", SPATIAL],
        note={("saturated", "rna")},
    ),
    "bbbc022_w1noisy_w3": Folder(
        "u2os_cps/bbbc022_w1noisy_w3", BBBC022,
        note={("noise", "dna"), ("shift", "rna")},
    ),
    # Two sites of one well in two parts: that is what a split by fields does here.
    "bbbc022_w1": Folder(
        "u2os_cps/bbbc022_w1",
        ["data.channels={dna:w1}", "task.inputs=[dna]", "task.targets=[dna]", "data.split=field",
         'data.pattern="(?P<well>[A-P]\\d\\d)_s(?P<site>\\d)_(?P<channel>w1)"'],
        look={("leak", "")}, verdict="look at",
    ),
    "bbbc006_z00": Folder(
        "u2os_af/bbbc006_z00_w1",
        ["data.channels={dna:w1}", "task.inputs=[dna]", "task.targets=[dna]",
         'data.pattern="_(?P<well>[a-p]\\d\\d)_s(?P<site>\\d)_(?P<channel>w1)"'],
    ),
    "bbbc006_sharp": Folder(
        "u2os_af/bbbc006_zaligned10_w1",
        ["data.channels={dna:w1}", "task.inputs=[dna]", "task.targets=[dna]"],
    ),
    # One true pair; the others have only the one or the other.
    "bbbc006_pair": Folder(
        "u2os_af",
        ["data.channels={blurred:00,sharp:aligned10}", "task.inputs=[blurred]",
         "task.targets=[sharp]", "data.unpaired=skip", SPATIAL,
         'data.pattern="z(?P<channel>00|aligned10)_w1/.*?_(?P<well>[a-p]\\d\\d)_+s(?P<site>\\d)_"'],
        note={("unpaired", "sharp"), ("unpaired", "blurred")},
    ),
    "u2os_translocation": Folder("u2os_translocation", TRANSLOCATION),
    # Offsets within 1 px, brightfield included.
    "daoy": Folder(
        "other_cps/daoy_5ch_brightfield",
        [phenix(brightfield=1, er=2, golgi_actin=3, mito=4, dna=5, rna=6),
         "task.inputs=[brightfield]", "task.targets=[er,golgi_actin,mito,dna,rna]", SPATIAL],
        note={("saturated", "mito")},
    ),
    "a549": Folder(
        "other_cps/a549_3ch",
        [phenix(golgi_actin=2, rna=3, dna=5), "task.inputs=[golgi_actin]",
         "task.targets=[rna,dna]", SPATIAL],
    ),
    "schwann": Folder(
        "other_cps/schwann_3ch", SCHWANN,
        note={("bits", "dna"), ("bits", "er"), ("bits", "actin"), ("saturated", "er")},
    ),
    "deepcell": Folder(
        "phase_fluo/deepcell/training_data",
        ["task.inputs=[phase]", "task.targets=[nuclear]", "data.unpaired=skip"],
        look={("illumination", "phase")}, note={("unpaired", "nuclear"), ("size", "")},
        verdict="look at 6 fields",
    ),
    "isl": Folder(
        "phase_fluo/isl_neurons",
        ["data.channels={phase:PHASE_CONTRAST,dapi:DAPI_CONFOCAL,map2:MAP2_CONFOCAL}",
         "task.inputs=[phase]", "task.targets=[dapi,map2]", "task.input_z=[0,6,12]", SPATIAL,
         'data.pattern="well-(?P<well>\\w+),.*?(?:z_depth-(?P<z>\\d+)|MAXPROJECT),channel-'
         '(?P<channel>[A-Z0-9_]+),"'],
        note={("saturated", "dapi")},
    ),
    "sephace": Folder(
        "phase_fluo/sephace_brightfield_z",
        ["data.manifest=MANIFEST", "task.inputs=[brightfield]", "task.targets=[dapi]",
         "task.input_z=[-10.3,0,9.75]", SPATIAL],
    ),
    "keratinocyte": Folder(
        "phase_fluo/keratinocyte_frm",
        ["data.channels={phase:c1,dapi:c2}", "task.inputs=[phase]", "task.targets=[dapi]", SPATIAL,
         'data.pattern="xy(?P<site>\\d)(?P<channel>c\\d)"'],
        note={("saturated", "dapi")},
    ),
}  # fmt: skip


def sephace_manifest(data: Path, folder: Path) -> Path:
    """Brightfield at three heights, DAPI at one; heights in um from the plane in focus."""
    place = data / "phase_fluo/sephace_brightfield_z/Set_1"
    rows = [("Set_1", "dapi", place / "fl.tif", 0.0)]
    for path in sorted(place.glob("fine_*.tif")):
        height = round(float(path.stem.split("-Z")[1]) - 1352.25, 2)
        rows.append(("Set_1", "brightfield", path, height))
    manifest = folder / "sephace.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("field", "channel", "path", "z"), *rows])
    return manifest


def look(root: Path, overrides: list[str], output: Path) -> Case:
    """Run the doctor as the command line does, without starting a process each time."""
    GlobalHydra.instance().clear()
    typed = ["data=folder", f"data.root={root}", *overrides, f"output={output}"]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("doctor", typed, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with contextlib.redirect_stdout(io.StringIO()):
        return diagnose(config)


def found(case: Case, note: bool) -> set[tuple[str, str]]:
    """(kind, channel) of the notes, or of what is above a note."""
    return {(f.kind, f.channel) for f in case.findings if (f.severity == NOTE) == note}


def judge(name: str, folder: Folder, case: Case) -> list[str]:
    """What disagrees with `folder`, in words."""
    serious, notes = found(case, False), found(case, True)
    wrong = [f"{name}: not found: {kind} {channel}" for kind, channel in folder.look - serious]
    wrong += [f"{name}: false alarm: {kind} {channel}" for kind, channel in serious - folder.look]
    wrong += [f"{name}: not noted: {kind} {channel}" for kind, channel in folder.note - notes]
    wrong += [f"{name}: {k} {c} has no clear peak" for k, c in folder.never & (serious | notes)]
    if not case.verdict.startswith(folder.verdict):
        wrong.append(f"{name}: verdict {case.verdict}, not {folder.verdict}")
    return wrong


Plant = Callable[[Path], None]


@dataclass(frozen=True)
class Fault:
    """What is planted in a copy, and what must be said of it.

    Attributes:
        kinds: findings, one of which must be there.
        fields: they are on these, and no other finding above a note is on any other.
        known: fields with a fault of their own, just below what is reported, which another median of
            the set may lift above it.
    """

    plant: Plant
    kinds: set[str]
    fields: set[str]
    overrides: tuple[str, ...] = ()
    known: frozenset[str] = frozenset()


def edit(pattern: str, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """Change the pixels of one file."""

    def plant(root: Path) -> None:
        (path,) = root.glob(pattern)
        tifffile.imwrite(path, change(read_image(path).array[0]), compression="lzw")

    return plant


def exchange(one: str, other: str) -> Plant:
    """Two files get each other's names."""

    def plant(root: Path) -> None:
        (a,), (b,) = root.glob(one), root.glob(other)
        a.rename(root / "hold")
        b.rename(a)
        (root / "hold").rename(b)

    return plant


def copy(names: dict[str, str]) -> Plant:
    """Files under second names."""

    def plant(root: Path) -> None:
        for source, target in names.items():
            shutil.copy(root / source, root / target)

    return plant


def truncate(pattern: str) -> Plant:
    """The last third of a file is gone."""

    def plant(root: Path) -> None:
        (path,) = root.glob(pattern)
        os.truncate(path, path.stat().st_size * 2 // 3)

    return plant


def as_wells(root: Path) -> None:
    """Names that hold a well and a site, as microscopes write them, without any pattern given."""
    for number in range(8):
        for channel in ("Ch01", "Ch02"):
            well, site = "ABCD"[number // 2], number % 2 + 1
            (root / f"{channel}_{number:02d}.tif").rename(root / f"{well}02_s{site}_{channel}.tif")


def shifted(rows: int, columns: int) -> Callable[[np.ndarray], np.ndarray]:
    """Moved, the border filled by mirroring."""
    pad = max(abs(rows), abs(columns))

    def change(image: np.ndarray) -> np.ndarray:
        padded = np.pad(image, pad, mode="reflect")
        height, width = image.shape
        return padded[pad - rows :, pad - columns :][:height, :width]

    return change


def saturated(image: np.ndarray) -> np.ndarray:
    """84 % of the pixels at the top of the dtype, as in JUMP's brightfield."""
    order = np.argsort(image, axis=None, kind="stable")
    result = image.copy()
    result.flat[order[round(0.16 * image.size) :]] = np.iinfo(image.dtype).max
    return result


def emptied(image: np.ndarray) -> np.ndarray:
    """The background alone, with its noise."""
    low = float(np.quantile(image, 0.02))
    noise = np.random.default_rng(0).normal(low, max(1.0, 0.03 * low), image.shape)
    return noise.clip(0, np.iinfo(image.dtype).max).astype(image.dtype)


MCF10A = frozenset({"MCF10A"})
COPIED = {"Ch01_03.tif": "Ch01_19.tif", "Ch02_03.tif": "Ch02_19.tif"}
S = "B7_01_{}_3_*"
FAULTS: dict[str, tuple[str, list[str], dict[str, Fault]]] = {
    "bbbc022_w1noisy_w3": ("u2os_cps/bbbc022_w1noisy_w3", BBBC022, {
        "shift": Fault(edit("Ch02_05.tif", shifted(3, 0)), {"shift"}, {"05"}),
        "shift back": Fault(edit("Ch02_02.tif", shifted(0, -3)), {"shift"}, {"02"}),
        "swap": Fault(exchange("Ch01_04.tif", "Ch02_04.tif"), {"swap"}, {"04"}),
        "leaked well": Fault(copy(COPIED), {"leak"}, {"03", "19"}, ("data.test_fields=['19']",)),
        "leaked sites": Fault(
            as_wells, {"leak"}, {f"{w}02_s{s}" for w in "ABCD" for s in (1, 2)},
            ("data.split=field",),
        ),
        "duplicate": Fault(copy(COPIED), {"leak", "duplicate"}, {"03", "19"}),
        "84 % saturated": Fault(edit("Ch02_06.tif", saturated), {"saturated"}, {"06"}),
        "empty": Fault(edit("Ch02_01.tif", emptied), {"empty"}, {"01"}),
        "truncated": Fault(truncate("Ch01_07.tif"), {"unreadable"}, {"07"}),
    }),
    "u2os_translocation": ("u2os_translocation", TRANSLOCATION, {
        "shift": Fault(edit("Channel2-27-*", shifted(-3, 0)), {"shift"}, {"27_C_03"}),
        "swap": Fault(exchange("Channel1-55-*", "Channel2-55-*"), {"swap"}, {"55_E_07"}),
        "84 % saturated": Fault(edit("Channel1-33-*", saturated), {"saturated"}, {"33_C_09"}),
        "empty": Fault(edit("Channel2-06-*", emptied), {"empty"}, {"06_A_06"}),
        "truncated": Fault(truncate("Channel2-84-*"), {"unreadable"}, {"84_G_12"}),
    }),
    "schwann": ("other_cps/schwann_3ch", SCHWANN, {
        "shift": Fault(edit(S.format(1), shifted(0, 3)), {"shift"}, {"B7_s3"}),
        "swap": Fault(exchange(S.format(1), S.format(3)), {"swap"}, {"B7_s3"}),
        "84 % saturated": Fault(edit(S.format(2), saturated), {"saturated"}, {"B7_s3"}),
        "empty": Fault(edit(S.format(1), emptied), {"empty"}, {"B7_s3"}),
        "truncated": Fault(truncate(S.format(2)), {"unreadable"}, {"B7_s3"}),
    }),
    # Transmitted light against a stain; MCF10A lies 1.7 px off as it is, the others within 1. The
    # dark corners are corrected, so that they are a note.
    "deepcell": ("phase_fluo/deepcell/training_data", DEEPCELL, {
        "shift": Fault(edit("HeLa_joint/set2/nuclear.png", shifted(3, 0)), {"shift"}, {"HeLa_joint_set2"}, known=MCF10A),
        "shift of 3T3": Fault(edit("3T3/set1/nuclear.png", shifted(0, -3)), {"shift"}, {"3T3_set1"}, known=MCF10A),
        "84 % saturated": Fault(
            edit("HeLa_joint/set3/phase.png", saturated), {"saturated"}, {"HeLa_joint_set3"}, known=MCF10A,
        ),
    }),
}  # fmt: skip


def check_fault(name: str, fault: Fault, case: Case) -> list[str]:
    """Whether the planted fault was found, on its field, and nothing on any other."""
    serious = [f for f in case.findings if f.severity != NOTE]
    hits = [f for f in serious if f.kind in fault.kinds and set(f.fields) <= fault.fields]
    wrong = [] if any(f.fields for f in hits) else [f"{name}: not found"]
    return wrong + [
        f"{name}: false alarm: {f.text}"
        for f in serious
        if not set(f.fields) <= fault.fields | fault.known
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument("--output", type=Path, default=Path("outputs/doctor_real"))
    parser.add_argument("--only", nargs="+", default=list(FOLDERS), choices=list(FOLDERS))
    parser.add_argument("--verbose", action="store_true", help="print every finding")
    parser.add_argument("--check", action="store_true", help="fail where anything disagrees")
    args = parser.parse_args()
    data, output = args.data.absolute(), args.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    start, wrong = time.monotonic(), []
    for name in args.only:
        folder = FOLDERS[name]
        manifest = str(sephace_manifest(data, output)) if name == "sephace" else ""
        overrides = [o.replace("MANIFEST", manifest) for o in folder.overrides]
        case = look(data / folder.path, overrides, output / name)
        wrong += judge(name, folder, case)
        notes = ", ".join(sorted(" ".join(n).strip() for n in found(case, True)))
        print(f"{name}: {case.verdict}; notes: {notes or 'none'}", flush=True)
        if args.verbose:
            print(*(f"    {f.severity}: {f.text}" for f in case.findings), sep="\n")
    planted = 0
    for name, (place, overrides, faults) in FAULTS.items():
        for what, fault in faults.items() if name in args.only else ():
            planted += 1
            label = f"{name}, {what} planted"
            with tempfile.TemporaryDirectory() as temporary:
                root = Path(temporary) / "images"
                shutil.copytree(data / place, root)
                fault.plant(root)
                case = look(root, [*overrides, *fault.overrides], output / f"{name}_planted")
            mistakes = check_fault(label, fault, case)
            wrong += mistakes
            print(
                f"{label}: {'MISSED OR MORE' if mistakes else 'found'}; {case.verdict}", flush=True
            )
            if args.verbose:
                print(*(f"    {f.severity}: {f.text}" for f in case.findings), sep="\n")
    print(
        f"{len(args.only)} folders and {planted} planted faults in "
        f"{time.monotonic() - start:.0f} s, {len(wrong)} disagreements"
    )
    print(*wrong, sep="\n")
    if wrong and args.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
