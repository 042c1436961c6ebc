"""The `search` section of an experiment: which settings are tried, and between what bounds.

    search:
      space:
        model.width: [16, 32, 64]                                      # one of these
        model.dropout: {from: 0.0, to: 0.5}                            # anything between
        training.learning_rate: {from: 1.0e-4, to: 1.0e-2, log: true}  # each decade alike

Trials are compared by the loss of the validation part, which is the same for all of them; the
test part is read by none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import TYPE_CHECKING, Any

from tsformer.errors import ConfigError, unknown_key, unlike
from tsformer.settings import check_setting, example_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONTEXT = "window.context"  # the only setting of its section that may be searched
REFUSED = {
    "training.loss": "losses of different kinds cannot be compared",
    "training.seed": "the best of several seeds is luck, not a setting",
}
DIGITS = 4  # of a number drawn from a range: a person reads it, and git keeps it

Parameters = Mapping[str, Any]  # {"model.width": 32}: the values of one trial
Owners = Mapping[
    str, "type[DataclassInstance]"
]  # {"model": PatchTSTSpec, ...}: who knows the types


@dataclass(frozen=True, slots=True)
class Choice:
    """One of `values`."""

    values: tuple[Any, ...]

    @property
    def size(self) -> float:
        """How many values there are."""
        return len(self.values)

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def every(self) -> Iterable[Any]:
        """All values."""
        return self.values

    @property
    def bounds(self) -> tuple[Any, ...]:
        """The values that are written."""
        return self.values

    def to_plain(self) -> object:
        """As it stands in the YAML."""
        return [[*value] if isinstance(value, tuple) else value for value in self.values]


@dataclass(frozen=True, slots=True)
class Range:
    """A number from `low` to `high`, both included; with `log`, evenly by its logarithm."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def size(self) -> float:
        """How many values there are: infinitely many unless they are whole."""
        return self.high - self.low + 1 if self.whole else math.inf

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def every(self) -> Iterable[Any]:
        """All values, where they are whole."""
        return range(int(self.low), int(self.high) + 1)

    @property
    def bounds(self) -> tuple[Any, ...]:
        """The values that are written."""
        return (self.low, self.high)

    def rounded(self, value: float) -> float:
        """`value` as it is tried: whole or with few digits, and within the bounds."""
        if self.whole:
            return int(value)
        return min(self.high, max(self.low, float(f"{value:.{DIGITS}g}")))

    def to_plain(self) -> object:
        """As it stands in the YAML."""
        return {"from": self.low, "to": self.high, **({"log": True} if self.log else {})}


Dimension = Choice | Range


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched: a dimension for each setting, by its dotted name."""

    space: Mapping[str, Dimension]

    @staticmethod
    def from_mapping(mapping: object, *, owners: Owners, where: str) -> Search:
        """The search that `mapping` describes, each value of the type that its owner takes.

        Raises ConfigError with `where`, the key and the nearest valid one.
        """
        if not isinstance(mapping, Mapping):
            raise unlike(f"{where}: expected keys and values", repr(mapping))
        for key in mapping:
            if key != "space":
                raise unknown_key(str(key), ["space"], where=where)
        space = mapping.get("space")
        if not isinstance(space, Mapping) or not space:
            raise unlike(
                f"{where}: 'space' must name one setting at least, such as "
                f"training.learning_rate: {{from: 1.0e-4, to: 1.0e-2, log: true}}",
                repr(space),
            )
        return Search({str(k): _dimension(str(k), v, owners, where) for k, v in space.items()})

    @property
    def size(self) -> float:
        """How many combinations there are."""
        return math.prod(dimension.size for dimension in self.space.values())

    def holds(self, parameters: Parameters) -> bool:
        """Whether `parameters` are a point of the space."""
        return all(parameters[name] in dimension for name, dimension in self.space.items())

    def most(self, name: str, *, own: int) -> int:
        """The largest whole number that is tried for `name`, or `own`, the experiment's, if larger."""
        dimension = self.space.get(name)
        return max((own, *(() if dimension is None else dimension.bounds)))

    def combinations(self) -> Iterator[dict[str, Any]]:
        """All points of a finite space, in its order."""
        for values in product(*(dimension.every() for dimension in self.space.values())):
            yield dict(zip(self.space, values, strict=True))

    def to_mapping(self) -> dict[str, Any]:
        """The search as plain values, ready for JSON and YAML."""
        return {"space": {name: dimension.to_plain() for name, dimension in self.space.items()}}


