"""Schemas: what the columns of a table are for."""

from __future__ import annotations

from dataclasses import dataclass

from tsformer.errors import ConfigError

OWN = ("series", "time", "y")  # columns of a panel's table that a covariate cannot be called
LONE_ID = "0"
LONGEST_ID = 128  # characters


@dataclass(frozen=True, slots=True)
class Schema:
    """What the columns of a table are for.

    One target: the table is long, with a row for each series and time; without `id` it is one
    series, "0". Several targets: the table is wide, and each target is a series of its own name.
    """

    time: str
    targets: tuple[str, ...]
    id: str | None = None
    known: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [*([self.id] if self.id else []), self.time, *self.targets, *self.covariates]
        names += self.static
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"schema: {', '.join(twice)} has two roles. Give each column one.")
        if not self.targets:
            raise ConfigError("schema: 'targets' is empty. Name the column to forecast.")
        if self.wide and (self.id or self.static):
            raise ConfigError(
                "schema: with several targets each is a series, so 'id' and 'static' have no "
                "meaning. Name one target, or leave them out."
            )
        own = [name for name in self.covariates if name in OWN]
        if own:
            raise ConfigError(f"schema: a covariate cannot be called {own[0]}. Rename the column.")

    @property
    def wide(self) -> bool:
        """Whether each target is a series."""
        return len(self.targets) > 1

    @property
    def covariates(self) -> tuple[str, ...]:
        """Columns that vary in time beside the target: known ahead, then known in the past only."""
        return (*self.known, *self.past)

    @property
    def roles(self) -> dict[str, str]:
        """Each column that is read, and its role."""
        named = {"id": (self.id,) if self.id else (), "time": (self.time,), "target": self.targets}
        named |= {"covariate": self.covariates, "static": self.static}
        return {name: role for role, names in named.items() for name in names}
