"""The objective (paper, sec. 2.4, eq. 2 to 6): pure terms, and how they are weighted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vfn.errors import UserError, check_choice
from vfn.metrics.structure import MS_SSIM_WEIGHTS, SSIM_WINDOW, multiscale
from vfn.metrics.tolerance import THRESHOLDS
from vfn.system.dotted import find

Term = Callable[[Tensor, Tensor, Tensor], Tensor]  # (prediction, target, valid) -> a mean
PIECE = 2**17  # values of `_pieces`: 512 KiB of float32
MS_SSIM_FLOOR = 1e-3  # of the mean contrast-structure of a scale
ADVERSARIAL = ("bce", "hinge", "lsgan")


def masked_mae(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error over the valid pixels (eq. 4), in the units of the arguments.

    The equation as printed takes the absolute values of both images first, which is the same for
    intensities; in [-1, 1] it would fold dark onto bright, so the plain difference is meant.

    Args:
        prediction, target: (B, C, H, W).
        valid: (B, C, H, W) bool. With no valid pixel the error is 0.
    """
    error = (prediction - target).abs() * valid
    return error.sum() / valid.sum().clamp(min=1)


def generator_term(kind: str, logits: Tensor) -> Tensor:
    """Generator's adversarial term from D's logits on predictions, mean over them.

    Args:
        kind: "bce": -log D(I, G(I)) (eq. 5), sigmoid and logarithm in one; "hinge" or "lsgan".
    """
    if kind == "hinge":
        return -logits.mean()
    if kind == "lsgan":
        return (logits - 1).square().mean() / 2
    return F.softplus(-logits).mean()


