"""Whether an explanation is true: hide what it calls important, forecast again, compare.

The change is compared with that of hiding as much among the rest, drawn at random: what DeYoung et
al. (arXiv 1911.03429) call comprehensiveness, with the random control of Hooker et al. (arXiv
1806.10758). A ratio near 1 means that the importance says nothing.

Two limits. Hiding a step also moves the level by which its window is normalised, so even useless
steps move a forecast a little. And the model is not fitted again, so what is left may be unlike
anything it has seen: the change is that of this model, not of what could be known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError, ShapeError
from tsformer.explain import ROLES, VariateAttention, lag_importance
from tsformer.models.tft import Selected
from tsformer.scale import location_scale

Forecast: TypeAlias = Callable[[Batch], Tensor]
"""Point forecasts `[batch, horizon, variate]`, in the unit of the batch."""

Hide: TypeAlias = Callable[[Batch, Tensor], Batch]
"""The batch without what is chosen, `[batch, unit]` bool."""

DRAWS = 10
SHARE = 10  # one candidate in so many is called important, at least one
PAIRS = 64  # windows and variates that a check among variates forecasts at most


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """How far forecasts move, in deviations of their context, on average over points.

    `important`: without the `count` that are called important. `others`: without as many of the
    rest, an entry for each draw. `windows` is how many were forecast.
    """

    important: float
    others: tuple[float, ...]
    count: int
    windows: int

    @property
    def other(self) -> float:
        """The mean of the draws."""
        return sum(self.others) / len(self.others)

    @property
    def ratio(self) -> float:
        """Above 1 as far as the importance is true; NaN where no forecast moves."""
        if self.other == 0:
            return float("inf") if self.important > 0 else float("nan")
        return self.important / self.other

    @property
    def distinct(self) -> bool:
        """Whether what is called important moves forecasts more than every draw did."""
        return self.important > max(self.others)


@torch.no_grad()
def faithfulness(
    forecast: Forecast,
    batch: Batch,
    importance: Tensor,
    *,
    hide: Hide,
    candidates: Tensor | None = None,
    measured: Tensor | None = None,
    count: int = 0,
    draws: int = DRAWS,
    seed: int = 0,
) -> Faithfulness | None:
    """The change without the `count` units of most `importance`, and without as many others.

    `importance` is `[batch, unit]`; `candidates`, of its shape, are the units that may be hidden,
    and `measured` `[batch, variate]` the forecasts that are looked at; all without. By default one
    candidate in SHARE counts as important, at least one. Windows with fewer than twice `count`
    candidates are left out; None where that leaves none, or none whose context varies.
    """
    if importance.shape[:1] != batch.past.shape[:1] or importance.ndim != 2:
        raise ShapeError(
            f"importance must be [batch, unit] for {len(batch)} windows, got "
            f"{tuple(importance.shape)}."
        )
    if draws < 1 or count < 0:
        raise ConfigError(f"draws must be at least 1 and count 0, got {draws} and {count}.")
    importance = importance.double().cpu()
    free = torch.ones_like(importance, dtype=torch.bool) if candidates is None else candidates.cpu()
    room = free.sum(1)
    count = count or max(1, int(room.double().mean()) // SHARE)
    spread = location_scale(batch.past, batch.observed)[1]  # [batch, 1, variate]
    counted = (spread > 0) if measured is None else (spread > 0) & measured.unsqueeze(1)
    kept = (room >= 2 * count) & counted.any(-1).squeeze(1).cpu()
    if not kept.any():
        return None
    rows = kept.to(batch.past.device)
    batch, spread, counted = batch[rows], spread[rows], counted[rows]
    importance, free = importance[kept], free[kept]
    before = forecast(batch).to(spread)

    def change(chosen: Tensor) -> float:
        moved = (forecast(hide(batch, chosen.to(spread.device))).to(spread) - before).abs()
        share = torch.where(counted, moved / torch.where(counted, spread, 1), 0)
        return float(share.sum() / (counted.sum() * moved.shape[1]))

    random = torch.Generator().manual_seed(seed)
    top = _largest(importance, among=free, count=count)
    rest = free & ~top
    others = [
        change(_largest(torch.rand(rest.shape, generator=random), among=rest, count=count))
        for _ in range(draws)
    ]
    return Faithfulness(change(top), tuple(others), count=count, windows=int(kept.sum()))


def _largest(values: Tensor, *, among: Tensor, count: int) -> Tensor:
    """The `count` largest of each row `among` those, `[row, unit]` bool."""
    places = values.masked_fill(~among, -torch.inf).topk(count).indices
    return torch.zeros_like(among).scatter_(1, places, True)


# --- what is hidden -----------------------------------------------------------------------------


def hide_steps(batch: Batch, chosen: Tensor) -> Batch:
    """Without chosen steps of the context, and after those without chosen lags of the target.

    `chosen` `[batch, time]` or `[batch, time + lag]`. Of a step everything goes: the target, and
    covariates, which are set to 0, their training mean, or the unknown category.
    """
    time = batch.past.shape[1]
    steps, lags = chosen[:, :time, None], chosen[:, time:]
    lagged = batch.lagged
    if lagged is not None:
        gone = _before(steps, lagged.shape[1]).unsqueeze(-1)
        if lags.shape[1]:
            gone = gone | lags[:, None, None]
        lagged = lagged.masked_fill(gone, torch.nan)
    known = batch.known
    if known is not None:
        known = known.masked_fill(_before(steps, known.shape[1]), 0)
    covariates = None if batch.covariates is None else batch.covariates.masked_fill(steps, 0)
    observed = batch.observed & ~steps
    return replace(batch, observed=observed, known=known, covariates=covariates, lagged=lagged)


def _before(steps: Tensor, length: int) -> Tensor:
    """`steps` `[batch, time, 1]` over context and horizon, none of the horizon."""
    ahead = steps.new_zeros((len(steps), length - steps.shape[1], 1))
    return torch.cat((steps, ahead), 1)


def hide_tokens(columns: tuple[str, ...]) -> Hide:
    """Hides variates and, after those, `columns` of a `VariateAttention`.

    A variate is not observed; a column is 0 throughout, its training mean, or unknown.
    """

    def hide(batch: Batch, chosen: Tensor) -> Batch:
        variates = batch.past.shape[2]
        observed = batch.observed & ~chosen[:, None, :variates]
        values = {"known": batch.known, "past": batch.covariates}
        for place, column in enumerate(columns, start=variates):
            use, number = column.split()
            values[use] = _blank(values[use], chosen[:, place], int(number))
        return replace(batch, observed=observed, known=values["known"], covariates=values["past"])

    return hide


def _blank(values: Tensor | None, chosen: Tensor, column: int) -> Tensor:
    assert values is not None
    values = values.clone()
    values[..., column] = values[..., column].masked_fill(chosen[:, None], 0)
    return values


def hide_variables(shape: Shape, *, role: str) -> Hide:
    """Hides the variables of `role`, in the order of an `Explanation`; of them all but the target.

    `role` is "static", "encoder" (over the context) or "decoder" (over the horizon). Columns are 0,
    their training mean, or unknown; lags are missing.
    """
    if role not in ROLES:
        raise ConfigError(f"role must be one of {', '.join(ROLES)}, got {role!r}.")

    def hide(batch: Batch, chosen: Tensor) -> Batch:
        if role == "static":
            assert batch.static is not None
            return replace(batch, static=batch.static.masked_fill(chosen[:, None], 0))
        own = (1, len(shape.past)) if role == "encoder" else (0, 0)
        widths = (*own, len(shape.known), len(shape.lags))
        _, past, known, lags = chosen[:, : sum(widths)].split(widths, dim=1)
        places = torch.arange(shape.context + shape.horizon, device=chosen.device)
        within = ((places < shape.context) == (role == "encoder"))[None, :, None]
        changed = batch
        if shape.past and role == "encoder":
            assert batch.covariates is not None
            values = batch.covariates.masked_fill(past[:, None], 0)
            changed = replace(changed, covariates=values)
        if shape.known:
            assert batch.known is not None
            values = batch.known.masked_fill(within & known[:, None], 0)
            changed = replace(changed, known=values)
        if shape.lags:
            assert batch.lagged is not None
            gone = (within & lags[:, None]).unsqueeze(2)  # [batch, time + horizon, 1, lag]
            changed = replace(changed, lagged=batch.lagged.masked_fill(gone, torch.nan))
        return changed

    return hide


# --- a check for each explanation ---------------------------------------------------------------


def check_lags(forecast: Forecast, batch: Batch, weights: Tensor) -> Faithfulness | None:
    """Hides the inputs of most weight; `weights` are what `explain.lag_weights` gives."""
    importance = lag_importance(weights).mean(0).expand(len(batch), -1)
    there = batch.observed.any(-1)
    if weights.shape[1] > batch.past.shape[1]:
        assert batch.lagged is not None
        there = torch.cat((there, ~batch.lagged.isnan().all(2).all(1)), 1)
    return faithfulness(forecast, batch, importance, hide=hide_steps, candidates=there)


def check_steps(forecast: Forecast, batch: Batch, attention: Tensor) -> Faithfulness | None:
    """Hides the steps of the context that the horizon attended to most, window by window."""
    time = batch.past.shape[1]
    importance = attention[..., :time].mean((1, 2))  # [batch, time]
    there = batch.observed.any(-1)
    return faithfulness(forecast, batch, importance, hide=hide_steps, candidates=there)


def check_variables(
    forecast: Forecast, batch: Batch, selected: Selected, *, shape: Shape, role: str
) -> Faithfulness | None:
    """Hides the variable of most weight in each window; the target, by which a window is scaled, stays."""
    axes = tuple(range(1, selected.weights.ndim - 1))
    importance = selected.weights.mean(axes)  # [batch, variable]
    free = torch.tensor([name not in ("target", "step") for name in selected.variables])
    return faithfulness(
        forecast,
        batch,
        importance,
        hide=hide_variables(shape, role=role),
        candidates=free.expand(importance.shape),
    )


def check_variates(
    forecast: Forecast, batch: Batch, attention: VariateAttention, *, seed: int = 0
) -> Faithfulness | None:
    """Hides for a variate the others that it took most from, and looks at its own forecast.

    Layers are averaged. At most PAIRS pairs of a window and a variate are drawn.
    """
    weights = attention.weights.mean(1).cpu()  # [batch, from, to]
    variates, tokens = weights.shape[1:]
    seen = batch.observed.any(1).cpu()  # [batch, variate]
    pairs = seen.nonzero()
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:PAIRS]
    window, variate = pairs[order].unbind(1)
    columns = seen.new_ones((len(seen), tokens - variates))
    free = torch.cat((seen, columns), 1)[window]
    free[torch.arange(len(free)), variate] = False
    return faithfulness(
        forecast,
        batch[window.to(batch.past.device)],
        weights[window, variate],
        hide=hide_tokens(attention.columns),
        candidates=free,
        measured=torch.eye(variates, dtype=torch.bool)[variate].to(batch.past.device),
        seed=seed,
    )
