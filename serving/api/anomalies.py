"""Which points are unlike what was to be expected of them: POST /v1/anomalies."""

from __future__ import annotations

import secrets
import time
from typing import Any

import numpy as np
import orjson
import polars as pl
from fastapi import APIRouter, Request, Response

from pipelines import times
from pipelines.forecast import level_name
from serving import arrow_answers
from serving.anomalies import Detected, detect
from serving.answering import Call, answer
from serving.callers import needs
from serving.members import fallback_members, freq_member, series_members, warning_members
from serving.openapi import described
from serving.schemas.answers import AnomalyAnswer
from serving.schemas.forecasts import AnomalyRequest
from serving.schemas.tables import Columns
from serving.threads import off_loop

router = APIRouter(prefix="/v1", tags=["forecasts"])
STREAMS = (
    "The stream forecast: the client's id, time and target, mean, lo, hi, quantiles if asked for, "
    "anomaly, score; its metadata forecast.response holds the other members. Then series."
)


@router.post(
    "/anomalies",
    dependencies=[needs("forecaster")],
    **described(AnomalyRequest, AnomalyAnswer, arrow=STREAMS),
)
async def anomalies(request: Request) -> Response:
    """Which of the last points of each series lie outside of the interval forecast for them."""
    return await answer(request, AnomalyRequest, _anomalies)


async def _anomalies(call: Call, asked: AnomalyRequest) -> bytes:
    done = await detect(call.service, asked, seconds=call.seconds, size=call.size)
    render = _streams if call.in_arrow else _json
    return await off_loop(done.rolled.answer.size, render, done, asked, call.started)


def _streams(done: Detected, asked: AnomalyRequest, started: float) -> bytes:
    entries, members = _said(done, asked, started)
    columns = _columns(done, asked.columns, asked.quantiles)
    table = arrow_answers.anomaly_table(columns, done.stamps, done.panel, asked.columns)
    return arrow_answers.encode(table, arrow_answers.series_table(entries), members)


def _json(done: Detected, asked: AnomalyRequest, started: float) -> bytes:
    entries, members = _said(done, asked, started)
    columns = _columns(done, asked.columns, asked.quantiles)
    if not done.panel.frequency.is_integer:
        columns[asked.columns.time] = times.text(done.stamps, done.panel.tz)
    listed = {name: column.to_list() for name, column in columns.items()}
    return orjson.dumps({**members, "forecast": listed, "series": entries})


def _said(
    done: Detected, asked: AnomalyRequest, started: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """An entry a series, and the members beside the tables."""
    answer = done.rolled.answer
    entries = series_members(done.data, done.panel, answer, asked.columns)
    spent = {
        "queue": answer.queue_ms,
        "model": answer.model_ms,
        "total": 1000 * (time.perf_counter() - started),
    }
    members = {
        "id": f"an_{secrets.token_hex(10)}",
        "model": answer.model.members(),
        "freq": freq_member(done.panel, asked),
        "tz": done.panel.tz,
        "detect": asked.detect.model_dump(),
        **warning_members(done.data, answer.forecast),
        "fallback": fallback_members(answer),
        "timing_ms": {name: round(ms, 1) for name, ms in spent.items()},
    }
    return entries, members


def _columns(done: Detected, names: Columns, levels: list[float]) -> dict[str, pl.Series]:
    """The judged points, series after series, under the client's names."""
    judged, panel, last = done.judged, done.panel, done.asked.detect.last
    places = np.repeat(np.arange(len(panel.ids)), last)
    asked = {
        level_name(level): done.numbers[..., 1 + done.asked.quantiles.index(level)]
        for level in sorted(levels)
    }
    values = {"mean": judged.mean, "lo": judged.lo, "hi": judged.hi, **asked}
    known = pl.Series(judged.known.ravel())
    outside = pl.Series(judged.outside.ravel())
    return {
        names.id: pl.Series(panel.ids).gather(places),
        names.time: done.stamps,
        names.target: _numbers(judged.y),
        **{name: _numbers(one) for name, one in values.items()},
        "anomaly": outside.set(~known, None),
        "score": _numbers(judged.score),
    }


def _numbers(values: Any) -> pl.Series:
    return pl.Series(np.ascontiguousarray(values).ravel()).fill_nan(None)
