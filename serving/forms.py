"""Requests and answers in their two forms, JSON and Arrow; everything between them is the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TypeVar

from pydantic import create_model
from starlette.requests import Request

from serving import arrow, body, shapes, trees
from serving.accept import ARROW, form_of
from serving.limits import Limits
from serving.problems import Item, Problem
from serving.schemas.fields import Strict
from serving.schemas.series import Series
from serving.schemas.tables import TABLES, Table
from serving.service import Service, service_of

Asked = TypeVar("Asked", bound=Strict)


def service_for(request: Request) -> Service:
    """The service with the limits of the forms that `request` and its answer have."""
    service = service_of(request)
    limits = service.settings.limits.of_forms(
        arrow_in=body.is_arrow(request), arrow_out=form_of(request) == ARROW
    )
    return replace(service, settings=replace(service.settings, limits=limits))


def parse(model: type[Asked], sent: bytes, limits: Limits, *, is_arrow: bool) -> Asked:
    """The request in `sent`; of Arrow the tables are columns of polars, unexamined as in JSON."""
    if not is_arrow:
        return of_tree(model, trees.tree_of(sent, limits), limits)
    read = arrow.decode(sent, limits)
    asked = trees.parse(without_tables(model), read.request, limits)
    if asked.model_fields_set & {*TABLES, "series"}:
        message = "In Arrow the tables are streams of their own, not members of forecast.request."
        raise Problem("invalid-request", message, [Item(message, "")])
    if strangers := sorted({*read.tables} - {*model.model_fields}):
        message = f"This route has no table '{strangers[0]}'."
        raise Problem("invalid-request", message, [Item(message, "")])
    return asked.model_copy(update=read.tables)


def of_tree(model: type[Asked], tree: object, limits: Limits) -> Asked:
    """The request that a JSON value is, whatever form its tables have."""
    asked = trees.validated(shapes.in_any_form(model), tree)
    needed = issubclass(model, Series) and model.model_fields["data"].is_required()
    if needed and "data" not in asked.model_fields_set and not getattr(asked, "series", ()):
        message = "'data' is required, or 'series'."
        raise Problem("invalid-request", "A field is not as specified.", [Item(message, "")])
    asked = shapes.columnar(asked, limits)
    for table in TABLES:
        pointer = "/series" if getattr(asked, "series", ()) else f"/{table}"
        limits.check_name_lengths(getattr(asked, table, ()), pointer)
    return asked


@cache
def without_tables(model: type[Asked]) -> type[Asked]:
    """`model` whose tables come apart: the JSON need not hold `data`."""
    return create_model(model.__name__, __base__=model, data=(Table, {}))
