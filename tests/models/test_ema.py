"""The moving average against one by hand, and who uses it."""

import copy
from pathlib import Path

import pytest
import torch

from tests.models.test_gan import make_batch, state
from vfn.errors import UserError
from vfn.models.ema import EMA, checked_decay, ema_state_dict
from vfn.models.gan import AdamSettings, VirtualStain
from vfn.models.losses import LossWeights
from vfn.models.nets import make_generator


def test_the_average_by_hand() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    net[0].weight.data.fill_(2.0)
    averaged = EMA(net, 0.25)
    expected = 2.0
    for n, new in enumerate((5.0, -1.0, 3.0, 8.0)):
        net[0].weight.data.fill_(new)
        net[1].running_mean.fill_(10 * new)  # type: ignore[union-attr,operator]
        averaged.update(net)
        decay = min(0.25, (1 + n) / (10 + n))  # 0.1, 0.1818, 0.25, 0.25
        expected = decay * expected + (1 - decay) * new
        assert float(averaged.net[0].weight) == pytest.approx(expected)  # type: ignore[index]
    assert float(averaged.net[1].running_mean) == 80.0  # type: ignore[index,arg-type]
    assert averaged.updates == 4
    assert not any(p.requires_grad for p in averaged.parameters())


@pytest.mark.parametrize("decay", [1.0, -0.5, 2.0])
def test_decays_that_cannot_be(decay: float) -> None:
    with pytest.raises(UserError, match=r"model.ema="):
        checked_decay(decay)


def averaging_module(ema: float) -> VirtualStain:
    torch.manual_seed(0)
    spec = {"name": "unet", "width": 4, "max_width": 8, "depth": 3}
    module = VirtualStain(
        make_generator(spec, 2, 1),
        None,
        LossWeights(1.0, 0.0, 0.0),
        AdamSettings(1e-2),
        {},
        ema=ema,
    )
    (optimiser,) = module.configure_optimizers()
    module.manual_backward = lambda loss, **options: loss.backward(**options)  # type: ignore[method-assign]
    module.optimizers = lambda: optimiser  # type: ignore
    module.log_dict = lambda *_, **__: None  # type: ignore
    return module.train()


def test_averaging_leaves_the_training_alone_and_serves_validation() -> None:
    module, plain, batch = averaging_module(0.9), averaging_module(0.0), make_batch()
    for _ in range(3):
        module.training_step(batch, 0)
        plain.training_step(batch, 0)
    ours, theirs = state(module.generator), state(plain.generator)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert module.averaged is not None
    assert torch.equal(module.eval()(batch.input), module.averaged.net(batch.input))
    assert not torch.equal(module(batch.input), plain.eval()(batch.input))


def test_what_training_goes_on_from_and_what_predicts(tmp_path: Path) -> None:
    module, batch = averaging_module(0.9), make_batch()
    for _ in range(2):
        module.training_step(batch, 0)
    assert module.averaged is not None
    whole = {"state_dict": module.state_dict(), "optimizer_states": []}
    module.on_save_checkpoint(whole)
    assert "averaged._extra_state" in whole["state_dict"]
    weights = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(weights)
    assert ema_state_dict(whole["state_dict"]).keys() == weights["state_dict"].keys()
    for key, value in module.averaged.net.state_dict().items():
        assert torch.equal(weights["state_dict"][f"generator.{key}"], value)
    # Switched off, or on, by a resumed run.
    off = averaging_module(0.0)
    off.on_load_checkpoint(given := copy.deepcopy(whole))
    off.load_state_dict(given["state_dict"])
    on = averaging_module(0.5)
    given = {"state_dict": off.state_dict(), "optimizer_states": []}
    off.on_save_checkpoint(given)
    on.on_load_checkpoint(given)
    on.load_state_dict(given["state_dict"])
    assert on.averaged is not None
    assert torch.equal(on.averaged.net.first.weight, off.generator.first.weight)  # type: ignore
    assert on.averaged.updates == 0
