"""Which stains predict which, on real images and on simulated cells, through the command line.

    python bench/panel.py --data DIR --runs outputs/panels

Three data sets of one field each, cut in parts (training, validation, test) four ways, and the rows of
the paper's Table 1 on simulated cells. --check does a corner of it in short and fails if something is
not finite.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

from real_images import DAOY, JUMP, SPATIAL, call

BRIGHTFIELD = DAOY.replace("{", "{brightfield:ch1sk1fk1fl1,")
BBBC036 = "{dna:Hoechst,er:ERSyto,rna:ERSytoBleed,golgi_actin:Ph_golgi,mito:Mito}"
# name -> folder below --data, channels
SETS = {
    "jump": ("u2os_cps/jump_5ch", JUMP),
    "daoy": ("other_cps/daoy_5ch_brightfield", BRIGHTFIELD),
    "bbbc036": ("u2os_cps/bbbc036_5ch", BBBC036),
}
SIMULATED = ["panel=paper_mda", "data=simulated", "data.fields=40"]


def panel(name: str, data: Path, output: Path, extra: list[str]) -> dict:
    """Run one panel, or what is missing of it; its panel.json, and the seconds in all."""
    start = time.monotonic()
    if name == "simulated":
        overrides = SIMULATED
    else:
        folder, channels = SETS[name]
        overrides = [*SPATIAL, f"data.root={data / folder}", f"data.channels={channels}"]
    call("-m", "vfn.panel", *overrides, f"output={output / name}", *extra)
    found = json.loads((output / name / "panel.json").read_text(encoding="utf-8"))
    return {**found, "seconds": time.monotonic() - start}


def check(name: str, found: dict) -> None:
    """Every pair has a finite figure."""
    for pair in found["pairs"]:
        if pair["pearson"]["mean"] is None or not math.isfinite(pair["psnr_gain"]["mean"]):
            sys.exit(f"error: {name}: {pair['inputs']} -> {pair['target']} has no figure")


def table(name: str, found: dict) -> list[str]:
    """Markdown: each target's best input set of each size, and what is enough."""
    best: dict[tuple[str, int], dict] = {}
    for pair in found["pairs"]:
        key = (pair["target"], len(pair["inputs"]))
        if key not in best or pair["pearson"]["mean"] > best[key]["pearson"]["mean"]:
            best[key] = pair
    lines = []
    for (target, _), pair in sorted(best.items()):
        r, gain = pair["pearson"], pair["psnr_gain"]
        lines.append(
            f"| {name} | {target} | {' + '.join(pair['inputs'])} | {r['mean']:.3f} "
            f"({r['low']:.3f} to {r['high']:.3f}) | {pair['grade']} | {gain['mean']:+.1f} dB over "
            f"{pair['baseline']} |"
            if r["low"] is not None
            else f"| {name} | {target} | {' + '.join(pair['inputs'])} | {r['mean']:.3f} | "
            f"{pair['grade']} | {gain['mean']:+.1f} dB over {pair['baseline']} |"
        )
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument("--runs", type=Path, default=Path("outputs/panels"))
    parser.add_argument("--only", nargs="+", default=[*SETS, "simulated"])
    parser.add_argument("--check", action="store_true", help="a corner of it, in seconds")
    parser.add_argument("overrides", nargs="*", help="further overrides of vfn.panel")
    args = parser.parse_args()
    extra, only = list(args.overrides), args.only
    if args.check:
        only = ["jump"]
        extra += ["inputs_up_to=1", "channels=[rna,dna]", "repeats=2", "steps=20"]
    lines, seconds = [], 0.0
    for name in only:
        found = panel(name, args.data.absolute(), args.runs.absolute(), extra)
        seconds += found["seconds"]
        lines += table(name, found)
        if args.check:
            check(name, found)
        for sentence in found["sentences"]:
            print(f"{name}: {sentence}")
    print("| set | target | best inputs | r (95 % interval) | grade | gain |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))
    print(f"{seconds / 60:.0f} minutes")


if __name__ == "__main__":
    main()
