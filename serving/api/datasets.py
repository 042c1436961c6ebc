"""Tables that are kept: POST /v1/datasets, GET /v1/datasets and one of them."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import orjson
import polars as pl
from fastapi import APIRouter, Path, Query, Request, Response

from pipelines.datasets import Dataset, Datasets, Table, inside
from pipelines.sources import read_table
from pipelines.stamps import read_stamps
from serving import tables
from serving.answering import Call, created
from serving.body import pointer_to
from serving.callers import caller_of, needs
from serving.cells import column_of, lengths
from serving.instants import text_of
from serving.limits import Limits
from serving.openapi import creating
from serving.problems import Item, Problem, of_faults, sought, without_options
from serving.schemas.datasets import DatasetAnswer, DatasetPage, DatasetRequest, DatasetVersions
from serving.schemas.fields import NAME, NAMED
from serving.schemas.series import Options, Series
from serving.schemas.tables import Cells
from serving.service import Service, service_of
from tsformer.errors import ConfigError, DataError, NotFoundError

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])
Name = Annotated[str, Path(pattern=NAME, description=NAMED, examples=["m4-hourly"])]
ROWS_MAY_MISS = Options(fill="mask")


@router.post(
    "",
    dependencies=[needs("operator")],
    **creating(DatasetRequest, DatasetAnswer, statuses=(201, 200), arrow=True),
)
async def store(request: Request) -> Response:
    """Keeps a table as a version; equal content is the version that there is, answered by 200."""
    return await created(request, _stored)


async def _stored(call: Call, _token: str) -> Response:
    dataset, new = await asyncio.to_thread(_keep, call)
    headers = {"Location": f"/v1/datasets/{dataset.name}"}
    status = 201 if new else 200
    return Response(orjson.dumps(_members(dataset)), status, headers, "application/json")


@router.get("", dependencies=[needs("reader")], response_model=DatasetPage)
async def datasets(
    request: Request,
    limit: Annotated[int | None, Query(ge=1)] = None,
    cursor: Annotated[str, Query(max_length=64)] = "",
) -> dict[str, Any]:
    """The newest version of every dataset, by name; `cursor` is the last name seen."""
    found = datasets_of(request)
    size = service_of(request).settings.limits.page(limit)
    names = await asyncio.to_thread(found.names, after=cursor, at_most=size + 1)
    items = [_members(await asyncio.to_thread(found.one, name)) for name in names[:size]]
    return {"items": items, "next": names[size - 1] if len(names) > size else None}


@router.get("/{name}", dependencies=[needs("reader")], response_model=DatasetVersions)
async def dataset(request: Request, name: Name) -> dict[str, Any]:
    """One dataset: its newest version, and which others there are."""
    with sought("dataset", "/v1/datasets"):
        versions = await asyncio.to_thread(datasets_of(request).versions, name)
    told = [
        {"version": one.version, "rows": one.rows, "created_at": text_of(one.created_ms)}
        for one in versions
    ]
    return {**_members(versions[0]), "versions": told}


def datasets_of(request: Request) -> Datasets:
    """The datasets that the caller may see."""
    registry = service_of(request).library.shelf.registry
    return Datasets(registry.home, registry.store, caller_of(request).tenant)


def _keep(call: Call) -> tuple[Dataset, bool]:
    asked, caller = call.read_as(DatasetRequest), caller_of(call.request)
    if asked.file is not None:
        asked = asked.model_copy(update={"data": _file(asked, call.service)})
    table = read(asked, call.limits)
    return datasets_of(call.request).add(asked.name, table, who=caller.prefix or "open")


def _file(asked: DatasetRequest, service: Service) -> dict[str, Cells]:
    """The columns of a file that the operator of the service has laid into its folder."""
    try:
        frame = read_table(
            inside(service.settings.datasets.folder, asked.file or ""), id=asked.columns.id
        )
    except (ConfigError, NotFoundError) as error:
        raise Problem("invalid-request", str(error), [Item(str(error), "/file")]) from error
    except DataError as error:
        message = "The file is not a table that can be read."
        raise Problem("invalid-data", message, [Item(message, "/file")]) from error
    return {name: frame[name] for name in frame.columns}


def read(asked: DatasetRequest, limits: Limits) -> Table:
    """The table of a request, with stamps as instants; a problem names every fault.

    Rows may be missing, but what is there must make a grid of one frequency.
    """
    with without_options(), tables.placed(asked.columns):
        return _table(asked, limits)


def _table(asked: DatasetRequest, limits: Limits) -> Table:
    columns, data = asked.columns, asked.data
    series = Series.model_construct(
        data=data, static=asked.static, columns=columns, freq=asked.freq, tz=asked.tz
    )
    found = tables.read(series, ROWS_MAY_MISS, limits)
    frame = _frame(data, "data")
    stamps = read_stamps(frame[columns.time], tz=found.panel.tz).values
    frame = frame.with_columns(stamps.alias(columns.time), pl.col(columns.target).cast(pl.Float64))
    if asked.static and (items := lengths(asked.static, "static")):
        raise of_faults("The table static cannot be used as sent.", items)
    frequency = found.panel.frequency
    return Table(
        frame,
        _frame(asked.static, "static") if asked.static else None,
        columns.id if columns.id in data else None, columns.time, columns.target,
        str(frequency.count) if frequency.is_integer else str(frequency),
        found.panel.tz,
        series=len(found.panel.ids),
    )  # fmt: skip


def _frame(table: dict[str, Any], name: str) -> pl.DataFrame:
    """A table of columns; `invalid-data` for a number that is infinite."""
    frame = pl.DataFrame([column_of(column, cells) for column, cells in table.items()])
    for column in frame:
        infinite = column.is_infinite() if column.dtype.is_float() else None
        if infinite is not None and infinite.any():
            place = pointer_to(name, column.name, infinite.arg_max() or 0)
            item = Item("Infinite. Give a finite number, or null.", place, "non_finite")
            raise Problem("invalid-data", "A value is not finite.", [item])
    return frame


def _members(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "version": dataset.version,
        "freq": dataset.freq,
        "tz": dataset.tz,
        "rows": dataset.rows,
        "series": dataset.series,
        "columns": json.loads(dataset.columns),
        "static_columns": json.loads(dataset.static_columns),
        "roles": {"id": dataset.id, "time": dataset.time, "target": dataset.target},
        "created_at": text_of(dataset.created_ms),
    }
