"""The OpenAPI document and the page that shows it; everything is served from here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.accept import ARROW, JSON
from serving.callers import needs
from serving.problems import KINDS, MEDIA_TYPE, Problem
from serving.resources import ActualsRequest
from serving.schemas import CompareRequest, ForecastRequest, ProblemAnswer

router = APIRouter(include_in_schema=False)
WEB = Path(__file__).with_name("web")
ASSETS = {
    "docs.html": "text/html; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
}
BEARER = {"type": "http", "scheme": "bearer", "description": "tsformer keys add makes one."}
REF = "#/components/schemas/{model}"
STREAMS = (
    "One to three Arrow IPC streams back to back, uncompressed. The metadata forecast.table of "
    "each schema is data, future or static; the first also has forecast.request, the JSON of the "
    "request without the tables. Types: bool, integers, floats, utf8, large_utf8, date32, "
    "timestamp, null, and dictionaries of text."
)
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def described(
    request: type[BaseModel], answer: type[BaseModel], *, arrow: str = ""
) -> dict[str, Any]:
    """How a route that reads its own body is described; `arrow` are the streams it answers."""
    content: dict[str, Any] = {JSON: {"schema": {"$ref": REF.format(model=request.__name__)}}}
    streams = {}
    if arrow:
        content[ARROW] = _binary(STREAMS)
        streams = {"content": {ARROW: _binary(arrow)}}
    return {
        "response_model": None,
        "responses": {200: {"model": answer, **streams}},
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }


def _binary(description: str) -> dict[str, Any]:
    return {"schema": {"type": "string", "format": "binary", "description": description}}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the application; made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        models = [
            (model, "validation")
            for model in (ActualsRequest, ForecastRequest, CompareRequest, ProblemAnswer)
        ]
        _, definitions = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]
        made["security"] = [{}, {"key": []}]  # the first where no key was ever made
        made.setdefault("components", {})["securitySchemes"] = {"key": BEARER}
        schemas = made["components"].setdefault("schemas", {})
        schemas.update(definitions["$defs"])
        for path in made["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = _PROBLEM
        app.openapi_schema = made
    return app.openapi_schema


_PROBLEM = {
    "description": "A problem: "
    + ", ".join(f"{kind.type} ({kind.status})" for kind in KINDS.values()),
    "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="ProblemAnswer")}}},
}


@router.get("/openapi.json", dependencies=[needs("local")])
async def openapi(request: Request) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    return document(request.app)


@router.get("/docs", dependencies=[needs("local")])
async def docs() -> Response:
    """A page that lists the routes."""
    return _asset("docs.html")


@router.get("/docs/{name}", dependencies=[needs("open")])
async def asset(name: str) -> Response:
    """A file of the page."""
    if name not in ASSETS:
        raise Problem("not-found", "There is no such file.")
    return _asset(name)


def _asset(name: str) -> Response:
    headers = {"Content-Security-Policy": POLICY}
    return Response((WEB / name).read_bytes(), 200, headers, ASSETS[name])
