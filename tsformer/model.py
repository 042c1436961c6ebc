"""What every model is: a specification that builds a module from a shape.

Networks, closed-form maps and naive rules satisfy the same contract, so a baseline is never
a special case in backtest, registry or service.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from tsformer import settings
from tsformer.batch import Batch, Shape, Windows


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of model can honestly use; what it cannot is refused, not dropped in silence.

    `known`, `past`, `static`, `lags` and `series` are inputs beside the target (see
    `tsformer.batch.Batch`).
    `cross_series`: a variate is forecast from the others too. `native_quantiles`: it emits levels.
    `unit_free`: forecasts follow any change of unit, f(ax + b) = a f(x) + b. Models without it
    know the unit they were trained in and are given training deviations.
    """

    known: bool = False
    past: bool = False
    static: bool = False
    lags: bool = False
    series: bool = False
    cross_series: bool = False
    native_quantiles: bool = False
    unit_free: bool = True


class Model(nn.Module, ABC):
    """A forecaster of tensors: `forward(batch)` gives `[batch, horizon, variate, level]`.

    Output is in the unit and dtype of `batch.past`. The level axis has `shape.outputs` entries.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor: ...


@runtime_checkable
class ClosedForm(Protocol):
    """A model whose weights are the solution of an equation."""

    def solve(self, train: Windows, validation: Windows) -> None:
        """Sets the weights from `train`, and what must be chosen from `validation`."""
        ...


@dataclass(frozen=True, slots=True)
class ModelSpec(ABC):
    """A kind of model and its hyperparameters; the only home of its defaults."""

    kind: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()

    @abstractmethod
    def build(self, shape: Shape) -> Model:
        """A model with fresh weights from torch's current random state."""

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, where: str = "model") -> Self:
        """The specification that `mapping` describes; unknown keys and wrong types are refused."""
        return settings.from_mapping(cls, mapping, where=f"{where} ({cls.kind})")

    def to_mapping(self) -> dict[str, Any]:
        """The hyperparameters as plain values."""
        return settings.to_mapping(self)
