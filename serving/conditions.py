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
CONDITIONS = [  # of a route that needs one, for OpenAPI
    {
        "name": name,
        "in": "header",
        "required": False,
        "description": text,
        "schema": {"type": "string"},
    }
    for name, text in (
        ("If-Match", EXPLAIN["if-match"]),
        ("If-None-Match", EXPLAIN["if-none-match"]),
    )
]


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold: one of `tags`, anything at all (`exists`), or nothing yet (`absent`)."""

    tags: tuple[str, ...] = ()
    exists: bool = False
    absent: bool = False

    def check(self, etag: str | None) -> None:
        """Raises `precondition-failed` unless it holds where things stand at `etag`; None: nowhere."""
        holds = etag is None if self.absent else etag is not None
        if not (holds and (self.absent or self.exists or etag in self.tags)):
            now = "It does not exist." if etag is None else f"It is at {etag} now."
            raise failed(etag, now)


def failed(etag: str | None, now: str = "It has changed since it was read.") -> Problem:
    """The problem of a condition that does not hold, with the current etag."""
    detail = f"{now} Read it again, then decide."
    headers = {} if etag is None else {"ETag": etag}
    return Problem("precondition-failed", detail, members={"etag": etag}, headers=headers)


def changed(etag: str) -> Problem:
    """The problem of what has changed since it was read."""
    return failed(etag)


def check_match(request: Request, etag: str, *, needed: bool) -> None:
    """Raises `precondition-failed` where the request's condition does not hold at `etag`.

    `needed` asks for one: `precondition-required` without it.
    """
    if needed or "if-match" in request.headers:
        condition_of(request).check(etag)


def condition_of(request: Request) -> Condition:
    """The condition of a request that must have one."""
    match, none = (_sent(request, name) for name in EXPLAIN)
    if match is not None and none is not None:
        raise Problem("malformed-header", "Send If-Match or If-None-Match, not both.")
    if none is not None:
        if none != "*":
            raise Problem("malformed-header", EXPLAIN["if-none-match"])
        return Condition(absent=True)
    if match is None:
        detail = "Send If-Match with the etag that was read, or If-None-Match: * for a new one."
        raise Problem("precondition-required", detail)
    if match == "*":
        return Condition(exists=True)
    tags = [tag.strip() for tag in match.split(",")]
    if not all(TAG.fullmatch(tag) for tag in tags):
        raise Problem("malformed-header", EXPLAIN["if-match"])
    return Condition(tags=tuple(tag for tag in tags if not tag.startswith("W/")))


def _sent(request: Request, name: str) -> str | None:
    sent = request.headers.getlist(name)
    if len(sent) > 1:
        raise Problem("malformed-header", EXPLAIN[name])
    return sent[0].strip() if sent else None
