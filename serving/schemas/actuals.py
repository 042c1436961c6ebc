"""Late truth, and what it says of the models."""

from __future__ import annotations

from serving.schemas import sample_answers, samples
from serving.schemas.fields import Answer, Strict, TimeZone
from serving.schemas.tables import Columns, Table


class ActualsRequest(Strict):
    """What really happened: a value a series and time; `null` values are left out."""

    model_config = samples.shown(samples.ACTUALS)

    data: Table
    columns: Columns = Columns()
    tz: TimeZone = None


class ActualsAnswer(Answer):
    """What became of the values; `matched` are those of which a recorded forecast speaks."""

    model_config = samples.shown(sample_answers.RECEIVED)

    received: int
    inserted: int
    replaced: int
    unchanged: int
    matched: int


class DriftAnswer(Answer):
    """A series that is not what it was: a score of 1 is the limit."""

    unique_id: str
    kind: str
    since: str
    score: float


class ConditionAnswer(Answer):
    """One version: its recorded forecasts that have come true, and its drift.

    `judged_series` is null where drift cannot be known: the version is gone or has no profile.
    """

    version: str
    points: int
    series: int
    fallbacks: int
    metrics: dict[str, float]
    coverage: dict[str, float]
    judged_series: int | None
    drift: list[DriftAnswer]


class MonitorAnswer(Answer):
    """A model in the actuals after one stamp up to another; no versions without any actuals."""

    model: str
    after: str | None
    until: str | None
    versions: list[ConditionAnswer]
