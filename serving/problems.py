"""Problems (RFC 9457): every answer from 400 up, and the one table from exception to status.

A problem never repeats what was sent, except series ids; it says where, how many, which limit,
and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pipelines.schema import LONGEST_ID
from serving.batcher import OverloadedError
from tsformer.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    IncompatibleError,
    NotFoundError,
    UnavailableError,
)

MEDIA_TYPE = "application/problem+json"
PATH_SHOWN = 200  # characters
POINTER_SHOWN = 400  # characters; it may lead through names of the client
LEAVE = "set options.on_invalid to skip, or options.fill to mask, ffill, linear or zero."
ROUTES = "There is no such route. GET /openapi.json lists them."
MISSHAPEN = "The text is not of the form that it must have"
LOADING = "The default model is being loaded."  # why a service that starts is not ready


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table of problems."""

    type: str
    status: int
    title: str
    remedy: str
    retry_after_s: int | None = None


KINDS = {
    kind.type: kind
    for kind in (
        Kind("malformed-body", 400, "The body cannot be read", "Fix the encoding."),
        Kind("malformed-header", 400, "A header cannot be read", "Fix the named header."),
        Kind("unauthenticated", 401, "No valid key", "Send a valid bearer key."),
        Kind("forbidden", 403, "The role of the key is too low", "Use another key."),
        Kind(
            "host-not-allowed",
            403,
            "This host or origin is not allowed",
            "Call the service by its loopback address, or set server.allowed_hosts.",
        ),
        Kind("not-found", 404, "There is nothing here", "Check the name."),
        Kind(
            "method-not-allowed",
            405,
            "This method is not allowed here",
            "Use a method listed in the Allow header.",
        ),
        Kind("not-acceptable", 406, "No form of answer is accepted", "Widen Accept."),
        Kind("body-too-slow", 408, "The body did not arrive in time", "Send faster, or split."),
        Kind(
            "idempotency-in-progress",
            409,
            "The first request with this key still runs",
            "Repeat after Retry-After.",
            retry_after_s=1,
        ),
        Kind(
            "wrong-state", 409, "The state of the resource forbids it", "Read the resource again."
        ),
        Kind("result-expired", 410, "The result is past its time", "Run the job again."),
        Kind("precondition-failed", 412, "It has changed", "Read the etag, decide again."),
        Kind("too-large", 413, "The request is too large", "Split the request, or use a job."),
        Kind(
            "unsupported-media-type", 415, "This media type is not read here", "Send JSON or Arrow."
        ),
        Kind("invalid-request", 422, "The request is not as specified", "Follow the pointer."),
        Kind(
            "invalid-data",
            422,
            "The data cannot be used as sent",
            f"Repair the data, or {LEAVE}",
        ),
        Kind(
            "insufficient-history",
            422,
            "There is too little history",
            "Send more rows, or allow a fallback.",
        ),
        Kind(
            "future-covariates-missing",
            422,
            "Known covariates do not cover the horizon",
            "Send every known covariate for every step of the horizon.",
        ),
        Kind(
            "model-incompatible",
            422,
            "This model cannot serve this request",
            "Read the card: GET /v1/models/{name}/versions/{version}. Or name another version.",
        ),
        Kind(
            "model-output-invalid",
            422,
            "The model gave no finite number",
            "Use a fallback, or options.on_invalid skip.",
        ),
        Kind("idempotency-key-reused", 422, "Same key, other body", "Use a new Idempotency-Key."),
        Kind("precondition-required", 428, "A condition is needed", "Send If-Match."),
        Kind("rate-limited", 429, "The key asks too much", "Wait as long as Retry-After says."),
        Kind("internal", 500, "A defect of the service", "Report the request id."),
        Kind("not-ready", 503, "The service is loading", "Wait and repeat.", retry_after_s=2),
        Kind("overloaded", 503, "The service is busy", "Wait and repeat.", retry_after_s=2),
        Kind("deadline-exceeded", 504, "The deadline passed", "Send a smaller request."),
    )
}

