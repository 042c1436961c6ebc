"""The log of the service in `<home>/logs`: it is there after the process is gone.

A JSON object a line, with the id of the request that it is about. It holds no bodies: of an exception
the place and the type are written, not the words, which may quote what a client sent.
"""

from __future__ import annotations

import logging
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from types import TracebackType
from typing import Any

import orjson

from pipelines.home import Home

LOGGERS = ("serving", "pipelines", "tsformer")
BYTES, KEPT = 8 * 1024 * 1024, 4
FIELDS = "fields"  # of a record: members of its own, by `extra={FIELDS: {...}}`
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Lines(logging.Formatter):
    """JSON, in which an exception is its type and its frames."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        members: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if (request_id := REQUEST_ID.get()) is not None:
            members["request_id"] = request_id
        members |= getattr(record, FIELDS, {})
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(members, default=str).decode()

    def formatException(self, ei: Raised) -> str:  # noqa: N802 - the name in logging
        """See `logging.Formatter`."""
        kind, _, frames = ei
        name = kind.__name__ if kind is not None else "no exception"
        return "".join(traceback.format_tb(frames)) + name


def keep_log(home: Home, name: str) -> None:
    """Writes what this process has to say to `<home>/logs/<name>.log` from now on."""
    home.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home.logs / f"{name}.log"
    handler = RotatingFileHandler(path, maxBytes=BYTES, backupCount=KEPT, encoding="utf-8")
    path.chmod(0o600)
    handler.setFormatter(Lines())
    for logger in map(logging.getLogger, LOGGERS):
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
