"""What can go wrong, in one tree.

    TsformerError
    ├── ConfigError        a file, key or argument that is not as specified
    ├── DataError          a table that cannot be used; `faults` names every place
    ├── ShapeError         tensors whose axes do not agree
    ├── ArtifactError      a stored model that is missing, truncated or altered
    ├── NotFoundError      a model, version, alias or data set that nobody knows
    ├── IncompatibleError  a request that this model cannot serve
    ├── UnavailableError   a registry or store that does not answer
    ├── ConflictError      another was faster, or the state forbids it; nothing was changed
    │   └── MovedError     it has moved since it was looked at
    └── DivergedError      training met a number that is not finite

Every message says what came, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class TsformerError(Exception):
    """The root: catch this to catch everything that this project raises on purpose.

    `told` says it to who asked over HTTP: without what was given, but for checked names, and
    without the command line. It is empty where there are no such words.
    """

    def __init__(self, message: str = "", *, told: str = "") -> None:
        super().__init__(message)
        self.told = told


class ConfigError(TsformerError):
    """A file, key or argument that is not as specified."""


class ShapeError(TsformerError):
    """Tensors whose axes do not agree."""


class ArtifactError(TsformerError):
    """A stored model that is missing, truncated or altered."""


class NotFoundError(TsformerError):
    """A model, version, alias or data set that nobody knows."""


class IncompatibleError(TsformerError):
    """A request that this model cannot serve: a level, frequency, horizon or covariate."""


class UnavailableError(TsformerError):
    """A registry or store that does not answer; trying again later may help."""


class ConflictError(TsformerError):
    """Another was faster, or the state of things forbids it; nothing was changed. Look again."""


class MovedError(ConflictError):
    """It has moved since it was looked at. Look again, then decide."""


class DivergedError(TsformerError):
    """Training met a number that is not finite.

    `windows` are the numbers of those to blame, where it is known, in the `part` that was read:
    training or validation.
    """

    def __init__(self, message: str, *, part: str = "", windows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.part = part
        self.windows = tuple(windows)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a table, and where.

    `code` is one of the data codes of the HTTP contract (`duplicate_timestamp`, `gap`, ...);
    `row` counts from 0 in the table as it was given, before sorting; `count` is how many rows or
    values are concerned, where that is known.
    """

    code: str
    message: str
    series: str | int | None = None
    column: str | None = None
    row: int | None = None
    count: int | None = None

    def __str__(self) -> str:
        places = (("series", self.series), ("column", self.column), ("row", self.row))
        where = ", ".join(f"{name} {value!r}" for name, value in places if value is not None)
        return f"{where}: {self.message}" if where else self.message


class DataError(TsformerError):
    """A table that cannot be used; `faults` names every place, not only the first."""

    def __init__(self, summary: str, faults: Sequence[Fault] = ()) -> None:
        self.summary = summary
        self.faults = tuple(faults)
        shown = "".join(f"\n  - {fault}" for fault in self.faults[:20])
        rest = len(self.faults) - 20
        more = f"\n  ... and {rest} more" if rest > 0 else ""
        super().__init__(f"{summary}{shown}{more}")


def unknown_key(key: str, valid: Sequence[str], *, where: str) -> ConfigError:
    """The error for a key that nobody knows, with the nearest valid one."""
    hint, known = nearest(key, valid), ", ".join(sorted(valid))
    return ConfigError(
        f"{where}: unknown key '{key}'.{hint} Valid keys: {known}.",
        told=f"A key here is not known.{hint} Known: {known}.",
    )


def unlike(expected: str, came: object, hint: str = "") -> ConfigError:
    """The error for what is not as `expected` says; that and the `hint` are words of ours alone."""
    return ConfigError(f"{expected}, got {came}.{hint}", told=f"{expected}.{hint}")


def nearest(word: str, valid: Iterable[str]) -> str:
    """The question whether the nearest valid word was meant; empty where none is near."""
    near = get_close_matches(word, [*valid], n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
