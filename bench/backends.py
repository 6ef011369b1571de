"""Speed of the whole generator by each backend of predict.py, on the CPU.

    python bench/backends.py --width 32 --depth 6 --repeats 5

One call is a batch of tiles through the network as `vfn.inference.predictor` calls it. Repeats
alternate, so that all see the same machine; figures are medians. Beside them how far the output is
from torch's float32, in [-1, 1]. Ratios are to torch's float32. Last lines: RATIO name value.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.inference.backends import make_network
from vfn.models.nets import UNetGenerator, make_generator
from vfn.models.precision import autocast

SIDE, BATCH, INPUTS, TARGETS = 512, 4, 2, 1
CPU = torch.device("cpu")


def ema_state_dict(width: int, depth: int) -> UNetGenerator:
    """A generator whose norms know their inputs and whose stain is dark with bright spots, as real ones."""
    torch.manual_seed(0)
    generator = make_generator({"name": "unet", "width": width, "depth": depth}, INPUTS, TARGETS)
    generator.start_at(torch.full((TARGETS,), -0.9))
    torch.nn.init.normal_(generator.last.weight, 0, 2.0)
    with torch.no_grad():
        for _ in range(20):
            generator(torch.rand(BATCH, INPUTS, 128, 128) * 2 - 1)
    return generator.eval()


def in_torch(generator: UNetGenerator, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """As `Predictor` runs it."""
    generator = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def network(tiles: torch.Tensor) -> torch.Tensor:
        with autocast(CPU, precision):
            return generator(tiles.contiguous(memory_format=torch.channels_last))

    return network


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    generator = ema_state_dict(args.width, args.depth)
    networks, made = {}, {}
    for name in ("onnx float32", "openvino float32", "openvino bf16"):
        start = time.perf_counter()
        networks[name] = make_network(generator, INPUTS, *name.split())
        made[name] = time.perf_counter() - start
    for precision in ("float32", "bf16"):
        networks[f"torch {precision}"] = in_torch(generator, precision)
    tiles = torch.rand(BATCH, INPUTS, SIDE, SIDE) * 2 - 1
    times: dict[str, list[float]] = {name: [] for name in networks}
    outputs: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        for repeat in range(args.repeats + 1):  # the first warms up
            for name, network in networks.items():
                start = time.perf_counter()
                outputs[name] = network(tiles).float()
                if repeat:
                    times[name].append(time.perf_counter() - start)
    print(
        f"width {args.width}, depth {args.depth}, {BATCH} tiles of {SIDE}x{SIDE}, "
        f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, n = {args.repeats}"
    )
    print("| backend | s a batch | tiles/s | off, mean | off, most | s to make |")
    print("| --- | --- | --- | --- | --- | --- |")
    expected = outputs["torch float32"]
    print(
        f"(the stain: {expected.mean():.2f} on average, standard deviation {expected.std():.2f})",
        file=sys.stderr,
    )
    for name, values in times.items():
        off = (outputs[name] - expected).abs()
        seconds = statistics.median(values)
        print(
            f"| {name} | {seconds:.2f} ({min(values):.2f} to {max(values):.2f}) | {BATCH / seconds:.2f} | "
            f"{off.mean():.1e} | {off.max():.1e} | {made.get(name, 0):.1f} |"
        )
    base = times["torch float32"]
    for name, values in times.items():
        if values is base:
            continue
        ratio = statistics.median(slow / fast for slow, fast in zip(base, values, strict=True))
        print(f"RATIO {name.replace(' ', '_')}_over_torch_float32 {ratio:.2f}")


if __name__ == "__main__":
    main()
