"""One model's answer as members of a response: columns, an entry a series, warnings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pipelines import times
from pipelines.forecast import Forecast, SeriesForecast, level_name
from pipelines.panel import Panel
from serving.answers import ModelAnswer
from serving.schemas.series import Series
from serving.schemas.tables import Columns
from serving.tables import Data, item_of
from tsformer.errors import Fault


def forecast_columns(found: ModelAnswer, panel: Panel, columns: Columns) -> dict[str, Any]:
    """The forecast in columns, under the client's names."""
    table = found.forecast.table
    stamps = table["ds"] if panel.frequency.is_integer else times.text(table["ds"], panel.tz)
    numbers = {name: table[name].to_numpy() for name in table.columns[2:]}
    return {columns.id: table["unique_id"].to_list(), columns.time: stamps.to_list(), **numbers}


def freq_member(panel: Panel, asked: Series) -> str | int | None:
    """The step of the data; where no series is usable, what the request says of it."""
    if not panel.ids:
        return asked.freq
    return panel.frequency.count if panel.frequency.is_integer else str(panel.frequency)


def number_columns(levels: Iterable[float]) -> list[str]:
    """The names of a forecast's numbers: the point and the quantiles, ascending."""
    return ["mean", *(level_name(level) for level in sorted(levels))]


def series_members(
    data: Data, panel: Panel, found: ModelAnswer, columns: Columns
) -> list[dict[str, Any]]:
    """One entry a requested series, in the order of the request, the invalid ones too.

    `panel` is what the model was given of the data.
    """
    ends = dict(zip(panel.ids, _ends(panel), strict=True))
    answered = {entry.unique_id: entry for entry in found.forecast.series}
    apart: dict[str | int | None, list[Fault]] = {}
    for fault in found.faults:
        apart.setdefault(fault.series, []).append(fault)
    members = []
    for report in data.report.series:
        entry = answered.get(report.id)
        faults = (*report.faults, *apart.get(report.id, ()))
        if entry is None and not faults:  # all of its rows were held out
            entry = SeriesForecast(report.id, "insufficient_history", 0, "none", blocks=0)
            members.append(_entry(entry, None))
        elif entry is None:
            errors = [error_member(fault, columns) for fault in faults]
            entry = SeriesForecast(report.id, "invalid", 0, "none", blocks=0)
            members.append({**_entry(entry, None), "errors": errors})
        else:
            members.append(_entry(entry, ends[report.id]))
    return members


def error_member(fault: Fault, columns: Columns) -> dict[str, Any]:
    """A fault of a series that is left out, with its place in what was sent."""
    item = item_of(fault, columns)
    return replace(item, pointer=columns.place(item.pointer)).members()


def _entry(entry: SeriesForecast, end: str | int | None) -> dict[str, Any]:
    return {
        "unique_id": entry.unique_id,
        "status": entry.status,
        "rows": entry.rows,
        "method": entry.method,
        "blocks": entry.blocks if entry.rows else 0,
        "rows_used": entry.rows_used,
        "padded": entry.padded,
        "context_end": end,
        "fallback": dict(entry.fallback) if entry.fallback else None,
    }


def _ends(panel: Panel) -> list[Any]:
    """The last stamp of each series, as it is told."""
    if panel.frequency.is_integer or not panel.ids:
        return panel.ends
    return times.text(panel.last, panel.tz).to_list()


def warning_members(data: Data, *forecasts: Forecast) -> dict[str, Any]:
    """The warnings about the data and the answers, by series, and whether some were left out."""
    about = [
        *data.report.faults,  # rows of no series, which are left out
        *data.report.all_warnings,
        *(Fault("unused_column", f"{place} is not used by the model.") for place in data.unused),
        *(warning for forecast in forecasts for warning in forecast.warnings),
    ]
    place = {report.id: position for position, report in enumerate(data.report.series)}
    about.sort(key=lambda warning: -1 if warning.series is None else place[warning.series])
    listed = [
        {
            "code": warning.code,
            "unique_id": warning.series,
            "count": warning.count or 1,
            "message": warning.message,
        }
        for warning in about[: data.listed]
    ]
    return {"warnings": listed, "warnings_truncated": len(about) > data.listed}


def fallback_members(found: ModelAnswer) -> dict[str, Any]:
    """How many series a baseline stood in for."""
    return {
        "mode": found.fallback,
        "series": sum(entry.fallback is not None for entry in found.forecast.series),
    }