def discriminator_term(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """Discriminator's term from its logits on truth and prediction.

    Args:
        kind: "bce": -log D(I, truth) - log(1 - D(I, G(I))) (eq. 2, which D maximises); "hinge" (Lim and Ye
            2017); "lsgan": least squares (Mao et al. 2017, eq. 9).
    """
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "lsgan":
        return ((real - 1).square().mean() + fake.square().mean()) / 2
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of D's features, mean over its layers (pix2pixHD, Wang et al. 2018,
    eq. 4, which sums over them).
    """
    return torch.stack(
        [(f.float() - r.float()).abs().mean() for f, r in zip(fake, real, strict=True)]
    ).mean()


def gradient_penalty(logits: Tensor, image: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018, eq. 9): mean over patches of ||d D / d image||^2 / 2 on real images.

    Args:
        logits: of D on the truth, (B, 1) or (B, 1, h, w).
        image: the truth (B, C, H, W), which takes gradients.
    """
    per_patch = logits.float().flatten(1).mean(1).sum()
    (gradient,) = torch.autograd.grad(per_patch, image, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


@torch.no_grad()
def add_weight_l1(parameters: Sequence[Tensor], weight: float, reduction: str) -> Tensor:
    """L1 norm of the generator's weights (eq. 6), unweighted; `weight` times its gradient goes to theirs.

    The gradient is the sign of each: added after the backward pass it costs one reading of the
    weights, where autograd reads and writes them five times. On a CPU it goes piece by piece, each of which
    stays in the cache between its three operations.

    The paper leaves open whether it is a sum or a mean. A sum over tens of millions of weights
    would swamp the MAE at the paper's factor of 0.001, so "mean" is the default.

    Args:
        parameters: that are trained; those which the backward pass did not reach get a gradient too.
    """
    count = sum(p.numel() for p in parameters) if reduction == "mean" else 1
    norms = []
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        for values, gradient in _pieces(p, p.grad):
            sign = values.sign()
            gradient.add_(sign, alpha=weight / count)
            norms.append(sign.mul_(values).sum())
    return torch.stack(norms).sum() / count


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape in pieces of `PIECE` values, which take from all alike."""
    if tensors[0].device.type != "cpu" or len({t.stride() for t in tensors}) > 1:
        yield tensors
        return
    # Any dense layout is a line in the order of its memory.
    strides = tensors[0].stride()
    order = sorted(range(len(strides)), key=lambda axis: -strides[axis])
    lines = [t.permute(order).view(-1) for t in tensors]
    yield from zip(*(torch.split(line, PIECE) for line in lines), strict=True)


def soft_tolerance(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor,
    temperature: float,
    beta1: float = 1.0,
    beta2: float = 1.0,
) -> Tensor:
    """Tolerance level (eq. 7) as a training target, which the paper's discussion proposes.

    E = |prediction - target| / 2, a fraction of the range that the target was normalised on
    (`data.range`; its percentiles by default), not of the dtype as in `metrics.csv`. Each patch and
    channel has its own threshold i, the exact minimiser of beta1 * IE(i) + beta2 * SE(i) from one
    histogram, so the cost is O(pixels). What is differentiated is that sum at a fixed i: at a
    minimum the gradient owes nothing to the motion of i (envelope theorem).

    SE counts pixels and has no slope. Each pixel above i counts r / (r + temperature) instead of 1,
    where r = E - i. This is never above the exact SE and reaches it as the temperature goes to 0.
    A sigmoid's slope would vanish exponentially; this one falls as 1 / r^2, so that a pixel that is
    wrong by the whole range (a missed nucleus) still learns, and no pixel gains by getting worse.

    With beta1 = beta2 this is the MAE / 2: leaving pixels out of IE changes the sum by
    SE(i) * (beta2 - beta1 * (mean E outside - mean E inside)), which is negative only where E
    differs by more than beta2 / beta1 of the range. A smaller beta2 forgives pixels that far off.

    Args:
        prediction, target: (B, C, H, W) in [-1, 1].
        valid: (B, C, H, W) bool.
        temperature: the excess r that counts half, a fraction of the range; above 0.
        beta1, beta2: weights of the intensity and the spatial error; 0 or more.

    Returns:
        Mean over the patches and channels that hold a valid pixel; 0 if none does.
    """
    error = ((prediction - target).abs() / 2).flatten(2)
    valid = valid.flatten(2)
    threshold = _tolerance_threshold(error.detach(), valid, beta1, beta2)
    inside = valid & (error <= threshold)
    intensity = (error * inside).sum(-1) / inside.sum(-1).clamp(min=1)
    excess = F.relu(error - threshold) * valid
    spatial = (excess / (excess + temperature)).sum(-1) / valid.sum(-1).clamp(min=1)
    return (beta1 * intensity + beta2 * spatial).sum() / valid.any(-1).sum().clamp(min=1)


def ms_ssim_loss(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - MS-SSIM, mean over the patches and channels that have a valid window at every scale.

    Windows that hold an invalid pixel do not count. Patches too small for all five scales (176
    pixels) have those that fit, with the scales' weights rescaled to a sum of 1.

    Args:
        prediction, target: (B, C, H, W) in [-1, 1], float32, 11 pixels or more; both are moved to [0, 2],
            since a mean below 0 would mean nothing to the luminance factor.
        valid: (B, C, H, W) bool.

    Returns:
        In [0, 1]; 0 where nothing counts. A structure that is the reverse of the target's is no
        worse than none: the MAE beside it has to turn it round.
    """
    scales = sum(min(target.shape[-2:]) >> k >= SSIM_WINDOW for k in range(len(MS_SSIM_WEIGHTS)))
    weights = [w / sum(MS_SSIM_WEIGHTS[:scales]) for w in MS_SSIM_WEIGHTS[:scales]]
    # To ask a GPU would make the host wait for it.
    everywhere = valid.device.type == "cpu" and bool(valid.all())
    _, similarity, counts = multiscale(
        prediction + 1, target + 1, target.new_tensor(2.0), weights, None if everywhere else valid,
        MS_SSIM_FLOOR,
    )  # fmt: skip
    return ((1 - similarity) * counts).sum() / counts.sum().clamp(min=1)


def _tolerance_threshold(error: Tensor, valid: Tensor, beta1: float, beta2: float) -> Tensor:
    """The smallest i of 0.00 to 0.99 that minimises eq. 7: (B, C, N) -> (B, C, 1)."""
    thresholds = torch.as_tensor(THRESHOLDS, dtype=error.dtype, device=error.device)
    bins = torch.bucketize(error, thresholds)  # the first threshold that is not below the error
    empty = error.new_zeros(*error.shape[:2], len(thresholds) + 1)
    count = empty.scatter_add(-1, bins, valid.to(error.dtype)).cumsum(-1)
    total = empty.scatter_add(-1, bins, error * valid).cumsum(-1)
    intensity = total / count.clamp(min=1)
    spatial = 1 - count / count[..., -1:].clamp(min=1)
    curve = beta1 * intensity + beta2 * spatial
    return thresholds[curve[..., :-1].argmin(-1, keepdim=True)]


def term_weights(weights: Mapping[str, Any] | None, prefix: str = "") -> dict[str, float]:
    """Flatten tables of further terms: {a: {b: 1}} and {a.b: 1} are the same to Hydra's command line.

    Raises:
        UserError: a weight that is no number, or below 0.
    """
    flat: dict[str, float] = {}
    for key, weight in (weights or {}).items():
        name = f"{prefix}{key}"
        if isinstance(weight, Mapping):
            flat |= term_weights(weight, f"{name}.")
        elif isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise UserError(f"loss.terms={{{name}: {weight}}}: a weight is a number, 0 or more")
        else:
            flat[name] = float(weight)
    return flat


def load_terms(weights: Mapping[str, Any] | None) -> dict[str, tuple[float, Term]]:
    """Import the loss terms that the user names, keyed by the last part of their dotted paths.

    A term is called with prediction, target (both (B, C, H, W) in [-1, 1]) and valid (bool, the same
    shape) and returns a scalar, a mean over the valid pixels. A class, such as an nn.Module, is
    instantiated without arguments first.

    Args:
        weights: see `LossWeights.terms`.

    Raises:
        UserError: a path that leads to no function; two terms of one name.
    """
    terms: dict[str, tuple[float, Term]] = {}
    for path, weight in term_weights(weights).items():
        key, name = "loss.terms", path.rpartition(".")[2]
        term = find(path, key)
        if not callable(term):
            raise UserError(f"{key}={path}: is no function of prediction, target and valid")
        if name in terms:
            raise UserError(f"{key}={path}: another term is named {name} too; rename one")
        terms[name] = weight, term() if isinstance(term, type) else term
    return terms


@dataclass(frozen=True)
class LossWeights:
    """Weights of eq. 3, and of the tolerance level as a further term.

    Attributes:
        mae, adversarial, weight_l1: lambda 1 to 3; the paper's 0.99, 0.01, 0.001. With
            `adversarial` 0 there is no discriminator.
        weight_l1_reduction: "mean" or "sum".
        discriminator: factor of D's loss; pix2pix halves it.
        adversarial_kind: of both networks' terms; one of `ADVERSARIAL`, the paper's is "bce".
        feature_matching: weight of `feature_matching`; it takes a discriminator.
        r1, r1_every: weight of `gradient_penalty`, and the steps from one to the next, each of which
            counts r1_every times (StyleGAN2, Karras et al. 2020); it takes a discriminator.
        ms_ssim: weight of `ms_ssim_loss`.
        terms: weights of further terms by the dotted paths of their functions; see `load_terms`.
        tolerance: weight of `soft_tolerance`; 0 leaves it out.
        tolerance_temperature, tolerance_beta1, tolerance_beta2: its arguments.
    """

    mae: float = 0.99
    adversarial: float = 0.01
    weight_l1: float = 0.001
    weight_l1_reduction: str = "mean"
    discriminator: float = 1.0
    adversarial_kind: str = "bce"
    feature_matching: float = 0.0
    r1: float = 0.0
    r1_every: int = 16
    ms_ssim: float = 0.0
    terms: Mapping[str, Any] | None = None
    tolerance: float = 0.0
    tolerance_temperature: float = 0.1
    tolerance_beta1: float = 1.0
    tolerance_beta2: float = 1.0

    @classmethod
    def from_dict(cls, group: Mapping[str, Any]) -> "LossWeights":
        """Return the weights of a group `loss`, whose name says which file it was."""
        return cls(**{key: value for key, value in group.items() if key != "name"})

    def __post_init__(self) -> None:
        check_choice("loss.weight_l1_reduction", self.weight_l1_reduction, ("mean", "sum"))
        check_choice("loss.adversarial_kind", self.adversarial_kind, ADVERSARIAL)
        if not isinstance(self.terms, Mapping | None):
            raise UserError(
                f"loss.terms={self.terms}: give {{NAME: WEIGHT}}, as {{my_package.my_loss: 0.5}}"
            )
        term_weights(self.terms)
        if self.r1_every < 1:
            raise UserError(f"loss.r1_every={self.r1_every}: give 1 step or more")
        for key, value in vars(self).items():
            if isinstance(value, int | float) and value < 0:
                raise UserError(f"loss.{key}={value}: a weight is 0 or more")
        for key in ("feature_matching", "r1"):
            if getattr(self, key) and not self.adversarial:
                raise UserError(
                    f"loss.{key}={getattr(self, key)}: with loss.adversarial=0 there is no "
                    "discriminator; set loss.adversarial above 0"
                )
        if not self.tolerance_temperature > 0:
            raise UserError(
                f"loss.tolerance_temperature={self.tolerance_temperature}: at 0 wrong pixels would "
                "have no gradient; give a fraction of the range above 0, such as 0.1"
            )

    def image_terms(self) -> dict[str, tuple[float, Term]]:
        """Return weight and function of each term that compares prediction and target alone.

        Raises:
            UserError: see `load_terms`.
        """
        tolerance = partial(
            soft_tolerance,
            temperature=self.tolerance_temperature,
            beta1=self.tolerance_beta1,
            beta2=self.tolerance_beta2,
        )
        return {
            "mae": (self.mae, masked_mae),
            **({"tolerance": (self.tolerance, tolerance)} if self.tolerance else {}),
            **load_terms(self.terms),
            **({"ms_ssim": (self.ms_ssim, ms_ssim_loss)} if self.ms_ssim else {}),
        }
