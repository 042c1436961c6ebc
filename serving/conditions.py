"""Conditions on a change (RFC 9110, 13.1): it happens only where things stand as the caller saw them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request

from serving.problems import Problem

TAG = re.compile(r'(W/)?"[!#-~]{0,128}"')
EXPLAIN = {
    "if-match": 'If-Match holds the etag in its quotes, such as "champion-12".',
    "if-none-match": "If-None-Match holds * alone here.",
}
# Of a route that needs one of the two, for OpenAPI.
CONDITIONS = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "description": EXPLAIN[name.lower()],
        "schema": {"type": "string", **schema},
    }
    for name, schema in (
        ("If-Match", {"pattern": '^"[a-z0-9_-]{1,64}"$', "examples": ['"champion-12"']}),
        ("If-None-Match", {"enum": ["*"]}),
    )
]


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold: one of `tags` (None: not asked, `*` among them: any), or nothing yet."""

    tags: tuple[str, ...] | None = None
    absent: bool = False

    def check(self, etag: str | None) -> None:
        """Raises `precondition-failed` unless it holds where things stand at `etag`; None: nowhere."""
        matches = self.tags is None or (etag is not None and {etag, "*"} & {*self.tags})
        if not matches or (self.absent and etag is not None):
            now = "It does not exist." if etag is None else f"It is at {etag} now."
            raise failed(etag, now)


def failed(etag: str | None, now: str) -> Problem:
    """The problem of a condition that does not hold: how things stand `now`, at the current etag."""
    detail = f"{now} Read it again, then decide."
    headers = {} if etag is None else {"ETag": etag}
    return Problem("precondition-failed", detail, members={"etag": etag}, headers=headers)


def condition_of(request: Request) -> Condition:
    """The condition of a request that must have one."""
    match, none = (_sent(request, name) for name in EXPLAIN)
    if match is None and none is None:
        new = ", or If-None-Match: * for a new one" if request.method == "PUT" else ""
        detail = f"Send If-Match with the etag that was read{new}."
        raise Problem("precondition-required", detail)
    if none not in (None, "*"):
        raise Problem("malformed-header", EXPLAIN["if-none-match"])
    if match is None:
        return Condition(absent=True)
    tags = [tag.strip() for tag in match.split(",")]
    if not all(TAG.fullmatch(tag) or match == "*" for tag in tags):
        raise Problem("malformed-header", EXPLAIN["if-match"])
    return Condition(tuple(tag for tag in tags if not tag.startswith("W/")), absent=none == "*")


def _sent(request: Request, name: str) -> str | None:
    sent = request.headers.getlist(name)
    if len(sent) > 1:
        raise Problem("malformed-header", EXPLAIN[name])
    return sent[0].strip() if sent else None
