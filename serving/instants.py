"""Instants that the server makes, as text: RFC 3339 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def text_of(time_ms: int) -> str:
    """The instant at `time_ms` milliseconds since 1970."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def text_or_none(time_ms: int | None) -> str | None:
    """As `text_of`, where there is an instant."""
    return None if time_ms is None else text_of(time_ms)