# Of a version that cannot be loaded; its paths and digests are for the log.
UNUSABLE = (
    "This version cannot be used: its files are missing, not what was published, or not known to the "
    "store of this installation, or it gives no finite number. The log of the service says which."
)
AWAY = "The store, the registry or the model's replica does not answer now. Repeat later."
# The one place that decides what an exception means to a client; the first match counts. It is
# told in the exception's own words for clients, or those given, or by the remedy of the kind; with None
# by the message of the exception, which is made of computed values alone.
EXCEPTIONS: tuple[tuple[type[Exception], str, str | None], ...] = (
    (ConfigError, "invalid-request", ""),
    (DataError, "invalid-data", ""),
    (IncompatibleError, "model-incompatible", None),
    (NotFoundError, "not-found", ""),
    (UnavailableError, "not-ready", AWAY),
    (ArtifactError, "model-incompatible", UNUSABLE),
    (OverloadedError, "overloaded", ""),
    (TimeoutError, "deadline-exceeded", ""),
    (MemoryError, "too-large", ""),
)
STATUSES = {404: "not-found", 405: "method-not-allowed"}
# Data codes that make a problem of their own when nothing else is wrong.
OWN_KIND = {
    "insufficient_history": "insufficient-history",
    "future_missing": "future-covariates-missing",
    "future_extra": "future-covariates-missing",
    "covariate_missing": "future-covariates-missing",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing wrong, and where: `pointer` resolves in the request that was sent.

    What is too long for an id is not told as one.
    """

    message: str
    pointer: str | None = None
    code: str | None = None
    unique_id: str | int | None = None

    @property
    def shown(self) -> str | None:
        """The pointer; where it is very long, to the nearest place around with a short one."""
        if self.pointer is None or len(self.pointer) <= POINTER_SHOWN:
            return self.pointer
        return self.pointer[: POINTER_SHOWN + 1].rpartition("/")[0]

    def members(self) -> dict[str, Any]:
        given = {
            "pointer": self.shown,
            "unique_id": self.unique_id if len(str(self.unique_id)) <= LONGEST_ID else None,
            "code": self.code,
            "message": self.message,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """An answer that is not a success. `members` are extension members of its type."""

    type: str
    detail: str
    errors: Sequence[Item] = ()
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return KINDS[self.type]


def too_large(limit: str, *, maximum: int, actual: int | None = None) -> Problem:
    """The problem of a request over `limit`."""
    counted: dict[str, Any] = {} if actual is None else {"actual": actual}
    remedy = "Split the request."
    if limit != "job_points":
        remedy, counted["jobs"] = "Split the request, or use a job.", "/v1/jobs"
    return Problem(
        "too-large",
        f"The limit {limit} is {maximum}. {remedy}",
        members={"limit": limit, "maximum": maximum, **counted},
    )


def problem_of(error: Exception, *, expected: Mapping[str, str] | None = None) -> Problem:
    """What `error` means to a client. What no row of the table names is a defect.

    `expected` describes the parameters of the address, by name.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        name = STATUSES.get(error.status_code, "internal")
        detail = ROUTES if name == "not-found" else KINDS[name].remedy
        return Problem(name, detail, headers=error.headers or {})
    if isinstance(error, RequestValidationError):
        items = [_of_address(fault, expected or {}) for fault in error.errors()]
        return Problem("invalid-request", "The address is not as specified.", items)
    rows = (row for row in EXCEPTIONS if isinstance(error, row[0]))
    _, name, words = next(rows, (Exception, "internal", ""))
    told = getattr(error, "told", "") or words or KINDS[name].remedy
    return Problem(name, str(error) if words is None else told)


def _of_address(fault: Mapping[str, Any], expected: Mapping[str, str]) -> Item:
    """What is wrong with a parameter, and what is expected of it."""
    name = str(fault["loc"][-1])
    told = expected.get(name, "")
    return Item(f"{name}: {in_words(fault, told)}. {told}".rstrip())


def in_words(fault: Mapping[str, Any], told: str) -> str:
    """What is wrong; where it is `told` what should stand there, without the pattern of that."""
    return MISSHAPEN if told and fault["type"] == "string_pattern_mismatch" else str(fault["msg"])


@contextmanager
def sought(what: str, where: str) -> Iterator[None]:
    """Says where those that there are can be found to who asked for a `what` that nobody knows."""
    try:
        yield
    except NotFoundError as error:
        raise unknown(what, where) from error


def unknown(what: str, where: str) -> Problem:
    """The problem of a `what` that nobody knows; `where` lists those that there are."""
    return Problem("not-found", f"There is no such {what}. GET {where} lists them.")


def of_faults(detail: str, items: Sequence[Item]) -> Problem:
    """The problem of faults in the data, by the codes of the items."""
    kinds = {OWN_KIND.get(item.code or "", "invalid-data") for item in items}
    name = kinds.pop() if len(kinds) == 1 else "invalid-data"
    return Problem(name, detail, items)


@contextmanager
def without_options() -> Iterator[None]:
    """Takes out of a problem the options that would help, on a route whose bodies have none."""
    try:
        yield
    except Problem as problem:
        detail = problem.detail.replace(f", or {LEAVE}", ".")
        raise replace(problem, detail=detail) from problem.__cause__


def document(problem: Problem, *, instance: str, request_id: str, most: int) -> dict[str, Any]:
    """The problem as it is told: RFC 9457; `most` of its errors are listed."""
    kind = problem.kind
    listed = problem.errors[:most]
    return {
        "type": f"/problems/{kind.type}",
        "title": kind.title,
        "status": kind.status,
        "detail": problem.detail,
        "instance": instance[:PATH_SHOWN],
        "request_id": request_id,
        "errors": [item.members() for item in listed],
        "error_count": len(problem.errors),
        "truncated": len(problem.errors) > len(listed),
        **problem.members,
    }


def respond(problem: Problem, request: Request, *, most: int) -> Response:
    """The problem as an answer to `request`."""
    kind = problem.kind
    place, request_id = request.url.path, request.state.request_id
    body = document(problem, instance=place, request_id=request_id, most=most)
    if request.url.path.startswith("/v2"):
        body["error"] = in_one_line(problem)
    headers = dict(problem.headers)
    if kind.retry_after_s is not None:
        headers["Retry-After"] = str(kind.retry_after_s)
    return Response(orjson.dumps(body), kind.status, headers, MEDIA_TYPE)


def in_one_line(problem: Problem) -> str:
    """What is wrong and where, for clients that show one text: the first fault stands for all."""
    if not problem.errors:
        return problem.detail
    first = problem.errors[0]
    return f"{problem.detail} {first.shown or ''}: {first.message}"
