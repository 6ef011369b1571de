"""Patches a second of training, data loading included, against the same networks trained plainly.

    python bench/train.py --repeats 3
    python bench/train.py --width 32 --patch 128 --batch 16

The paper's generator and discriminator on simulated fields (five channels of 16 bit, LZW TIFFs; golgi_actin +
rna -> er). The reference is in this file and does what pix2pix-type code does: float32, NCHW, eager,
the images of a patch decoded for that patch, losses fetched to the host at every step; its loader has the number
of workers that serves it best. `vfn` is `python train.py` with the paper's networks, timed by its own metrics.csv
(`images_per_s`, without validation). Both start from the same weights and draw the same patches, so their
losses must agree: the training MAE of the first epoch within `TOLERANCE`. Repeats alternate; the
first epoch of each warms up. `vfn, float32` says what half precision does not bring.

On a GPU the same is done there; elsewhere that part is named as not run. Last lines: RATIO name value.
"""

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import tifffile
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.utils.data import DataLoader

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "bench")]  # run from a clone, not installed

from data import CHANNELS, write_lzw
from plain import plain_layers
from real_images import call
from sections import Tee, machine, write_section

from vfn.cli.entry import plain, trainable_task
from vfn.data.baselines import target_level
from vfn.data.batch import RawBatch
from vfn.data.loading import as_it_is
from vfn.data.patches import Augmentation, RandomPatches, Turn
from vfn.data.pixels import sample_shape
from vfn.data.samples import Sample
from vfn.models.losses import LossWeights
from vfn.training.build import make_networks, stain_data

say = Tee()
TOLERANCE = 0.03  # of the MAE: bf16 rounds, and a GAN magnifies


class Decoding:
    """Cuts patches out of files that it decodes for every patch; in place of `PatchReader`."""

    def __init__(self, inputs: int, size: int) -> None:
        self.inputs, self.size = inputs, size

    def batch(
        self,
        corners: Sequence[tuple[Sample, int, int]],
        turns: Sequence[Turn],
        jitter: object = None,
    ) -> RawBatch:
        """One patch for each (sample, top, left)."""
        patches = []
        for (sample, top, left), turn in zip(corners, turns, strict=True):
            images = [tifffile.imread(plane.path) for plane in sample.planes]
            window = (slice(top, top + self.size), slice(left, left + self.size))
            patches.append(np.stack([turn(image[window]) for image in images]))
        return RawBatch(torch.from_numpy(np.stack(patches)))


