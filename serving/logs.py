"""The log of the service in `<home>/logs`: it is there after the process is gone.

It holds no bodies: of an exception the place and the type are written, not the words, which may
quote what a client sent.
"""

from __future__ import annotations

import logging
import traceback
from logging.handlers import RotatingFileHandler
from types import TracebackType

from pipelines.home import Home

LOGGERS = ("serving", "pipelines", "tsformer")
BYTES, KEPT = 1024 * 1024, 3
LINE = "%(asctime)s %(levelname)s %(name)s [%(process)d] %(message)s"
Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class WithoutWords(logging.Formatter):
    """Lines in which an exception is its type and its frames."""

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
    handler.setFormatter(WithoutWords(LINE))
    for logger in map(logging.getLogger, LOGGERS):
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
