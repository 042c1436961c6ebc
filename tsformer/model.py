"""What every model is: a specification that builds a module from a shape.

Networks, closed-form maps and naive rules satisfy the same contract, so a baseline is never
a special case in backtest, registry or service.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from tsformer.batch import Batch, Shape, Windows
from tsformer.errors import ConfigError, unknown_key


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of model can honestly use."""

    known: bool = False
    past: bool = False
    static: bool = False
    cross_series: bool = False
    native_quantiles: bool = False


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
        valid = {field.name: field for field in fields(cls)}
        for key, value in mapping.items():
            if key not in valid:
                raise unknown_key(key, [*valid], where=f"{where} ({cls.kind})")
            if not _fits(value, getattr(cls(), key)):
                raise ConfigError(
                    f"{where} ({cls.kind}): '{key}' must be like {getattr(cls(), key)!r}, got {value!r}."
                    + _exponent_hint(value)
                )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in mapping.items()})

    def to_mapping(self) -> dict[str, Any]:
        """The hyperparameters as plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _fits(value: object, default: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, tuple):
        return isinstance(value, list | tuple)
    return isinstance(value, type(default))


def _exponent_hint(value: object) -> str:
    """YAML 1.1 reads `1e-3` as text; a number needs the point: `1.0e-3`."""
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    return " Write numbers with a point and without quotes: 1.0e-3."
