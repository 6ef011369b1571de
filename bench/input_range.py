"""What `data.input_range=auto` chooses on real channels, by name and by look.

    python bench/input_range.py --data ../shared/data --write docs/data.md

One row per channel: ground and position of the median (`vfn.data.field_ranges.look`), the choice for a channel
whose name says nothing, and the choice under its own name. Last lines: RATIO, the share of the channels for
which each choice is right.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed
from vfn.data.field_ranges import is_transmitted, look
from vfn.data.images import read_image
from vfn.system.files import write_text

START, END = "<!-- table: bench/input_range.py -->", "<!-- end of table -->"
FIELDS = 8  # of a channel
# folder -> channel -> files; those of TRANSMITTED are transmitted light, all others are stains.
PHENIX = {f"ch{n}": f"*-ch{n}sk1*" for n in range(1, 7)}
SETS: dict[str, dict[str, str]] = {
    "u2os_cps/bbbc036_5ch": {
        "dna": "Hoechst*", "er": "ERSyto.*", "rna": "ERSytoBleed*", "golgi_actin": "Ph_golgi*", "mito": "Mito*",
    },
    "u2os_cps/jump_5ch": {name: PHENIX[name] for name in list(PHENIX)[:5]},
    "u2os_cps/bbbc022_w1noisy_w3": {"dna": "Ch01*", "rna": "Ch02*"},
    "u2os_cps/bbbc022_w1": {"dna": "*"},
    "u2os_cps/cp_plate_9wells": {name: PHENIX[name] for name in list(PHENIX)[:5]},
    "u2os_af/bbbc006_z00_w1": {"dna": "*"},
    "u2os_af/bbbc006_zaligned10_w1": {"dna": "*"},
    "u2os_translocation": {"gfp": "Channel1*", "dna": "Channel2*"},
    "other_cps/daoy_5ch_brightfield": {**PHENIX, "brightfield": PHENIX["ch1"]},
    "other_cps/a549_3ch": {name: PHENIX[name] for name in ("ch2", "ch3", "ch5")},
    "other_cps/schwann_3ch": {"dna": "*DAPI*", "er": "*GFP*", "actin": "*RFP*"},
    "label_free/jurkat_ifc": {"brightfield": "**/Ch3*", "dna": "**/Ch4*"},
    "phase_fluo/deepcell": {
        "phase": "**/phase.png", "nuclear": "**/nuclear.png", "far_red": "**/*Far-red*", "reporter": "**/*TRITC*",
    },
    "phase_fluo/isl_neurons": {
        "phase": "*PHASE*", "dapi": "*DAPI*", "map2": "*MAP2*", "nfh": "*NFH*",
    },
    "phase_fluo/sephace_brightfield_z": {"brightfield": "**/*_Point*", "dapi": "**/fl.tif"},
    "phase_fluo/keratinocyte_frm": {"phase": "*c1.tif", "dna": "*c2.tif"},
}  # fmt: skip
TRANSMITTED = {"phase", "brightfield"}
BRIGHTFIELD = {"daoy_5ch_brightfield": {"ch1"}}  # transmitted light whose name does not say so


def table(data: Path) -> tuple[list[str], dict[str, float]]:
    """Return the rows, and the share of the channels for which each choice is right."""
    rows = [
        "| set | channel | fields | ground | middle | by look alone | auto | should be |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    right = {"by_look": 0, "auto": 0}
    for folder, channels in SETS.items():
        for channel, pattern in channels.items():
            files = sorted(p for p in (data / folder).glob(pattern) if p.suffix != ".csv")
            images = [read_image(path).array[0] for path in files[:: -(-len(files) // FIELDS)]]
            ground, middle = np.median([look(image) for image in images], axis=0)
            found = [is_transmitted(name, images) for name in ("channel", channel)]
            light = channel in TRANSMITTED | BRIGHTFIELD.get(Path(folder).name, set())
            right["by_look"] += found[0] == light
            right["auto"] += found[1] == light
            said = ["field" if one else "dataset" for one in found]
            rows.append(
                f"| {folder} | {channel} | {len(images)} | {ground:.2f} | {middle:.2f} | {said[0]} | {said[1]} | "
                f"{'field' if light else 'dataset'} |"
            )
    return rows, {name: count / (len(rows) - 2) for name, count in right.items()}


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--write", type=Path, help="Markdown file whose table is replaced")
    args = parser.parse_args()
    rows, shares = table(args.data)
    print("\n".join(rows))
    for name, share in shares.items():
        print(f"RATIO input_range_right_{name} {share:.3f}")
    if args.write:
        before, _, rest = args.write.read_text(encoding="utf-8").partition(START)
        write_text(args.write, "\n".join([before + START, *rows, END + rest.partition(END)[2]]))


if __name__ == "__main__":
    main()
