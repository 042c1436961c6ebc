"""What requests and answers have in common. Requests are strict: no coercion, no unknown member."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
)

from pipelines.frequency import EXAMPLES

NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$"
NAMED = "Up to 64 letters, digits and . _ -, a letter or digit first and last."
VERSION = r"^[1-9][0-9]{0,8}$"
ALIAS = r"^[a-z][a-z0-9_-]{0,31}$"
NUMBERED = "A whole number from 1, such as 7."
ALIASED = "Up to 32 small letters, digits, _ and -, a letter first, such as champion."
REFERENCE = NAME[:-1] + r"(@[a-z][a-z0-9_-]{0,31}|/[1-9][0-9]{0,8})?$"
Reference = Annotated[
    str,
    Field(
        pattern=REFERENCE,
        description="`name`, `name@alias` or `name/version`. Always there: seasonal_naive, linear, "
        "last_value, and ets, theta, sarimax, which are fitted to each series in the request.",
    ),
]


def _without_duplicates(levels: list[float]) -> list[float]:
    if len(set(levels)) < len(levels):
        raise ValueError("levels must not repeat")
    if any(round(level, 4) != level for level in levels):
        raise ValueError("levels have at most four decimals")
    return levels


Levels = Annotated[
    list[Annotated[float, Field(gt=0, lt=1)]],
    FailFast(),
    AfterValidator(_without_duplicates),
    Field(
        description="Quantile levels between 0 and 1 (excluded), 0.1 and 0.9 for 10 and 90 percent; at "
        "most four decimals, no duplicates."
    ),
]


class Strict(BaseModel):
    """The door for JSON: strict types, finite numbers, known members alone."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, frozen=True, protected_namespaces=()
    )


class Answer(BaseModel):
    """A part of an answer; clients must ignore members they do not know."""

    model_config = ConfigDict(protected_namespaces=())


class Warned(Answer):
    """Something worth knowing about the data or the answer."""

    code: str
    unique_id: str | int | None
    count: int
    message: str


TimeZone = Annotated[
    str | None, Field(max_length=64, description="IANA name, such as Europe/Berlin.")
]
Name = Annotated[
    str,
    Field(pattern=NAME, description=NAMED),
]
STEP = f"One step of the series: {EXAMPLES}, or an integer where ds counts steps."
Freq = Annotated[
    str | int | None,
    Field(union_mode="left_to_right", description=f"{STEP} Default: what the stamps show."),
]
