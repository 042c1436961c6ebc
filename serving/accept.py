"""The form of an answer: JSON, or Arrow on the routes that have it (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from functools import lru_cache

from starlette.requests import Request

from serving.problems import Problem

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
CSV = "text/csv"
OCTETS = "application/octet-stream"  # JSON and binary tensors behind it
TEXTS = (JSON, CSV)  # in UTF-8
API = "/v1/"  # the routes whose answers have a form to choose
ARROW_ROUTES = ("/v1/forecasts", "/v1/compare", "/v1/anomalies")
INVOCATIONS, INFERENCE = "/invocations", "/v2/"  # where other protocols are spoken
ARROW_BODIES = (
    "/v1/actuals",
    "/v1/datasets",
    "/v1/explanations",
    INVOCATIONS,
)  # that are answered in JSON alone
JOB_RESULT = re.compile(r"/v1/jobs/[^/]+/result")
JOB_EVENTS = re.compile(r"/v1/jobs/[^/]+/events")
EVENTS = "text/event-stream"
WEIGHT = re.compile(r"[01](\.[0-9]{0,3})?")
Preference = tuple[float, int, int]  # weight, how exactly it is named, how early


def bodies_of(path: str) -> tuple[str, ...]:
    """The media types of bodies that a route reads; the empty one where none needs to be named."""
    if path.startswith(INFERENCE):
        return (JSON, OCTETS, "")
    kinds = (JSON, CSV) if path == INVOCATIONS else (JSON,)
    return (*kinds, ARROW) if path in (*ARROW_ROUTES, *ARROW_BODIES) else kinds


def check_accept(request: Request) -> None:
    """Raises `not-acceptable` where the API is asked for a form that the route does not have."""
    if request.url.path.startswith(API):
        form_of(request)


def form_of(request: Request, forms: tuple[str, ...] = ()) -> str:
    """The media type of the answer that the caller likes best, of `forms` or of those of the route.

    JSON where nothing is said; the problem `not-acceptable` where none is liked.
    """
    asked = ",".join(request.headers.getlist("accept")).lower()  # several lines are one list
    return _form_of(asked, forms or _forms_of(request.url.path))


@lru_cache(maxsize=32)  # clients of one kind say the same; headers may be long
def _form_of(asked: str, forms: tuple[str, ...]) -> str:
    if not asked.strip():
        return forms[0]
    ranges = [quality(part) for part in asked.split(",")]
    wishes = {form: _preference(form, ranges) for form in forms}
    best = max(forms, key=lambda form: wishes[form])  # of equals the first, which is JSON
    if wishes[best][0] > 0:
        return best
    raise Problem("not-acceptable", f"Accept must admit {' or '.join(forms)} here.")


def _forms_of(path: str) -> tuple[str, ...]:
    """The media types of the answers of a route, the usual one first."""
    if JOB_EVENTS.fullmatch(path):
        return (EVENTS,)
    return (JSON, ARROW) if path in ARROW_ROUTES or JOB_RESULT.fullmatch(path) else (JSON,)


def _preference(form: str, ranges: list[tuple[str, float]]) -> Preference:
    """How much `form` is liked: the most specific range that matches it counts."""
    general = f"{form.partition('/')[0]}/*"
    for exactness, name in ((2, form), (1, general), (0, "*/*")):
        for place, (found, weight) in enumerate(ranges):
            if found == name:
                return weight, exactness, -place
    return 0.0, 0, 0


def quality(part: str) -> tuple[str, float]:
    """A media range, or an encoding, and its weight; 1 where none can be read."""
    name, *parameters = (word.strip() for word in part.split(";"))
    weights = [word.partition("=")[2] for word in parameters if word.startswith("q=")]
    return name, float(weights[0]) if weights and WEIGHT.fullmatch(weights[0]) else 1.0
