"""The LightningModule: one generator step and one discriminator step a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vfn.data.batch import Batch
from vfn.errors import UserError
from vfn.models.checkpoint import (
    Checkpoint,
    from_recipe,
    generator_weights,
    recipe_errors,
    submodule,
)
from vfn.models.ema import AVERAGED, EMA, GENERATOR, ema_state_dict
from vfn.models.losses import (
    LossWeights,
    add_weight_l1,
    discriminator_term,
    feature_matching,
    generator_term,
    gradient_penalty,
    load_terms,
    masked_mae,
    ms_ssim_loss,
    soft_tolerance,
    term_weights,
)
from vfn.models.manual_optimization import ManualOptimization
from vfn.models.nets import Discriminator, is_own, make_discriminator, with_weights
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE
from vfn.models.scoring import PatchScoring
from vfn.system.dotted import TARGET, refuse_code, trusted


@dataclass(frozen=True)
class AdamSettings:
    """Two Adam optimisers (sec. 2.4: learning rate 2e-4 for both; the betas are ours, pix2pix's)."""

    lr_generator: float = 2e-4
    lr_discriminator: float = 2e-4
    betas: Sequence[float] = (0.5, 0.999)


@dataclass
class AdversarialFeedback:
    """What D says of a prediction, to G.

    Attributes:
        terms: G's loss terms that are D's to give, by name.
        loss: their weighted sum.
        gradient: of `loss` with respect to the prediction, of its shape.
    """

    terms: dict[str, Tensor]
    loss: Tensor
    gradient: Tensor = field(default_factory=lambda: torch.empty(0))


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
        self.further = load_terms(objective.terms)
        self.prepare_metrics(recipe)
        # Of this epoch: name -> sum over its patches, and how many these were.
        self.sums: dict[str, tuple[Tensor | float, int]] = {}
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
            terms = [{TARGET: term} for term in term_weights(objective.terms)]
            refuse_code(terms, f"ckpt={path}", trust)
            given = {
                "discriminator": _discriminator_of(checkpoint, raw["state_dict"]),
                "objective": objective,
                "adam": AdamSettings(**recipe.get("adam", {})),  # earlier versions do not say
                **options,
            }
        module = cls(checkpoint.generator, recipe=recipe, **given)
        return module.train().to(map_location or "cpu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, Ci, h, w) -> (B, Ct, h, w); outside training by the averaged weights, if there are any."""
        net = self.generator
        if self.averaged is not None and not self.training:
            net = self.averaged.net
        y: Tensor = net(x.contiguous(memory_format=self.memory_format))
        return y

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for G, then for D if there is one."""
        betas = (self.adam.betas[0], self.adam.betas[1])
        optimisers = [
            torch.optim.Adam(
                (p for p in self.generator.parameters() if p.requires_grad),
                self.adam.lr_generator,
                betas,
                fused=True,
            )
        ]
        if self.discriminator is not None:
            optimisers.append(
                torch.optim.Adam(
                    self.discriminator.parameters(), self.adam.lr_discriminator, betas, fused=True
                )
            )
        return list(optimisers)

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
        losses: dict[str, Tensor] = {}
        feedback = None
        if self.discriminator is not None:
            of_d, feedback = self.discriminator_step(optimisers[1], batch, seen)
            losses |= of_d
        losses |= self.generator_step(optimisers[0], batch, fake, seen, feedback)
        self.end_batch()
        self._log(losses, len(batch.input))

    def _log(self, losses: Mapping[str, Tensor], count: int) -> None:
        """Tell the loggers of this step, and keep the sums of the epoch over `count` patches more.

        Lightning would keep them, too, but not in a checkpoint: an epoch that is resumed would be told
        of by its rest alone.
        """
        self.log_dict(
            {f"train/{name}_step": value.detach() for name, value in losses.items()},
            on_step=True, on_epoch=False, sync_dist=True, batch_size=count,
        )  # fmt: skip
        for name, value in losses.items():
            total, patches = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value.detach().float() * count, patches + count)

    def on_train_epoch_start(self) -> None:
        """Start the sums anew; an epoch that is resumed within does not come here."""
        self.sums = {}

    def on_train_batch_end(self, *_: Any) -> None:
        """Where the epoch ends, or training does, tell of its means."""
        if not (self.trainer.is_last_batch or self.trainer.should_stop):
            return
        means = {f"train/{n}_epoch": total / count for n, (total, count) in self.sums.items()}
        self.log_dict(means, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def discriminator_step(
        self, optimiser: Any, batch: Batch, seen: Tensor
    ) -> tuple[dict[str, Tensor], "AdversarialFeedback"]:
        """D minimises its term (eq. 2), every few steps R1 too.

        Args:
            seen: the prediction; no gradient passes through it to G.

        Returns:
            D's losses; what D, before it moved, has to say to G.
        """
        assert self.discriminator is not None
        weights = self.objective
        seen = seen.detach().requires_grad_()
        real_logits, real = self._judge(batch.input, batch.target)
        fake_logits, fake = self._judge(batch.input, seen)
        real_logits, fake_logits = real_logits.float(), fake_logits.float()
        adversarial = generator_term(weights.adversarial_kind, fake_logits)
        feedback = AdversarialFeedback(
            {"adversarial": adversarial}, weights.adversarial * adversarial
        )
        if weights.feature_matching:
            matching = feature_matching(fake, [features.detach() for features in real])
            feedback.terms["feature_matching"] = matching
            feedback.loss = feedback.loss + weights.feature_matching * matching
        scale = self.loss_scale
        (gradient,) = torch.autograd.grad(scale * feedback.loss, seen, retain_graph=True)
        feedback.gradient = gradient / scale
        loss = weights.discriminator * discriminator_term(
            weights.adversarial_kind, real_logits, fake_logits
        )
        penalty = {}
        if weights.r1 and self.updates % weights.r1_every == 0:
            penalty["r1"] = self._penalty(batch)
            loss = loss + weights.r1_every * weights.r1 * penalty["r1"]
        # Of D's weights alone: the way on to the prediction costs, and is G's.
        self.add_gradients(optimiser, loss, inputs=list(self.discriminator.parameters()))
        self.step_if_due(optimiser)
        of_d = {
            "loss_d": loss,
            "d_real": torch.sigmoid(real_logits).mean(),
            "d_fake": torch.sigmoid(fake_logits).mean(),
            **penalty,
        }
        return of_d, feedback

    def _judge(self, condition: Tensor, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the discriminator's logits, and its features if it has `judge`."""
        assert self.discriminator is not None
        if isinstance(self.discriminator, Discriminator):
            return self.discriminator.judge(condition, image)
        return self.discriminator(condition, image), []

    def _penalty(self, batch: Batch) -> Tensor:
        """R1 on the truth, in float32: it is a gradient of a gradient."""
        assert self.discriminator is not None
        with torch.autocast(self.device.type, enabled=False):
            truth = batch.target.detach().float().clone().requires_grad_()
            return gradient_penalty(self.discriminator(batch.input.float(), truth), truth)

    def generator_step(
        self,
        optimiser: Any,
        batch: Batch,
        fake: Tensor,
        seen: Tensor,
        feedback: "AdversarialFeedback | None" = None,
    ) -> dict[str, Tensor]:
        """G minimises the objective.

        Args:
            fake: the prediction, everywhere.
            seen: what D saw of it, a function of `fake`.
            feedback: of `discriminator_step` on `seen`; None without a discriminator.
        """
        weights = self.objective
        mae = masked_mae(fake.float(), batch.target, batch.valid)
        loss, terms = weights.mae * mae, {"mae": mae}
        if weights.tolerance:
            tolerance = soft_tolerance(
                fake.float(), batch.target, batch.valid,
                weights.tolerance_temperature, weights.tolerance_beta1, weights.tolerance_beta2,
            )  # fmt: skip
            loss = loss + weights.tolerance * tolerance
            terms["tolerance"] = tolerance
        for name, (weight, term) in self.further.items():
            terms[name] = term(fake.float(), batch.target, batch.valid)
            loss = loss + weight * terms[name]
        if weights.ms_ssim:
            structure = ms_ssim_loss(fake.float(), batch.target, batch.valid)
            loss = loss + weights.ms_ssim * structure
            terms["ms_ssim"] = structure
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
            norm = add_weight_l1(trained, factor, weights.weight_l1_reduction)
            loss = loss + weights.weight_l1 * norm
            terms["weight_l1"] = norm
        self.step_if_due(optimiser)
        if self.averaged is not None and self.is_due:
            self.averaged.update(self.generator)
        return {"loss_g": loss, **terms}

    def on_validation_start(self) -> None:
        """Of several processes all judge the model that the first one saves: what batch norms have seen
        is each process's own."""
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The recipe, and the random state, so that a resumed run draws what it would have drawn.

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
        """`sums` of each process, which tells of its own when the epoch ends."""
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
        self._rng = checkpoint.get("rng")
        rates = (self.adam.lr_generator, self.adam.lr_discriminator)
        for optimiser, rate in zip(checkpoint.get("optimizer_states", ()), rates, strict=False):
            for group in optimiser["param_groups"]:  # of the settings, which may have changed
                group["lr"], group["betas"] = rate, (self.adam.betas[0], self.adam.betas[1])
        self.sums = {}
        of_all = checkpoint.get("sums")  # checkpoints of earlier versions do not say
        if isinstance(of_all, list) and of_all:
            # By another number of processes some epoch's figures are those of a part of it.
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
        for _, term in self.further.values():
            if isinstance(term, nn.Module):
                term.to(self.device).requires_grad_(False)

    def on_train_start(self) -> None:
        """Take up the random state of the checkpoint; drop test scores, which are of other weights."""
        super().on_train_start()
        if (self.recipe.get("card") or {}).get("test"):
            self.recipe["card"] = {**self.recipe["card"], "test": None}
        rng = getattr(self, "_rng", None)
        if rng is not None:
            torch.set_rng_state(rng["cpu"].cpu())
            if "cuda" in rng and torch.cuda.is_available():
                torch.cuda.set_rng_state(rng["cuda"].cpu())
            self._rng = None


def _discriminator_of(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> nn.Module | None:
    """The discriminator that the generator was trained against; earlier versions do not name it."""
    spec, weights = checkpoint.recipe.get("discriminator"), submodule(state, "discriminator")
    if spec is None or not weights:
        return None
    channels = len(checkpoint.task.inputs) + len(checkpoint.task.targets)
    try:
        return with_weights(
            lambda: make_discriminator(spec, channels, checkpoint.patch_size),
            weights,
            not is_own(spec),
        )
    except RuntimeError as exc:
        raise UserError(f"ckpt={checkpoint.path}: weights do not fit its discriminator") from exc
