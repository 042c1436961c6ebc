"""The id of a request: in every answer to it, and in every line of a log that is about it."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers

GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id_of(headers: Headers) -> str:
    """The id that a request came with, where it is one; else a new one."""
    given = headers.get("x-request-id", "")
    return given if GIVEN.fullmatch(given) else secrets.token_hex(10)
