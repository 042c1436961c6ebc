"""The one way from a request for forecasts to forecasts, whatever the protocol that asked."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from pipelines.panel import Panel
from serving import tables
from serving.ahead import Ahead, prepared
from serving.answers import ModelAnswer, answer
from serving.inquiry import Inquiry, steps_of
from serving.limits import Limits
from serving.members import fallback_members, freq_member, series_members, warning_members
from serving.models import Model, inputs_of, registered
from serving.recording import check_recordable
from serving.schemas.forecasts import ForecastRequest
from serving.service import Service
from serving.tables import Data
from serving.threads import off_loop


@dataclass(frozen=True, slots=True)
class Forecasted:
    """A request, what was read of its data, and the model's answer."""

    asked: ForecastRequest
    data: Data
    found: ModelAnswer
    parsed: float  # when the data were read, by time.perf_counter

    @property
    def panel(self) -> Panel:
        """The series that were forecast."""
        return self.data.panel

    def entries(self) -> list[dict[str, Any]]:
        """One entry a requested series, in the order of the request."""
        return series_members(self.data, self.panel, self.found, self.asked.columns)

    def members(self, *, started: float) -> dict[str, Any]:
        """The members of an answer beside the tables; the request came at `started`."""
        found = self.found
        spent = {
            "parse": 1000 * (self.parsed - started),
            "queue": found.queue_ms,
            "model": found.model_ms,
            "total": 1000 * (time.perf_counter() - started),
        }
        return {
            "id": f"fc_{secrets.token_hex(10)}",
            "model": found.model.members(),
            "h": found.horizon,
            "freq": freq_member(self.panel, self.asked),
            "tz": self.panel.tz,
            **warning_members(self.data, found.forecast),
            "fallback": fallback_members(found),
            "timing_ms": {name: round(ms, 1) for name, ms in spent.items()},
        }


async def forecast(
    service: Service, asked: ForecastRequest, *, seconds: float, size: int
) -> Forecasted:
    """What `asked` asks for, of a body of `size` bytes, within `seconds`."""
    limits = service.settings.limits
    limits.check_count(
        "quantiles", "/quantiles", count=len(asked.quantiles), maximum=limits.quantiles
    )
    tables.check_free(asked.columns, asked.quantiles)
    model = await registered(service, asked.model)
    if asked.options.record:
        check_recordable(model)
    with tables.placed(asked.columns):
        read = await off_loop(size, read_data, asked, model, limits)
        data, parsed = read.data, time.perf_counter()
        found = await answer(service, model, inquiry_of(asked, read, size), seconds=seconds)
    return Forecasted(asked, data, found, parsed)


def inquiry_of(asked: ForecastRequest, read: Ahead, size: int) -> Inquiry:
    """What is asked about the series that were read from a body of `size` bytes."""
    panel, requested = read.data.panel, len(read.data.report.series)
    return Inquiry(asked, asked.options, panel, requested, size, future=read.future)


def read_data(asked: ForecastRequest, model: Model | None, limits: Limits) -> Ahead:
    """The series of a request, and the covariates that its model knows ahead."""
    inputs = inputs_of(model)
    data = tables.read(asked, asked.options, limits, inputs=inputs)
    steps, reach = steps_of(model, data.panel, asked, limits.horizon)
    return prepared(asked, data, asked.options, steps=steps, reach=reach, known=inputs.known)
