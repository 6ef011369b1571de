"""The LightningModule: one generator step and one discriminator step a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vfn.data.batch import Batch
from vfn.errors import UserError
from vfn.models import losses
from vfn.models.checkpoint import (
    Checkpoint,
    from_recipe,
    generator_weights,
    recipe_errors,
    submodule,
)
from vfn.models.ema import AVERAGED, EMA, GENERATOR, ema_state_dict
from vfn.models.losses import LossWeights, term_weights
from vfn.models.manual_optimization import ManualOptimization
from vfn.models.nets import is_own, make_discriminator, with_weights
from vfn.models.nets.discriminator import Discriminator
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE
from vfn.models.scoring import PatchScoring
from vfn.system.dotted import TARGET, refuse_code, trusted


@dataclass(frozen=True)
class AdamSettings:
    """Two Adam optimisers (sec. 2.4: learning rate 2e-4 for both; the betas are ours, pix2pix's)."""

    lr_generator: float = 2e-4
    lr_discriminator: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # a list in configs

    @property
    def rates(self) -> tuple[float, float]:
        """Learning rates of G and D."""
        return self.lr_generator, self.lr_discriminator


class AdversarialFeedback(NamedTuple):
    """Adversarial loss of a prediction, from D to G.

    Attributes:
        terms: loss terms by name.
        loss: their weighted sum.
        gradient: of `loss` with respect to the prediction, of its shape.
    """

    terms: dict[str, Tensor]
    loss: Tensor
    gradient: Tensor


class VirtualStain(PatchScoring, ManualOptimization):
    """Conditional GAN that maps input channels to target channels (sec. 2.4).

    Args:
        generator: (B, Ci, h, w) -> (B, Ct, h, w), both in [-1, 1].
        discriminator: (condition, image) -> logits; feature matching needs `judge` of our
            `Discriminator`. None trains the generator alone.
        objective: weights of the loss terms.
        adam: of both optimisers.
        recipe: plain data that goes into every checkpoint beside the weights.
        channels_last: memory format of networks and batches.
        ema: decay of the average of the generator's weights that validates, draws samples and goes
            into `best.ckpt`; 0: the weights themselves.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module | None,
        objective: LossWeights,
        adam: AdamSettings,
        recipe: Mapping[str, Any],
        channels_last: bool = False,
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.averaged = EMA(generator, ema) if ema else None
        self.objective, self.adam, self.recipe = objective, adam, dict(recipe)
        self.image_terms = objective.image_terms()
        self.prepare_metrics(recipe)
        # Of this epoch: name -> sum over its patches, and how many these were.
        self.sums: dict[str, tuple[Tensor | float, int]] = {}
        self._rng: dict[str, Tensor] | None = None  # of a checkpoint, until training starts
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        *,
        trust: str | Sequence[str] | None = None,
        **options: Any,
    ) -> "VirtualStain":
        """Build the module of `best.ckpt` or `last.ckpt`, with the weights that predict.

        The file is read as data; a run goes on with its optimisers by `resume=` instead.

        Args:
            map_location: the device.
            trust: dotted paths of networks and losses that are not part of vfn and may be imported.
            options: arguments of the class in place of those of the training.

        Raises:
            UserError: see `read_raw`.
        """
        path, trust = Path(checkpoint_path), trusted(trust)
        raw = read_raw(path, trust=trust)
        recipe = raw[RECIPE]
        checkpoint = from_recipe(recipe, generator_weights(raw), path)
        with recipe_errors(path):
            objective = LossWeights.from_dict(recipe["loss"])
            refuse_code([{TARGET: t} for t in term_weights(objective.terms)], f"ckpt={path}", trust)
            given = {
                "discriminator": _discriminator_of(checkpoint, raw["state_dict"]),
                "objective": objective,
                "adam": AdamSettings(**recipe["adam"]),
                **options,
            }
        module = cls(checkpoint.generator, recipe=recipe, **given)
        return module.train().to(map_location or "cpu")

    def forward(self, x: Tensor) -> Tensor:
        """Predict (B, Ci, h, w) -> (B, Ct, h, w); outside training by the averaged weights, if there are any."""
        net = self.generator
        if self.averaged is not None and not self.training:
            net = self.averaged.net
        y: Tensor = net(x.contiguous(memory_format=self.memory_format))
        return y

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for G, then for D if there is one."""
        pairs = zip((self.generator, self.discriminator), self.adam.rates, strict=True)
        return [
            torch.optim.Adam(
                (p for p in network.parameters() if p.requires_grad),
                rate,
                self.adam.betas,
                fused=True,
            )
            for network, rate in pairs
            if network is not None
        ]

    def training_step(self, batch: Batch, _index: int) -> None:
        """Run one generator and one discriminator update on this batch, or accumulate their gradients.

        The updates are simultaneous, not alternating: one pass of G, and one of D over prediction and
        truth, serve both. The paper leaves the order open; updating D first, as pix2pix's code does,
        takes a further pass of D over the prediction.
        """
        optimisers = self.optimizers()
        optimisers = optimisers if isinstance(optimisers, list) else [optimisers]
        fake = self(batch.input)
        # Beyond the field's edge D would tell padding from prediction: both get the truth there.
        seen = torch.where(batch.valid, fake, batch.target)
        found: dict[str, Tensor] = {}
        feedback = None
        if self.discriminator is not None:
            found, feedback = self.discriminator_step(optimisers[1], batch, seen)
        found |= self.generator_step(optimisers[0], batch, fake, seen, feedback)
        self.end_batch()
        self._log(found, len(batch.input))

    def _log(self, found: Mapping[str, Tensor], count: int) -> None:
        """Log the losses of this step, and add those of `count` patches to the sums of the epoch.

        Lightning keeps such sums too, but not in a checkpoint: after a resume, epoch averages would
        cover only the remaining batches.
        """
        self.log_dict(
            {f"train/{name}_step": value.detach() for name, value in found.items()},
            on_step=True, on_epoch=False, sync_dist=True, batch_size=count,
        )  # fmt: skip
        for name, value in found.items():
            total, patches = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value.detach().float() * count, patches + count)

    def on_train_epoch_start(self) -> None:
        """Reset the sums; resuming within an epoch skips this hook."""
        self.sums = {}

    def on_train_batch_end(self, *_: Any) -> None:
        """Log the means where the epoch, or the training, ends."""
        if not (self.trainer.is_last_batch or self.trainer.should_stop):
            return
        means = {f"train/{n}_epoch": total / count for n, (total, count) in self.sums.items()}
        self.log_dict(means, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def discriminator_step(
        self, optimiser: Any, batch: Batch, seen: Tensor
    ) -> tuple[dict[str, Tensor], AdversarialFeedback]:
        """Update D on its loss (eq. 2), with R1 every few steps.

        Args:
            seen: the prediction; no gradient passes through it to G.

        Returns:
            D's losses, and the feedback for G from before the update.
        """
        assert self.discriminator is not None
        weights = self.objective
        seen = seen.detach().requires_grad_()
        real_logits, real = self._judge(batch.input, batch.target)
        fake_logits, fake = self._judge(batch.input, seen)
        real_logits, fake_logits = real_logits.float(), fake_logits.float()
        feedback = self._feedback(seen, fake_logits, fake, real)
        adversarial = losses.discriminator_term(weights.adversarial_kind, real_logits, fake_logits)
        loss = weights.discriminator * adversarial
        penalty = {}
        if weights.r1 and self.updates % weights.r1_every == 0:
            penalty["r1"] = self._penalty(batch)
            loss = loss + weights.r1_every * weights.r1 * penalty["r1"]
        # Of D's weights alone: the way on to the prediction costs, and is G's.
        self.add_gradients(optimiser, loss, inputs=list(self.discriminator.parameters()))
        self.step_if_due(optimiser)
        shares = {
            "d_real": torch.sigmoid(real_logits).mean(),
            "d_fake": torch.sigmoid(fake_logits).mean(),
        }
        return {"loss_d": loss, **shares, **penalty}, feedback

    def _feedback(
        self, seen: Tensor, logits: Tensor, fake: Sequence[Tensor], real: Sequence[Tensor]
    ) -> AdversarialFeedback:
        """Return D's verdict on the prediction `seen`, from its logits and its features of both images."""
        weights = self.objective
        terms = {"adversarial": losses.generator_term(weights.adversarial_kind, logits)}
        loss = weights.adversarial * terms["adversarial"]
        if weights.feature_matching:
            terms["feature_matching"] = losses.feature_matching(fake, [r.detach() for r in real])
            loss = loss + weights.feature_matching * terms["feature_matching"]
        (gradient,) = torch.autograd.grad(self.loss_scale * loss, seen, retain_graph=True)
        return AdversarialFeedback(terms, loss, gradient / self.loss_scale)

    def _judge(self, condition: Tensor, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return D's logits, and its features if it is one of ours."""
        assert self.discriminator is not None
        if isinstance(self.discriminator, Discriminator):
            return self.discriminator.judge(condition, image)
        return self.discriminator(condition, image), []

    def _penalty(self, batch: Batch) -> Tensor:
        """R1 on the truth, in float32: it is a gradient of a gradient."""
        assert self.discriminator is not None
        with torch.autocast(self.device.type, enabled=False):
            truth = batch.target.detach().float().clone().requires_grad_()
            return losses.gradient_penalty(self.discriminator(batch.input.float(), truth), truth)

    def generator_step(
        self,
        optimiser: Any,
        batch: Batch,
        fake: Tensor,
        seen: Tensor,
        feedback: AdversarialFeedback | None = None,
    ) -> dict[str, Tensor]:
        """Update G on the objective (eq. 3).

        Args:
            fake: the prediction, everywhere.
            seen: what D saw of it, a function of `fake`.
            feedback: of `discriminator_step` on `seen`; None without a discriminator.
        """
        weights = self.objective
        loss, terms = torch.zeros((), device=fake.device), {}
        for name, (weight, term) in self.image_terms.items():
            terms[name] = term(fake.float(), batch.target, batch.valid)
            loss = loss + weight * terms[name]
        if feedback is None:
            self.add_gradients(optimiser, loss)
        else:
            # This sum is no loss; its gradient is the one that D found.
            self.add_gradients(optimiser, loss + (seen * feedback.gradient).sum())
            loss = loss + feedback.loss
            terms |= feedback.terms
        if weights.weight_l1:
            # Of what is trained: a frozen encoder's weights would only add a constant.
            trained = [p for p in self.generator.parameters() if p.requires_grad]
            factor = weights.weight_l1 * self.loss_scale / self.accumulate
            norm = losses.add_weight_l1(trained, factor, weights.weight_l1_reduction)
            loss = loss + weights.weight_l1 * norm
            terms["weight_l1"] = norm
        self.step_if_due(optimiser)
        if self.averaged is not None and self.is_due:
            self.averaged.update(self.generator)
        return {"loss_g": loss, **terms}

    def on_validation_start(self) -> None:
        """Take the batch norms' statistics of the first process, which saves the model, into all."""
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the recipe, and the random state, so that a resumed run draws what it would have drawn.

        Weights that no training goes on from (`best.ckpt`) are the averaged ones under the name of
        the generator's; otherwise both are kept.
        """
        super().on_save_checkpoint(checkpoint)
        checkpoint[RECIPE] = self.recipe
        if "optimizer_states" not in checkpoint:
            checkpoint["state_dict"] = ema_state_dict(checkpoint["state_dict"])
        checkpoint["sums"] = self._sums_of_all() if "optimizer_states" in checkpoint else []
        checkpoint["rng"] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["rng"]["cuda"] = torch.cuda.get_rng_state()

    def _sums_of_all(self) -> list[dict[str, tuple[float, int]]]:
        """Return `sums` of every process."""
        ours = {name: (float(total), n) for name, (total, n) in self.sums.items()}
        of_all = [ours]
        if torch.distributed.is_initialized():
            of_all *= torch.distributed.get_world_size()
            torch.distributed.all_gather_object(of_all, ours)
        return of_all

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state until training starts: what comes in between draws too.

        An average that is switched on by a resumed run starts from the weights; one that is
        switched off is left out.
        """
        super().on_load_checkpoint(checkpoint)
        self._rng = checkpoint["rng"]
        states = checkpoint.get("optimizer_states", ())
        for optimiser, rate in zip(states, self.adam.rates, strict=False):
            for group in optimiser["param_groups"]:  # of the settings, which may have changed
                group["lr"], group["betas"] = rate, self.adam.betas
        # By another number of processes some epoch's figures are those of a part of it.
        of_all = checkpoint["sums"] or [{}]
        self.sums = dict(of_all[self.global_rank % len(of_all)])
        state = checkpoint["state_dict"]
        if self.averaged is None:
            checkpoint["state_dict"] = {
                k: v for k, v in state.items() if not k.startswith(AVERAGED)
            }
        elif not any(key.startswith(AVERAGED) for key in state):
            weights = {k: v for k, v in state.items() if k.startswith(GENERATOR)}
            state |= {f"{AVERAGED}net.{k.removeprefix(GENERATOR)}": v for k, v in weights.items()}
            state[f"{AVERAGED}_extra_state"] = torch.tensor(0)

    def on_fit_start(self) -> None:
        """Move loss terms with weights of their own, such as perceptual losses, to the device."""
        for _, term in self.image_terms.values():
            if isinstance(term, nn.Module):
                term.to(self.device).requires_grad_(False)

    def on_train_start(self) -> None:
        """Take up the random state of the checkpoint; drop test scores, which are of other weights."""
        super().on_train_start()
        if "card" in self.recipe:
            self.recipe["card"] = {**self.recipe["card"], "test": None}
        if self._rng is not None:
            torch.set_rng_state(self._rng["cpu"].cpu())
            if "cuda" in self._rng and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._rng["cuda"].cpu())
            self._rng = None


def _discriminator_of(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> nn.Module | None:
    """Return the discriminator that the generator was trained against."""
    spec = checkpoint.recipe["discriminator"]
    if spec is None:
        return None
    channels = len(checkpoint.task.inputs) + len(checkpoint.task.targets)
    make = partial(make_discriminator, spec, channels, checkpoint.patch_size)
    try:
        return with_weights(make, submodule(state, "discriminator"), not is_own(spec))
    except RuntimeError as exc:
        raise UserError(f"ckpt={checkpoint.path}: weights do not fit its discriminator") from exc
