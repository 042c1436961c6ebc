"""Whether the temporal fusion transformer finds what is there, and nothing else.

    python -m benchmarks.synthetic [--seeds 3]

Series are a level, a daily season, a driver that is known ahead, and noise. The level and how
strongly the driver acts depend on a static category. The hour is known too. Beside them stand a
known decoy, drawn as the driver is, and a static decoy, which mean nothing. What generated the
data is known, so the forecast can be set against the best that is possible, and the weights of
the selection against the truth.

Three inputs are known, since of two the weights of a selection tell hardly more than which one is
preferred (see `tsformer.gates`): with driver and decoy alone, one of three seeds preferred a decoy
that had no influence on the forecast. Settings were chosen on seed 0; every seed draws data and
weights anew. The result goes to benchmarks/results/synthetic-DATE.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import keep, machine
from tsformer.batch import Batch, Shape, Target
from tsformer.metrics import WQL, Scored, Tally, coverage
from tsformer.models.naive import SeasonalNaiveSpec
from tsformer.models.tft import TFTSpec, explain
from tsformer.runtime import Runtime
from tsformer.train import Training, fit

SERIES, STEPS, SEASON, KINDS = 48, 720, 24, 4
NOISE = 0.5  # in units of the driver
LEVELS = (0.1, 0.5, 0.9)
# known: driver, decoy, hour; static: the kind, decoy; of a category 0 is the unknown
SHAPE = Shape(
    context=48, horizon=12, known=(0, 0, SEASON + 1), static=(KINDS + 1, 0), levels=LEVELS
)
NAMES = {
    "known 0": "driver",
    "known 1": "decoy",
    "known 2": "hour",
    "static 0": "kind",
    "static 1": "decoy",
}
SPANS = {"train": (0, 480), "validation": (480, 600), "test": (600, STEPS)}  # steps forecast
SPEC = TFTSpec(width=16, heads=2, dropout=0.05)
TRAINING = Training(
    epochs=8, batch_size=64, windows_per_epoch=8192, loss="pinball", learning_rate=5e-3
)


@dataclass(frozen=True, slots=True)
class World:
    """Series that were drawn, and what can be known of them; `[series, step]` where not said.

    `known` is `[series, step, column]`, `static` `[series, column]`, and `truth` is the values
    without their noise.
    """

    values: Tensor
    truth: Tensor
    known: Tensor
    static: Tensor


def draw(seed: int) -> World:
    """A world of its own for every `seed`."""
    chance = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=chance, dtype=torch.float64)

    kind = torch.arange(SERIES) % KINDS  # [series]
    level = torch.tensor([5.0, 10.0, 20.0, 40.0], dtype=torch.float64)[kind]
    strength = torch.tensor([0.5, 1.0, 1.5, -1.0], dtype=torch.float64)[kind]
    driver, decoy = normal(2, SERIES, STEPS)
    hour = torch.arange(STEPS) % SEASON
    season = 2 * (2 * torch.pi * hour / SEASON).sin()
    truth = level[:, None] + season + strength[:, None] * driver
    return World(
        values=truth + NOISE * normal(SERIES, STEPS),
        truth=truth,
        known=torch.stack((driver, decoy, (hour + 1.0).expand_as(driver)), -1),
        static=torch.stack((kind + 1.0, normal(SERIES)), -1),
    )


class WorldWindows:
    """All windows of a world whose horizon lies in a span of steps, every one of one series."""

    def __init__(self, world: World, span: tuple[int, int]) -> None:
        self.world = world
        first = max(span[0], SHAPE.context)
        self.cutoffs = torch.arange(first, span[1] - SHAPE.horizon + 1)

    @property
    def shape(self) -> Shape:
        return SHAPE

    def __len__(self) -> int:
        return SERIES * len(self.cutoffs)

    def batch(self, index: Tensor) -> tuple[Batch, Target]:
        series, steps = self._places(index)
        values = self.world.values[series, steps].unsqueeze(-1)  # [window, step, variate]
        past, future = values.split((SHAPE.context, SHAPE.horizon), 1)
        batch = Batch(
            past,
            torch.ones_like(past, dtype=torch.bool),
            known=self.world.known[series, steps],
            static=self.world.static[series],
        )
        return batch, Target(future, torch.ones_like(future, dtype=torch.bool))

    def truth(self, index: Tensor) -> Tensor:
        """The horizon without its noise, `[window, horizon]`."""
        return self.world.truth[self._places(index)][:, SHAPE.context :]

    def _places(self, index: Tensor) -> tuple[Tensor, Tensor]:
        cutoff = self.cutoffs[index % len(self.cutoffs)]
        around = torch.arange(-SHAPE.context, SHAPE.horizon)
        series = index // len(self.cutoffs)
        return series.unsqueeze(1), cutoff.unsqueeze(1) + around


def scores(forecast: Tensor, target: Target) -> dict[str, float]:
    """The weighted quantile loss, the risks of two levels, and the coverage of the 80 % interval."""
    quantiles = forecast.double().numpy()
    scored = Scored(
        point=quantiles[..., SHAPE.point],
        actual=target.values.double().numpy(),
        observed=target.observed.numpy(),
        quantiles=quantiles,
        levels=LEVELS,
    )
    tally = Tally((WQL, coverage(0.8)))
    tally.add(scored)
    found = {name: float(value) for name, value in tally.values().items()}
    for level in (0.5, 0.9):
        risk = Tally((WQL,))
        kept = scored.quantile(level)[..., None]
        risk.add(replace(scored, quantiles=kept, levels=(level,)))
        found[f"risk_p{level * 100:.0f}"] = float(risk.values()["wql"])
    return found


def best(windows: WorldWindows, index: Tensor) -> Tensor:
    """The quantiles of what generated the data."""
    away = torch.tensor([NOISE * NormalDist().inv_cdf(level) for level in LEVELS])
    return windows.truth(index)[..., None, None] + away


def without(batch: Batch, *, known: int | None = None, static: int | None = None) -> Batch:
    """The same batch with one column shuffled over windows, so that it says nothing of them."""
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    assert batch.known is not None
    assert batch.static is not None
    changed, attributes = batch.known.clone(), batch.static.clone()
    if known is not None:
        changed[..., known] = changed[order][..., known]
    if static is not None:
        attributes[..., static] = attributes[order][..., static]
    return replace(batch, known=changed, static=attributes)


def study(seed: int) -> dict[str, Any]:
    """One world, one network, and what can be said of both on the test part."""
    world = draw(seed)
    windows = {name: WorldWindows(world, span) for name, span in SPANS.items()}
    torch.manual_seed(seed)
    model = SPEC.build(SHAPE)
    started = time.process_time()
    fitted = fit(
        model,
        train=windows["train"],
        validation=windows["validation"],
        training=replace(TRAINING, seed=seed),
    )
    seconds = time.process_time() - started
    every = torch.arange(len(windows["test"]))
    batch, target = windows["test"].batch(every)
    forecast = Runtime(model, device="cpu").predict
    naive = SeasonalNaiveSpec(season=SEASON).build(SHAPE)
    explanation = explain(model, batch)
    parts = {"past": explanation.past, "known": explanation.known, "static": explanation.static}
    return {
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "validation_loss": fitted.validation_loss,
        "processor_seconds": seconds,
        "windows": len(every),
        "scores": {
            "tft": scores(forecast(batch), target),
            "seasonal naive": scores(naive(batch), target),
            "best possible": scores(best(windows["test"], every), target),
            "tft, driver shuffled": scores(forecast(without(batch, known=0)), target),
            "tft, decoy shuffled": scores(forecast(without(batch, known=1)), target),
            "tft, kind shuffled": scores(forecast(without(batch, static=0)), target),
            "tft, static decoy shuffled": scores(forecast(without(batch, static=1)), target),
        },
        "weights": {
            part: {
                NAMES.get(variable, variable): float(weight)
                for variable, weight in zip(
                    selected.variables, selected.weights.flatten(0, -2).mean(0), strict=True
                )
            }
            for part, selected in parts.items()
        },
    }


def verdicts(row: dict[str, Any]) -> dict[str, bool]:
    """What must hold."""
    found, known = row["scores"], row["weights"]["known"]
    tft = found["tft"]
    return {
        "the driver weighs more than the decoy": known["driver"] > known["decoy"],
        "80 % interval covers 77 to 83 %": 0.77 <= tft["coverage_0.8"] <= 0.83,
        "risk below seasonal naive": all(
            tft[risk] < found["seasonal naive"][risk] for risk in ("wql", "risk_p50", "risk_p90")
        ),
        "without the driver the forecast is worse": found["tft, driver shuffled"]["wql"]
        > 1.5 * tft["wql"],
        "without the decoy it is the same within 2 %": found["tft, decoy shuffled"]["wql"]
        < 1.02 * tft["wql"],
    }


def show(row: dict[str, Any]) -> None:
    """One seed as a table."""
    print(
        f"seed {row['seed']}: {row['parameters']:,} parameters, {row['windows']:,} test windows, "
        f"{row['processor_seconds']:.0f} s, validation loss {row['validation_loss']:.4f}"
    )
    print(f"  {'':28}{'wql':>8}{'p50':>8}{'p90':>8}{'cover':>8}")
    for name, found in row["scores"].items():
        values = [found[key] for key in ("wql", "risk_p50", "risk_p90", "coverage_0.8")]
        print(f"  {name:28}" + "".join(f"{value:8.4f}" for value in values))
    for part, weights in row["weights"].items():
        text = ", ".join(f"{name} {weight:.3f}" for name, weight in weights.items())
        print(f"  weights, {part:8} {text}")
    for name, holds in row["verdicts"].items():
        print(f"  {'yes' if holds else 'NO ':4}{name}")


def main(arguments: Sequence[str]) -> None:
    """Runs all seeds, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for seed in range(given.seeds):
        row = study(seed)
        rows.append({**row, "verdicts": verdicts(row)})
        show(rows[-1])
    result = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "model": {"kind": SPEC.kind, **SPEC.to_mapping()},
        "training": asdict(TRAINING),
        "seeds": rows,
    }
    print(keep("synthetic", result))


if __name__ == "__main__":
    main(sys.argv[1:])
