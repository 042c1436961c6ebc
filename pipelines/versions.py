"""Names of model versions and what is known of one: plain values, no registry behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsformer.errors import ConfigError

if TYPE_CHECKING:  # values need no database
    from pipelines.locks import Lease

CHAMPION = "champion"
CANDIDATE = "candidate"
ENCODER = "encoder"  # the kind of a version that makes no forecasts: models begin with it
FALLBACK = "seasonal_naive"  # answers in the place of a model that cannot
FALLBACKS = (FALLBACK, "linear")
# Baselines that the service has without publishing.
RESERVED = ("seasonal_naive", "linear", "last_value", "ets", "theta", "sarimax")
REFERENCE = re.compile(r"(?P<name>[^@/]*)(?:(?P<mark>[@/])(?P<rest>.*))?", re.DOTALL)
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # of Windows
ALIAS = re.compile(r"(?!(latest|v[0-9]+)\Z)[a-z][a-z0-9_-]{0,31}")  # but for MLflow's own
VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Reference:
    """Which version is meant: `name` (its champion), `name@alias` or `name/version`."""

    name: str
    alias: str | None = CHAMPION
    version: str | None = None

    @staticmethod
    def parse(text: str) -> Reference:
        """The reference that `text` writes; ConfigError says which part is not as specified."""
        parts = REFERENCE.fullmatch(text)
        assert parts is not None  # the pattern takes any text
        name, mark, rest = checked_name(parts["name"]), parts["mark"], parts["rest"]
        if mark is None:
            return Reference(name)
        if mark == "@":
            return Reference(name, alias=checked_alias(rest))
        if not VERSION.fullmatch(rest):
            raise ConfigError(
                f"{rest!r} is not a version: it must be a whole number from 1, as in {name}/3."
            )
        return Reference(name, alias=None, version=rest)

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.version else f"{self.name}@{self.alias}"


NAMED = (  # what a name must, in an error
    "have 1 to 64 letters, digits, '.', '_' or '-', with a letter or digit first and last, and be no "
    "device of Windows, such as CON"
)


def is_name(text: str) -> bool:
    """Whether `text` can name a model, a dataset or a schedule."""
    return NAME.fullmatch(text) is not None and not DEVICE.fullmatch(text)


def checked_name(text: str) -> str:
    """`text` if it can name a model; MLflow alone would take control characters and paths."""
    if not is_name(text):
        raise ConfigError(
            f"{text!r} is not a model name: it must {NAMED}.", told=f"The name must {NAMED}."
        )
    return text


def checked_new_name(text: str) -> str:
    """`text` if a model can be published under it; the service's own baselines keep theirs."""
    if checked_name(text) in RESERVED:
        raise ConfigError(
            f"'{text}' is the name of a built-in baseline of the service, which would hide the "
            f"model. Give it another name, such as my-{text.replace('_', '-')}.",
            told="This is the name of a built-in baseline of the service. Give the model another.",
        )
    return text


def checked_alias(text: str) -> str:
    """`text` if it can be an alias."""
    if not ALIAS.fullmatch(text):
        raise ConfigError(
            f"{text!r} is not an alias: it must have 1 to 32 small letters, digits, '_' or '-', "
            "with a letter first, and not be latest or v and a number, which MLflow keeps."
        )
    return text


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable version: where it came from, what it is, and the digest of its files.

    `created_at` is RFC 3339 in UTC; `card` is what the publisher knew of it: the forecaster's
    card and its metrics; `gate` is `passed`, `refused` or empty for one that was not judged.
    """

    name: str
    version: str
    kind: str
    digest: str
    run_id: str
    created_at: str
    aliases: tuple[str, ...] = ()
    description: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    gate: str = ""

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A verified local copy; `fresh` is False where the registry was away and this is the last.

    No clean-up removes the version while `lease` lives.
    """

    version: ModelVersion
    directory: Path
    fresh: bool
    lease: Lease | None = field(default=None, compare=False, repr=False)
