"""Learning rates against PyTorch's schedules, by steps, by time, and after a stop."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Timer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from vfn.errors import UserError
from vfn.models.gan import AdamSettings, VirtualStain
from vfn.training.schedule import Schedule, ScheduleSettings

STEPS = 20


def rates(scheduler: LRScheduler, optimiser: torch.optim.Optimizer) -> list[float]:
    found = []
    for _ in range(STEPS):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return found


def adam() -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=2.0)


def test_cosine_is_pytorchs() -> None:
    settings, optimiser = ScheduleSettings("cosine"), adam()
    expected = rates(CosineAnnealingLR(optimiser, STEPS), optimiser)
    assert [2 * settings.factor(i / STEPS) for i in range(STEPS)] == pytest.approx(expected)


def test_onecycle_is_pytorchs() -> None:
    """Its phases end at whole steps: 0.3 of 21 is step 5.3, with the last at 20."""
    settings, optimiser = ScheduleSettings("onecycle", 5.3 / 20), adam()
    total = STEPS + 1
    scheduler = OneCycleLR(optimiser, 2.0, total_steps=total, pct_start=6.3 / total)
    expected = rates(scheduler, optimiser)
    assert [2 * settings.factor(i / STEPS) for i in range(STEPS)] == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_warm_up_climbs_in_a_straight_line(kind: str) -> None:
    settings = ScheduleSettings(kind, 0.2)
    assert [settings.factor(s) for s in (0.0, 0.05, 0.1, 0.2)] == pytest.approx([0, 0.25, 0.5, 1])
    assert settings.factor(1.0) == pytest.approx(1.0 if kind == "constant" else 0.0)


def test_schedules_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"model.schedule=step.*cosine"):
        ScheduleSettings("step")
    with pytest.raises(UserError, match=r"model.warmup=1"):
        ScheduleSettings("cosine", 1.0)


def step(
    schedule: Schedule,
    done: int,
    spent: float | None = None,
    max_steps: int = -1,
    accumulate: int = 1,
) -> list[float]:
    """Rates of G and D after `done` of 10 steps, and `spent` of 100 s."""
    optimisers = [adam(), adam()]
    timer: Any = Timer(duration={"seconds": 100}) if spent is not None else None
    if timer is not None:
        timer.time_elapsed = lambda *_: spent
    trainer = SimpleNamespace(
        optimizers=optimisers, global_step=2 * done, max_epochs=2, num_training_batches=5,
        callbacks=[timer] if timer else [], max_steps=max_steps, strategy=SimpleNamespace(broadcast=lambda x: x),
    )  # fmt: skip
    module: Any = VirtualStain.__new__(VirtualStain)
    torch.nn.Module.__init__(module)
    module.adam, module.accumulate = AdamSettings(1.0, 0.5), accumulate
    schedule.on_train_batch_start(trainer, module, None, 0)  # type: ignore[arg-type]
    return [o.param_groups[0]["lr"] for o in optimisers]


def test_both_rates_follow_steps_or_time_whichever_is_ahead() -> None:
    schedule = Schedule(ScheduleSettings("cosine"))
    assert step(schedule, 0) == [1.0, 0.5]
    assert step(schedule, 5) == pytest.approx([0.5, 0.25])
    assert step(schedule, 1, spent=50.0) == pytest.approx([0.5, 0.25])
    assert step(schedule, 5, spent=1.0) == pytest.approx([0.5, 0.25])
    assert step(schedule, 1, spent=200.0) == pytest.approx([0.0, 0.0])


def test_the_end_comes_earlier_by_max_steps_or_accumulation() -> None:
    schedule = Schedule(ScheduleSettings("cosine"))
    assert step(schedule, 2, max_steps=8) == pytest.approx([0.5, 0.25])  # of two optimisers
    assert step(schedule, 3, accumulate=2) == pytest.approx([0.5, 0.25])  # of 3 steps an epoch
    assert step(schedule, 5, max_steps=80) == pytest.approx([0.5, 0.25])


def test_a_resumed_run_spends_its_new_time_on_what_was_left() -> None:
    first = Schedule(ScheduleSettings("constant", 0.9))
    step(first, 0, spent=40.0)
    again = Schedule(ScheduleSettings("constant", 0.9))
    again.load_state_dict(first.state_dict())
    assert step(again, 0, spent=0.0)[0] == pytest.approx(0.4 / 0.9)
    assert step(again, 0, spent=50.0)[0] == pytest.approx(0.7 / 0.9)