def sections(parameters: Parameters) -> dict[str, dict[str, Any]]:
    """`{"model.width": 32}` as `{"model": {"width": 32}}`."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        section, _, key = name.partition(".")
        found.setdefault(section, {})[key] = value
    return found


def _dimension(name: str, value: object, owners: Owners, where: str) -> Dimension:
    """The values that are tried for the setting `name`."""
    _check_name(name, owners, where)
    section, _, key = name.partition(".")
    example = example_of(owners[section], key, where=where)
    found = _read(value, example, where=f"{where}: '{name}'")
    for bound in found.bounds:
        check_setting(owners[section], key, bound, where=f"{where}: {section}")
    return found if isinstance(found, Choice) else _ascending(found, where=f"{where}: '{name}'")


def _check_name(name: str, owners: Owners, where: str) -> None:
    if name in REFUSED:
        told = f"'{name}' cannot be searched: {REFUSED[name]}."
        raise ConfigError(f"{where}: {told}", told=told)
    every = [f"{section}.{f.name}" for section, owner in owners.items() for f in fields(owner)]
    valid = [n for n in every if n not in REFUSED and (n == CONTEXT or not n.startswith("window."))]
    if name not in valid:
        raise unknown_key(name, valid, where=where)


def _read(value: object, example: object, *, where: str) -> Dimension:
    """A dimension as it is written, its values not yet checked."""
    if isinstance(value, Mapping):
        return _range(value, example, where=where)
    if not isinstance(value, list | tuple):
        raise unlike(f"{where} must be a list of choices or {{from: LOW, to: HIGH}}", repr(value))
    number = isinstance(example, float)
    plain = (float(v) if number and type(v) is int else v for v in value)
    values = tuple(tuple(v) if isinstance(v, list) else v for v in plain)
    if len(values) < 2 or any(v in values[:place] for place, v in enumerate(values)):
        hint = " What is not searched belongs in the section of its own."
        expected = f"{where} needs two different choices at least and none twice"
        raise unlike(expected, repr(value), hint)
    return Choice(values)


def _range(value: Mapping[Any, Any], example: object, *, where: str) -> Range:
    for key in value:
        if key not in ("from", "to", "log"):
            raise unknown_key(str(key), ["from", "to", "log"], where=where)
    if isinstance(example, bool) or not isinstance(example, int | float):
        told = f"{where} is no number, so it needs a list of choices."
        raise ConfigError(told, told=told)
    for key in ("from", "to"):
        if key not in value:
            told = f"{where}: '{key}' is missing."
            raise ConfigError(told, told=told)
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise unlike(f"{where}: 'log' must be true or false", repr(log))
    return Range(value["from"], value["to"], log, whole=isinstance(example, int))


def _ascending(found: Range, *, where: str) -> Range:
    """The range, whose bounds are numbers, where it goes up and has a logarithm if it must."""
    if not (found.low < found.high and math.isfinite(found.low) and math.isfinite(found.high)):
        raise ConfigError(
            f"{where} must go up: 'from' {found.low} is not below 'to' {found.high}.",
            told=f"{where} must go up: 'from' lies below 'to'.",
        )
    if found.log and found.low <= 0:
        raise unlike(f"{where}: with 'log' it must start above 0", f"'from' {found.low}")
    if found.whole:
        return found
    return Range(float(found.low), float(found.high), found.log)
