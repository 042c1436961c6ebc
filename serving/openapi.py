"""The OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.accept import ARROW, JSON
from serving.callers import needs
from serving.problems import KINDS, MEDIA_TYPE
from serving.schemas.answers import ProblemAnswer
from serving.schemas.fields import Answer
from serving.shapes import in_any_form

router = APIRouter(tags=["service"])
BEARER = {"type": "http", "scheme": "bearer", "description": "tsformer keys add makes one."}
REF = "#/components/schemas/{model}"
STREAMS = (
    "One to three Arrow IPC streams back to back, uncompressed. The metadata forecast.table of "
    "each schema is data, future or static; the first also has forecast.request, the JSON of the "
    "request without the tables. Types: bool, integers, floats, utf8, large_utf8, date32, "
    "timestamp, null, and dictionaries of text."
)
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "1 to 128 visible characters: the same request under it is done once in 24 h.",
    "schema": {"type": "string", "pattern": '^("[!#-~]{1,128}"|[!#-~]{1,128})$'},
}
BODIES: dict[type[BaseModel], None] = {}  # that routes read by themselves, in their order


def described(
    request: type[BaseModel], answer: type[BaseModel], *, arrow: str = ""
) -> dict[str, Any]:
    """How a route that reads its own body is described; `arrow` are the streams it answers."""
    BODIES[request] = None
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


def creating(
    request: type[BaseModel],
    answer: type[BaseModel],
    *,
    statuses: tuple[int, ...],
    arrow: bool = False,
) -> dict[str, Any]:
    """How a route is described that may be asked again under an Idempotency-Key."""
    made = described(request, answer)
    if arrow:
        made["openapi_extra"]["requestBody"]["content"][ARROW] = _binary(STREAMS)
    made["openapi_extra"]["parameters"] = [IDEMPOTENCY_KEY]
    made["responses"] = {status: {"model": answer} for status in statuses}
    return {**made, "status_code": statuses[0]}


def with_bodies(made: dict[str, Any], bodies: Mapping[str, str]) -> dict[str, Any]:
    """The description `made` with more media types of the body, and what each of them holds."""
    content = made["openapi_extra"]["requestBody"]["content"]
    content |= {media: _binary(holds) for media, holds in bodies.items()}
    return made


def with_answers(made: dict[str, Any], answers: Mapping[str, str]) -> dict[str, Any]:
    """The description `made` with more media types of the answer, and what each of them holds."""
    content = made["responses"][200].setdefault("content", {})
    content |= {media: _binary(holds) for media, holds in answers.items()}
    return made


def _binary(description: str) -> dict[str, Any]:
    return {"schema": {"type": "string", "format": "binary", "description": description}}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the application; made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        models = [(model, "validation") for model in (*map(in_any_form, BODIES), ProblemAnswer)]
        _, definitions = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]
        made["security"] = [{}, {"key": []}]  # the first where no key was ever made
        made.setdefault("components", {})["securitySchemes"] = {"key": BEARER}
        schemas = made["components"].setdefault("schemas", {})
        schemas.update(definitions["$defs"])
        for model in _answers():  # whose examples FastAPI has left without their nulls
            schemas.get(model.__name__, {}).update(
                model.model_config.get("json_schema_extra") or {}
            )
        for path in made["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = _PROBLEM
        app.openapi_schema = made
    return app.openapi_schema


def _answers() -> Iterator[type[Answer]]:
    waiting = [Answer]
    while waiting:
        made = waiting.pop().__subclasses__()
        yield from made
        waiting += made


_PROBLEM = {
    "description": "A problem: "
    + ", ".join(f"{kind.type} ({kind.status})" for kind in KINDS.values()),
    "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="ProblemAnswer")}}},
}


@router.get("/openapi.json", dependencies=[needs("local")])
async def openapi(request: Request) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    return document(request.app)
