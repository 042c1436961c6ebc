"""Windows stacked as tensors with named axes and masks.

Axes always come in the same order: `[batch, time, variate]` for what is read and
`[batch, horizon, variate, level]` for what is forecast.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from tsformer.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes a model is built for; derived from data and experiment, never asked for.

    `context`, `horizon` and `lags` are in steps; a lag is at least the horizon, so that all it
    points at lies in the past. `known`, `past` and `static` have an entry for each covariate
    column: 0 for a number, and for a category how many there are, that of the unknown included.
    `series` is how many numbers series have, that of the unknown included; 0 where none is told.
    `levels` are the quantile levels the model itself emits, ascending and with 0.5 among them;
    without any, the model emits one point forecast.
    """

    context: int
    horizon: int
    variates: int = 1
    known: tuple[int, ...] = ()
    past: tuple[int, ...] = ()
    static: tuple[int, ...] = ()
    lags: tuple[int, ...] = ()
    series: int = 0
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("context", "horizon", "variates"):
            if getattr(self, name) < 1:
                raise ShapeError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if any(lag < self.horizon for lag in self.lags):
            raise ShapeError(
                f"lags must be at least the horizon ({self.horizon}), got {self.lags}."
            )
        if list(self.levels) != sorted(set(self.levels)):
            raise ShapeError(f"levels must ascend without duplicates, got {self.levels}.")
        if self.levels and 0.5 not in self.levels:
            raise ShapeError(f"levels must contain the median 0.5, got {self.levels}.")
        if any(not 0 < level < 1 for level in self.levels):
            raise ShapeError(f"levels must lie between 0 and 1, got {self.levels}.")

    @property
    def outputs(self) -> int:
        """Length of the level axis of a forecast: the levels, or 1 for a point forecast."""
        return max(1, len(self.levels))

    @property
    def point(self) -> int:
        """Index on the level axis of the point forecast."""
        return self.levels.index(0.5) if self.levels else 0


Given = Literal["known", "covariates", "static", "lagged"]

# What a model may read beside the target, and over what it must be given.
GIVEN: dict[Given, tuple[str, str]] = {
    "known": ("covariates known ahead", "context and horizon"),
    "covariates": ("covariates of the past", "the context"),
    "static": ("static covariates", "all variates"),
    "lagged": ("lagged values", "context and horizon"),
}


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model may look at: everything up to the cutoff, and what is known beyond it.

    - `past` `[batch, time, variate]`: the context in the unit of the data. What stands under
      `observed == False` has no influence.
    - `observed` `[batch, time, variate]`: bool.
    - `known` `[batch, time + horizon, column]`: covariates known over context and horizon.
    - `covariates` `[batch, time, column]`: covariates known up to the cutoff alone.
    - `static` `[batch, variate, column]`: attributes of the series.
    - `series` `[batch, variate]`: the number of each series, 0 for one that training did not see.
    - `lagged` `[batch, time + horizon, variate, lag]`: earlier values of each step in the unit of
      the data, from before the cutoff; NaN where there is none.

    Covariates are numbers without a gap; a category is its number, 0 that of the unknown.
    """

    past: Tensor
    observed: Tensor
    known: Tensor | None = None
    covariates: Tensor | None = None
    static: Tensor | None = None
    lagged: Tensor | None = None
    series: Tensor | None = None

    def __post_init__(self) -> None:
        if self.past.ndim != 3:
            raise ShapeError(f"past must be [batch, time, variate], got {tuple(self.past.shape)}.")
        if self.observed.shape != self.past.shape or self.observed.dtype != torch.bool:
            raise ShapeError(
                f"observed must be bool of shape {tuple(self.past.shape)}, "
                f"got {self.observed.dtype} of shape {tuple(self.observed.shape)}."
            )

    def __len__(self) -> int:
        return len(self.past)

    def check_context(self, context: int) -> None:
        """Refuses windows of another length than the `context` that a model reads."""
        if (time := self.past.shape[1]) != context:
            raise ShapeError(
                f"this model reads {context} steps, got {time}. Cut or pad the past (unobserved "
                "steps first) to its context."
            )

    def given(self, name: Given, *, columns: int) -> Tensor:
        """The field `name`, which must have as many `columns` as a model was built for."""
        values: Tensor | None = getattr(self, name)
        if values is not None and values.shape[-1] == columns:
            return values
        what, where = GIVEN[name]
        found = "none" if values is None else values.shape[-1]
        raise ShapeError(
            f"this model reads {columns} {what}, got {found}. Give those it was built for, in "
            f"their order, over {where}."
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; see `sent`."""
        return self._map(lambda tensor: sent(tensor, device))

    def __getitem__(self, index: slice | Tensor) -> Batch:
        """The rows of `index` along the batch axis."""
        return self._map(lambda tensor: tensor[index])

    def recent(self, context: int) -> Batch:
        """The same batch with the last `context` steps of its context."""
        cut = self.past.shape[1] - context
        if cut == 0:
            return self
        if cut < 0:
            raise ShapeError(f"a context of {context} steps was asked of {self.past.shape[1]}.")
        timed = {"past", "observed", "known", "covariates", "lagged"}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        kept: dict[str, Any] = {
            k: v[:, cut:] if k in timed and v is not None else v for k, v in values.items()
        }
        return Batch(**kept)

    def only(self, variates: Tensor) -> Batch:
        """The same batch with the variates of these numbers, in this order."""
        return replace(
            self,
            past=self.past[:, :, variates],
            observed=self.observed[:, :, variates],
            static=None if self.static is None else self.static[:, variates],
            lagged=None if self.lagged is None else self.lagged[:, :, variates],
            series=None if self.series is None else self.series[:, variates],
        )

    def _map(self, change: TensorChange) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {k: None if v is None else change(v) for k, v in values.items()}
        return Batch(**changed)


def all_observed(observed: Tensor) -> bool:
    """Whether every step is known to be observed, which most batches are and which saves passes.

    False where asking would cost more than it saves: a GPU would be waited for, and a graph that
    is being traced would break.
    """
    if observed.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if observed.numel() and not any(observed.stride()):  # one value, expanded
        return bool(observed[(0,) * observed.ndim])
    return bool(observed.all())


def seen(values: Tensor, observed: Tensor) -> Tensor:
    """`values` with 0 where `observed`, which broadcasts to them, is False; not always a copy."""
    return values if all_observed(observed) else torch.where(observed, values, 0)


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`; to a GPU by way of pinned memory, so that this process goes on meanwhile."""
    to_gpu = torch.device(device).type == "cuda" and tensor.device.type == "cpu"
    if to_gpu and tensor.is_contiguous():  # what is expanded is copied as the one value that it is
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class Target:
    """What really happened over the horizon: `values` and `observed`, `[batch, horizon, variate]`."""

    values: Tensor
    observed: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def only(self, variates: Tensor) -> Target:
        """The same target with the variates of these numbers, in this order."""
        return Target(self.values[:, :, variates], self.observed[:, :, variates])

    def to(self, device: torch.device | str) -> Target:
        """The same target on `device`; see `sent`."""
        return Target(sent(self.values, device), sent(self.observed, device))


class TensorChange(Protocol):
    def __call__(self, tensor: Tensor, /) -> Tensor: ...


class Windows(Protocol):
    """Windows that can be cut by number: all that training and the closed form need to know."""

    @property
    def shape(self) -> Shape: ...

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> tuple[Batch, Target]:
        """The windows numbered `index` `[batch]`, and what followed them."""
        ...
