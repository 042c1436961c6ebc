"""More replicas come under load, as `models.replicas_maximum` allows."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.home import Home
from tests.serving.processes import replicas, started
from tests.serving.running import series, table

SETTINGS = {"models": {"default": "small", "replicas_maximum": 2}, "jobs": {"at_once": 0}}


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_a_second_replica_comes_under_load_and_nobody_notices(home: Home, tmp_path: Path) -> None:
    """Else a platform pays for the most that it may ever need, or its callers wait."""
    over = threading.Event()
    body = {"data": table(*(series(seed=i) for i in range(200))), "freq": "h"}
    with started(home, tmp_path, SETTINGS) as process, ThreadPoolExecutor(16) as pool:
        assert len(replicas(process, "model")) == 1

        def ask(_client: int) -> set[int]:
            statuses = set()
            while not over.is_set():
                statuses.add(process.post("/v1/forecasts", body).status_code)
            return statuses

        asking = pool.map(ask, range(16))
        began = time.monotonic()
        try:
            while len(replicas(process, "model")) < 2:
                assert time.monotonic() - began < 240
                time.sleep(0.5)
            time.sleep(5)
        finally:
            over.set()
        print(f"two replicas after {time.monotonic() - began:.0f} s")
        assert set().union(*asking) == {200}
