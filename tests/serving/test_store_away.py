"""The store is locked or restarted: forecasts go on, and what was acknowledged is kept."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from pipelines.home import Home
from pipelines.store import Store
from pipelines.store_tables import ACTUAL
from serving.settings import Settings
from tests.figures import Told
from tests.pipelines.postgres import new_database, stopped
from tests.serving.keyed import new_key
from tests.serving.running import application, forecaster, listening, publish, series, table

AWAY_S = 15.0


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """As by a backup that somebody wrote with the wrong word."""
    other = sqlite3.connect(home.folder / "tsformer.db")
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.rollback()
        other.close()


@dataclass
class Caller:
    """Asks again and again, each time for something else: each status, and the seconds it took."""

    client: httpx.Client
    path: str
    answers: list[tuple[str, int, float]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.ended.is_set():
            name = f"s{len(self.answers)}"
            body: dict[str, Any] = {"data": table(series(), ids=[name]), "freq": "h"}
            if self.path == "/v1/actuals":
                body = {"data": table([1.0], ids=[name])}
            begun = time.monotonic()
            status = self.client.post(self.path, json=body).status_code
            self.answers.append((name, status, time.monotonic() - begun))
            time.sleep(0.1)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_store_that_is_away_costs_no_forecast_and_no_row(
    kind: str, empty: Home, tmp_path: Path, record_property: Told
) -> None:
    """F22: a night's backup or an update of the database must not show in the morning's numbers."""
    home = Home(empty.folder, empty.uri, new_database() if kind == "postgresql" else "")
    publish(home, "m", forecaster(seed=1), tmp_path / "m")
    key = new_key(home, "operator")
    settings = {
        "models": {"default": "m", "poll_s": 0.2}, "jobs": {"at_once": 0},
        "limits": {"requests_per_minute": 100_000},
    }  # fmt: skip
    for running in listening(application(home, Settings.read(settings))):
        running.client.headers["Authorization"] = f"Bearer {key}"
        callers = [Caller(running.client, f"/v1/{path}") for path in ("forecasts", "actuals")]
        threads = [threading.Thread(target=caller.run) for caller in callers]
        for thread in threads:
            thread.start()
        try:
            time.sleep(1)
            with locked(home) if kind == "sqlite" else stopped():
                time.sleep(AWAY_S)
            back = len(callers[1].answers)
            while not any(status == 200 for _, status, _ in callers[1].answers[back + 1 :]):
                assert all(thread.is_alive() for thread in threads)
                time.sleep(0.1)
        finally:
            for caller, thread in zip(callers, threads, strict=True):
                caller.ended.set()
                thread.join()
    forecasts, writes = (caller.answers for caller in callers)
    assert {status for _, status, _ in forecasts} == {200}
    assert {status for _, status, _ in writes} == {200, 503}
    slowest = max(seconds for _, _, seconds in writes)
    assert slowest < 25
    with Store.of(home).read() as connection:
        kept = set(connection.execute(sa.select(ACTUAL.c.unique_id)).scalars())
    acknowledged = {name for name, status, _ in writes if status == 200}
    assert acknowledged <= kept
    record_property(
        "F22",
        f"{kind}: 0 of {len(forecasts)} forecasts failed; {len(writes) - len(acknowledged)} writes "
        f"refused by 503 after at most {slowest:.1f} s, {len(acknowledged)} acknowledged, 0 lost",
    )