class Reference:
    """The plain training loop."""

    def __init__(self, config: DictConfig, device: torch.device, workers: int) -> None:
        L.seed_everything(config.seed, workers=True, verbose=False)
        task = trainable_task(config.task)
        self.data = stain_data(config, task)
        weights = {k: v for k, v in plain(config.loss).items() if k != "name"}
        self.objective = LossWeights(**weights)
        g, d = make_networks(config, task, self.objective, self.data)
        self.data.setup()
        g.start_at(target_level(self.data))
        assert d is not None
        self.g, self.d, self.device = plain_layers(g).to(device), d.to(device), device
        adam = config.model.adam
        betas = tuple(adam.betas)
        self.adam_g = torch.optim.Adam(g.parameters(), adam.lr_generator, betas)
        self.adam_d = torch.optim.Adam(d.parameters(), adam.lr_discriminator, betas)
        assert self.data.split is not None
        samples = self.data.split.train
        patches = RandomPatches(
            samples,
            [sample_shape(sample, self.data.store) for sample in samples],
            Decoding(len(task.inputs), config.data.patch_size),  # type: ignore[arg-type]
            Augmentation(),
            config.seed,
        )
        self.loader = DataLoader(
            patches, config.data.batch_size, sampler=range(10**6), num_workers=workers,
            collate_fn=as_it_is,
        )  # fmt: skip
        self.batches = iter(self.loader)

    def epoch(self, batches: int) -> tuple[float, float]:
        """Train on so many batches; patches a second, and the mean MAE."""
        start, maes, patches = time.perf_counter(), [], 0
        for _ in range(batches):
            raw = next(self.batches)
            batch = self.data.normaliser(RawBatch(raw.planes.to(self.device)))
            maes.append(self.step(batch.input, batch.target)["mae"])
            patches += len(raw.planes)
        return patches / (time.perf_counter() - start), statistics.mean(maes)

    def step(self, condition: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
        """One step of D, then one of G, as pix2pix takes them."""
        fake = self.g(condition)
        self.d.requires_grad_(True)
        self.adam_d.zero_grad()
        on_fake = self.d(condition, fake.detach())
        on_real = self.d(condition, truth)
        loss_d = F.binary_cross_entropy_with_logits(
            on_fake, torch.zeros_like(on_fake)
        ) + F.binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real))
        loss_d.backward()
        self.adam_d.step()
        self.d.requires_grad_(False)
        self.adam_g.zero_grad()
        on_fake = self.d(condition, fake)
        adversarial = F.binary_cross_entropy_with_logits(on_fake, torch.ones_like(on_fake))
        mae = F.l1_loss(fake, truth)
        parameters = list(self.g.parameters())
        norm = sum(p.abs().sum() for p in parameters) / sum(p.numel() for p in parameters)
        weights = self.objective
        loss = weights.mae * mae + weights.adversarial * adversarial + weights.weight_l1 * norm
        loss.backward()
        self.adam_g.step()
        return {"mae": mae.item(), "d": loss_d.item(), "g": loss.item()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--batches", type=int, default=15, help="of an epoch")
    parser.add_argument("--fields", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path, help="Markdown file whose section is replaced")
    parser.add_argument("overrides", nargs="*", help="further overrides of vfn's train.py")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    print(machine())
    say(f"width {args.width}, batches of {args.batch} patches of {args.patch}x{args.patch}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_lzw(folder / "images", args.fields)
        rates = measure(folder, args, torch.device("cuda" if gpu else "cpu"))
    if args.write:
        write_section(args.write, "train", say.lines, {"patches a second": rates})


def measure(folder: Path, args: argparse.Namespace, device: torch.device) -> dict[str, list[float]]:
    """Print rates, losses and ratios; the rates of each way."""
    assert {"golgi_actin", "rna", "er"} <= set(CHANNELS)
    common = [
        "data=folder", f"data.root={folder / 'images'}", f"data.cache_dir={folder / 'cache'}",
        "task=er", "logger=csv", "model=virfluonet", f"model.generator.width={args.width}",
        f"model.discriminator.width={args.width}", f"data.patch_size={args.patch}",
        f"data.batch_size={args.batch}", f"data.patches_per_epoch={args.batch * args.batches}",
        "data.val_patches=4", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=2",
    ]  # fmt: skip
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("train", [*common, "run=reference"])
    ways = {"vfn": [], "vfn, float32": ["trainer.precision=32-true"]}
    rates: dict[str, list[float]] = {}
    maes: dict[str, list[float]] = {}
    for repeat in range(args.repeats):
        for workers in (0, 2):
            plain_loop = Reference(config, device, workers)
            name = f"reference, {workers} workers"
            _, mae = plain_loop.epoch(args.batches)
            rate, _ = plain_loop.epoch(args.batches)
            rates.setdefault(name, []).append(rate)
            maes.setdefault(name, []).append(mae)
            del plain_loop.batches  # its workers go
        for name, extra in ways.items():
            run = folder / f"{name.replace(', ', '_')}_{repeat}"
            call("train.py", f"run={run}", *common, *extra, *args.overrides)
            with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
                first, second = csv.DictReader(file)
            rates.setdefault(name, []).append(float(second["images_per_s"]))
            maes.setdefault(name, []).append(float(first["train/mae"]))
    for name, values in rates.items():
        say(
            f"{name:24s} {statistics.median(values):8.2f} patches/s ({min(values):.2f} to "
            f"{max(values):.2f}, n = {len(values)}); MAE of the first epoch {maes[name][0]:.5f}"
        )
    best = max(
        (name for name in rates if name.startswith("reference")),
        key=lambda name: statistics.median(rates[name]),
    )
    for name in ways:
        off = abs(maes[name][0] / maes[best][0] - 1)
        if off > TOLERANCE:
            sys.exit(f"error: {name}: the MAE of the first epoch is {off:.1%} off the reference's")
    if device.type == "cpu":
        say("GPU: not run, no CUDA device here")
    for name in ways:
        pairs = zip(rates[name], rates[best], strict=True)
        ratio = statistics.median(fast / slow for fast, slow in pairs)
        say(f"RATIO train_{name.replace(', ', '_')}_over_reference {ratio:.2f}")
    return rates


if __name__ == "__main__":
    main()
