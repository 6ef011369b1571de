"""How often the input-shift alarm cries wolf, and what it catches, on real and simulated fields.

    python bench/input_shift.py --data ../shared/data

Every field is left out once: the envelope is fitted on the others, and judges the field as it
is (a phrase is a false alarm) and after each change (no phrase is a miss). The fields of
bbbc006_z00 are 32 um out of focus to begin with, so blurring them more changes little. Last lines:
RATIO name value, the shares over the real sets and over the simulated one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.data.images import read_image
from vfn.data.input_shift import TrainingDistribution, field_statistics
from vfn.data.intensity import to_dtype
from vfn.data.simulated import simulate_field
from vfn.data.walk import find_images

# set -> folder below --data, channel -> a part of its file names
REAL: dict[str, tuple[str, dict[str, str]]] = {
    "bbbc022_w1noisy_w3": ("u2os_cps/bbbc022_w1noisy_w3", {"dna": "Ch01", "rna": "Ch02"}),
    "bbbc022_w1": ("u2os_cps/bbbc022_w1", {"dna": "w1"}),
    "bbbc006_z00_w1": ("u2os_af/bbbc006_z00_w1", {"dna": "w1"}),
    "bbbc006_zaligned10_w1": ("u2os_af/bbbc006_zaligned10_w1", {"dna": "w1"}),
    "u2os_translocation": ("u2os_translocation", {"fkhr": "Channel1", "dna": "Channel2"}),
    "schwann_3ch": ("other_cps/schwann_3ch", {"dna": "DAPI", "er": "GFP", "actin": "RFP"}),
}
SIMULATED = ("phase", "dna", "er", "actin")
Field = np.ndarray


def scaled(factor: float) -> Callable[[Field, np.random.Generator], Field]:
    return lambda x, _: x * factor


def blurred(sigma: float) -> Callable[[Field, np.random.Generator], Field]:
    """Out of focus: what the lens blurs, the camera's noise still lies on."""

    def change(x: Field, rng: np.random.Generator) -> Field:
        soft = gaussian_filter(x, sigma)
        return soft + rng.normal(0, field_statistics(x)["noise"], x.shape)

    return change


def saturated(x: Field, _: np.random.Generator) -> Field:
    """Exposed so long that every twentieth pixel is clipped."""
    return np.minimum(x, np.percentile(x, 95))


def empty(x: Field, rng: np.random.Generator) -> Field:
    figures = field_statistics(x)
    return rng.normal(figures["background"], max(figures["noise"], 1), x.shape)


CHANGES: dict[str, Callable[[Field, np.random.Generator], Field]] = {
    "gain_x1.5": scaled(1.5),
    "gain_x0.5": scaled(0.5),
    "offset_+30%": lambda x, _: x + 0.3 * np.median(x),
    "defocus_2px": blurred(2),
    "defocus_3px": blurred(3),
    "smoothed_2px": lambda x, _: gaussian_filter(x, 2),
    "noise": lambda x, rng: x + rng.normal(0, 3 * max(field_statistics(x)["noise"], 1), x.shape),
    "saturation": saturated,
    "inverted": lambda x, _: x.max() + x.min() - x,
    "empty": empty,
    "12_in_16_bit": scaled(16),
}


def load(data: Path, count: int) -> dict[str, dict[str, list[Field]]]:
    """set -> channel -> fields (H, W)."""
    sets: dict[str, dict[str, list[Field]]] = {}
    for name, (folder, channels) in REAL.items():
        paths = find_images(data / folder)
        sets[name] = {
            channel: [read_image(path).array[0] for path in paths if part in path.name]
            for channel, part in channels.items()
        }
    drawn = [simulate_field(seed, channels=SIMULATED) for seed in range(count)]
    sets["simulated"] = {c: [f[i] for f in drawn] for i, c in enumerate(SIMULATED)}
    return sets


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument("--simulated", type=int, default=60, help="how many simulated fields")
    parser.add_argument("--verbose", action="store_true", help="print every false alarm")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    times = []
    columns = ["as_it_is", *CHANGES, "swapped"]
    kinds = ("real", "simulated")
    total: dict[str, dict[str, list[bool]]] = {k: {c: [] for c in columns} for k in kinds}
    print(f"{'set':24s}{'channel':9s}{'fields':>7s} " + " ".join(columns))
    for name, channels in load(args.data, args.simulated).items():
        figures: dict[str, list[dict[str, float]]] = {}
        for channel, fields in channels.items():
            figures[channel] = []
            for field in fields:
                start = time.perf_counter()
                figures[channel].append(field_statistics(field))
                times.append((time.perf_counter() - start) / field.size * 520 * 696)
        for channel, fields in channels.items():
            alarms: dict[str, list[bool]] = {column: [] for column in columns}
            for i, field in enumerate(fields):
                own = figures[channel]
                envelope = TrainingDistribution.fit(own[:i] + own[i + 1 :])
                phrases = envelope.judge(own[i])
                alarms["as_it_is"].append(bool(phrases))
                if args.verbose and phrases:
                    print(f"  {name} {channel} {i}: {'; '.join(phrases)}")
                for change, make in CHANGES.items():
                    # A gain may lift 8-bit data beyond 255: such a camera would give 16 bit.
                    dtype = "uint16" if change == "12_in_16_bit" else field.dtype.name
                    changed = to_dtype(make(field.astype(float), rng), dtype)
                    alarms[change].append(bool(envelope.judge(field_statistics(changed))))
                for other in channels:
                    if other != channel:
                        alarms["swapped"].append(bool(envelope.judge(figures[other][i])))
            cells = [
                f"{np.mean(alarms[c]):{len(c)}.2f}" if alarms[c] else f"{'-':>{len(c)}s}"
                for c in columns
            ]
            print(f"{name:24s}{channel:9s}{len(fields):7d} " + " ".join(cells), flush=True)
            for column, values in alarms.items():
                total["simulated" if name == "simulated" else "real"][column] += values
    print(f"statistics of a 520x696 field: {1e3 * statistics.median(times):.1f} ms")
    for kind, shares in total.items():
        for column, values in shares.items():
            key = "false_alarm" if column == "as_it_is" else f"caught_{column}"
            print(f"RATIO input_shift_{kind}_{key} {np.mean(values):.3f}")


if __name__ == "__main__":
    main()
