"""How work that is interrupted goes on, as whoever asked for it is told.

At a terminal by a `command` and the id of its MLflow run. Without a command a client of the service
asked: an interrupted job is tried again by itself, and one that failed is submitted once more.
"""

from __future__ import annotations

AGAIN = "Submit the job again, with the same body: POST /v1/jobs."


def told_before(command: str, run_id: str) -> str:
    """What is said before any work."""
    after = f" If it is interrupted: {command} {run_id}" if command else ""
    return f"MLflow run {run_id}.{after}"


def told_after(kept: str, command: str, run_id: str) -> str:
    """What is said where it could not go on; `kept` says what was not lost."""
    return f"{kept} {f'Go on with: {command} {run_id}' if command else AGAIN}"
