"""Jobs that are done again and again, and their runs."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    FailFast,
    Field,
    model_validator,
)

from serving.schemas import samples
from serving.schemas.fields import Answer, Name, Strict
from serving.schemas.jobs import JobRequest

LEVEL = re.compile(r"0\.[0-9]{1,4}")


class GateRequest(Strict):
    """What a candidate must show; the rules of docs/gate.md hold besides.

    It always must beat the champion, seasonal naive and the best line, on `folds` cutoffs at least
    that do not overlap: 4, which is what the test of the gate takes.
    """

    metric: Literal["mse_scaled", "mae_scaled", "mae", "rmse", "mase", "rmsse", "wql"] | None = None
    folds: Annotated[int, Field(ge=1, le=4)] = 4
    must_beat: Annotated[list[Literal["champion", "seasonal_naive", "linear"]], FailFast()] = Field(
        default_factory=list
    )
    alpha: Annotated[float | None, Field(gt=0, le=0.5)] = None
    min_coverage: Annotated[
        dict[str, float], Field(description='The least coverage of one interval: {"0.8": 0.75}.')
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for share, least in self.min_coverage.items():
            if len(self.min_coverage) > 1 or not LEVEL.fullmatch(share):
                raise ValueError("min_coverage names one interval, such as 0.8")
            if not 0 <= least <= float(share):
                raise ValueError("an interval cannot be asked to cover more than it says")
        return self


class OnPass(Strict):
    """What becomes of a candidate that the gate lets through; with null it stays what it is."""

    promote: Literal["champion"] = "champion"


class ScheduleRequest(Strict):
    """A job that is done again and again, by the wall clock of a zone."""

    model_config = samples.shown(samples.SCHEDULED)

    name: Name
    cron: Annotated[
        str, Field(min_length=1, max_length=128, description="Five fields: 30 2 * * * is 02:30.")
    ]
    tz: Annotated[
        str, Field(min_length=1, max_length=64, description="IANA name, such as Europe/Berlin.")
    ]
    enabled: bool = True
    catch_up_hours: Annotated[int, Field(ge=0, le=8_784)] = 24
    job: JobRequest
    gate: GateRequest | None = None
    on_pass: OnPass | None = Field(default_factory=OnPass)


class ScheduleAnswer(Answer):
    """A schedule; `cron` and `job.spec` are null or short for one that the command line made."""

    id: str
    name: str
    trigger: str
    cron: str | None
    tz: str | None
    enabled: bool
    catch_up_hours: int | float
    job: dict[str, Any]
    gate: dict[str, Any] | None
    on_pass: dict[str, Any] | None
    next_due_at: str | None
    missed: int
    skipped: int
    created_at: str
    etag: str


class SchedulePage(Answer):
    """Schedules by name; `next` is the cursor of the following page."""

    items: list[ScheduleAnswer]
    next: str | None


class RunAnswer(Answer):
    """A run of a schedule; `verdict` is what the gate said, or what else came of it."""

    id: str
    schedule: str
    state: Literal["pending", "running", "succeeded", "failed", "dead", "skipped", "cancelled"]
    reason: str
    due_at: str
    attempt: int
    started_at: str | None
    finished_at: str | None
    verdict: str | None
    version: str | None
    job: str | None


class RunPage(Answer):
    """Runs, newest first; `next` is the cursor of the following page."""

    items: list[RunAnswer]
    next: str | None
