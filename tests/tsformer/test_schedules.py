"""Learning rates against hand-written tables, and torch's one-cycle as the outside source."""

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from tsformer.schedules import SCHEDULES, Plan, cosine, decay, halving, onecycle


def by_epoch(schedule, epochs: int) -> list[float]:
    """The factor at the first and the last of 3 steps of each epoch, which must be one value."""
    plan = Plan(epochs, steps_per_epoch=3)
    first = [schedule(3 * epoch, plan) for epoch in range(epochs)]
    last = [schedule(3 * epoch + 2, plan) for epoch in range(epochs)]
    assert first == last
    return first


def test_halving_is_the_table_of_ltsf() -> None:
    # adjust_learning_rate(type1) is called after epoch e with e + 1: lr * 0.5 ** (e + 1 - 1)
    assert by_epoch(halving, 6) == [1, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]


def test_decay_is_the_table_of_patchtst() -> None:
    assert by_epoch(decay, 7) == pytest.approx([1, 1, 1, 1, 0.9, 0.81, 0.729], rel=1e-12)


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.3), (37, 0.2), (10, 0.4), (1000, 0.05)])
def test_onecycle_is_torchs(steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = OneCycleLR(optimizer, 1.0, total_steps=steps, pct_start=warmup, cycle_momentum=False)
    rates = []
    for _ in range(steps):
        rates.append(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step() if len(rates) < steps else None
    plan = Plan(1, steps, warmup)
    assert [onecycle(step, plan) for step in range(steps)] == pytest.approx(rates, rel=1e-9)


def test_cosine_rises_in_a_line_and_falls_in_half_a_wave() -> None:
    plan = Plan(epochs=2, steps_per_epoch=6, warmup=1 / 3)  # 4 steps up, 8 down
    table = [0.25, 0.5, 0.75, 1, 1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]
    assert [cosine(step, plan) for step in range(12)] == pytest.approx(table, abs=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_every_factor_is_a_share_however_short_the_run(schedule, warmup: float, epochs: int):
    # a factor of 0 or less would waste a step or climb the loss
    for steps in (1, 2, 5):
        plan = Plan(epochs, steps, warmup)
        assert all(0 < schedule(step, plan) <= 1 for step in range(plan.steps))
