"""The toy problem of SAMformer: attention that could stay out of the way, and does not.

    python -m benchmarks.toy

arXiv 2402.10198, section 3. Context X [7 variates, 512 steps], map W [512, 96] and noise are all
standard normal and the horizon is X W plus the noise, so a linear map is all there is to learn
and no error below 1 is honest. There are 10,000 windows to learn from and 5,000 to be scored on.
The network is SAMformer without instance normalisation; it contains the linear map.

Every row has the same training but for what it names: 40 epochs of Adam, 64 windows a step, a
cosine from 4e-3, since at 1e-3 and 20 epochs none comes near its optimum. Scores are those after
the last epoch, since what is asked is what training leads to. `self` is how much attention a
variate pays to itself on average; without a preference it is 1/7.

About seven minutes of one core that has nothing else to do. The result goes to
benchmarks/results/toy-DATE.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import keep, machine
from tsformer.batch import Batch, Shape, Target
from tsformer.model import Model
from tsformer.models.linear import LinearSpec
from tsformer.models.samformer import SAMformer, SAMformerSpec
from tsformer.train import Progress, Training, fit

SHAPE = Shape(context=512, horizon=96, variates=7)
TRAIN, SCORED = 10_000, 5_000
TRAINING = Training(
    epochs=40, batch_size=64, optimizer="adam", learning_rate=4e-3, schedule="cosine", warmup=0.0
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Windows that were drawn; satisfies `tsformer.batch.Windows`."""

    past: Tensor  # [window, time, variate]
    future: Tensor  # [window, horizon, variate]

    @property
    def shape(self) -> Shape:
        return SHAPE

    def __len__(self) -> int:
        return len(self.past)

    def batch(self, index: Tensor) -> tuple[Batch, Target]:
        past, future = self.past[index], self.future[index]
        seen = torch.ones((), dtype=torch.bool)
        return Batch(past, seen.expand(past.shape)), Target(future, seen.expand(future.shape))


def draw(seed: int = 0) -> tuple[Drawn, Drawn]:
    """The windows to learn from and those to be scored on, of one map."""
    chance = torch.Generator().manual_seed(seed)
    weight = torch.randn(SHAPE.context, SHAPE.horizon, generator=chance)

    def windows(count: int) -> Drawn:
        rows = torch.randn(count, SHAPE.variates, SHAPE.context, generator=chance)
        noise = torch.randn(count, SHAPE.variates, SHAPE.horizon, generator=chance)
        return Drawn(rows.mT, (rows @ weight + noise).mT)

    return windows(TRAIN), windows(SCORED)


def oracle(train: Drawn, scored: Drawn) -> dict[str, float]:
    """The mean squared errors of least squares."""
    started = time.perf_counter()

    def rows(windows: Drawn) -> tuple[Tensor, Tensor]:
        return windows.past.mT.flatten(0, 1), windows.future.mT.flatten(0, 1)

    past, future = rows(train)
    weight = torch.linalg.solve(past.T.double() @ past.double(), past.T.double() @ future.double())
    errors = [
        float((past @ weight.float() - future).square().mean())
        for past, future in (rows(train), rows(scored))
    ]
    seconds = time.perf_counter() - started
    return {"train_mse": errors[0], "test_mse": errors[1], "seconds": seconds}


def linear() -> Model:
    """The map alone."""
    return LinearSpec().build(SHAPE)


def attentive() -> SAMformer:
    """The map and the attention beside it."""
    return SAMformer(SAMformerSpec(), SHAPE)


def frozen() -> SAMformer:
    """The same, queries and keys as they were drawn."""
    model = attentive()
    for layer in (model.query, model.key):
        layer.requires_grad_(False)
    return model


# The name of a row, its model and the radius of sharpness-aware minimisation.
ROWS: dict[str, tuple[Callable[[], Model], float]] = {
    "linear, Adam": (linear, 0.0),
    "attention, Adam": (attentive, 0.0),
    "attention frozen, Adam": (frozen, 0.0),
    "attention, SAM 1.0": (attentive, 1.0),
}


def measure(
    build: Callable[[], Model], *, sharpness: float, train: Drawn, scored: Drawn
) -> dict[str, float]:
    """The errors after the last epoch of a model from `build`."""
    torch.manual_seed(0)
    model = build()
    last: dict[str, float] = {}

    def report(progress: Progress) -> None:
        if progress.validation_loss is not None and progress.epoch == progress.epochs:
            last.update(train_mse=progress.loss, test_mse=progress.validation_loss)
            if isinstance(model, SAMformer):
                last["self"] = own_share(model, scored)

    training = replace(TRAINING, sharpness=sharpness)
    fitted = fit(model, train=train, validation=scored, training=training, report=report)
    return {**last, "seconds": fitted.seconds}


@torch.no_grad()
def own_share(model: SAMformer, windows: Drawn) -> float:
    """The mean attention of a variate to itself, over the first 500 windows."""
    batch, _ = windows.batch(torch.arange(len(windows))[:500])
    shares = model.scores(model.tokens(batch), batch).softmax(-1)  # [batch, from, to]
    return float(shares.diagonal(dim1=1, dim2=2).mean())


def show(name: str, row: dict[str, float]) -> None:
    """A line of the table."""
    own = f"{row['self']:8.3f}" if "self" in row else " " * 8
    print(
        f"{name:<24} {row['train_mse']:10.3f} {row['test_mse']:10.3f} {own} {row['seconds']:8.0f}",
        flush=True,
    )


def main() -> None:
    """Measures, prints and stores."""
    torch.set_num_threads(1)
    train, scored = draw()
    result: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": f"toy problem of arXiv 2402.10198, {TRAIN} windows to learn from, {SCORED} scored",
        "machine": machine(),
        "rows": {},
    }
    print(f"{'':<24} {'train MSE':>10} {'test MSE':>10} {'self':>8} {'seconds':>8}")
    result["rows"]["least squares"] = oracle(train, scored)
    show("least squares", result["rows"]["least squares"])
    for name, (build, radius) in ROWS.items():
        row = measure(build, sharpness=radius, train=train, scored=scored)
        result["rows"][name] = row
        show(name, row)
    print(keep("toy", result))


if __name__ == "__main__":
    main()
