"""What channels_last and bf16 autocast bring on this machine, against plain float32.

    python bench/precision.py --width 64 --repeats 7

The reference is the same network in float32, NCHW, eager. Training is one step of G and one of D as
the module takes them, prediction is a batch of tiles. Repeats alternate, so that both see the
same machine; each ratio is the median over repeats. Last lines: RATIO name value.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.data.batch import Batch
from vfn.models.gan import AdamSettings, VirtualStain
from vfn.models.losses import LossWeights
from vfn.models.nets import make_discriminator, make_generator

SIDE, BATCH, INPUTS, TARGETS = 256, 4, 2, 1
PAPER = {"float32": False, "bf16": True}  # name -> channels_last with bf16


def make_module(width: int, fast: bool) -> VirtualStain:
    """The paper's networks, the same weights for both ways."""
    torch.manual_seed(0)
    generator = make_generator({"name": "unet", "width": width}, INPUTS, TARGETS)
    discriminator = make_discriminator(
        {"name": "conditional", "width": width}, INPUTS + TARGETS, SIDE
    )
    return VirtualStain(
        generator, discriminator, LossWeights(), AdamSettings(), {}, channels_last=fast
    )


def seconds(work: object) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    batch = Batch(
        torch.rand(BATCH, INPUTS, SIDE, SIDE) * 2 - 1,
        torch.rand(BATCH, TARGETS, SIDE, SIDE) * 2 - 1,
        torch.ones(BATCH, TARGETS, SIDE, SIDE, dtype=torch.bool),
    )
    modules = {name: make_module(args.width, fast) for name, fast in PAPER.items()}
    optimisers = {name: module.configure_optimizers() for name, module in modules.items()}
    times: dict[str, list[float]] = {f"{a} {n}": [] for a in ("train", "predict") for n in PAPER}
    outputs = {}
    for repeat in range(args.repeats + 1):  # the first warms up
        for name, module in modules.items():
            autocast = torch.autocast("cpu", torch.bfloat16, enabled=PAPER[name])

            def train(module: VirtualStain = module, name: str = name) -> None:
                with autocast:  # noqa: B023
                    module.training_step(batch, 0)

            def predict(module: VirtualStain = module, name: str = name) -> None:
                with torch.inference_mode(), autocast:  # noqa: B023
                    outputs[name] = module(batch.input)

            module.train()
            with (
                patch.object(module, "optimizers", lambda n=name: optimisers[n]),
                patch.object(module, "manual_backward", lambda loss: loss.backward()),
                patch.object(module, "log_dict", lambda *_, **__: None),
            ):
                took = {f"train {name}": seconds(train)}
            module.eval()
            took[f"predict {name}"] = seconds(predict)
            if repeat:
                for key, value in took.items():
                    times[key].append(value)
    print(
        f"width {args.width}, {BATCH} patches of {SIDE}x{SIDE}, {torch.get_num_threads()} threads"
    )
    for key, values in times.items():
        rates = [BATCH / v for v in values]
        print(
            f"{key:16s} {statistics.median(rates):7.1f} patches/s "
            f"({min(rates):.1f} to {max(rates):.1f}, n = {len(rates)})"
        )
    for action in ("train", "predict"):
        pairs = zip(times[f"{action} float32"], times[f"{action} bf16"], strict=True)
        ratio = statistics.median(slow / fast for slow, fast in pairs)
        print(f"RATIO {action}_bf16_channels_last {ratio:.2f}")


if __name__ == "__main__":
    main()
