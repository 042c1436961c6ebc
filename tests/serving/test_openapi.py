"""Law 17: the service does what its OpenAPI document says, and refuses what it does not say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.forecaster import Forecaster
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.running import Running, application, listening, publish

CONFIG = Path(__file__).with_name("schemathesis.toml")
COMMAND = Path(sys.executable).with_name("st")
MUCH = 1_000_000


@pytest.fixture(scope="module")
def described(
    database: Path, tmp_path_factory: pytest.TempPathFactory, model: Forecaster
) -> Iterator[Running]:
    """A service of its own, which works on no job: thousands of requests leave things behind."""
    home = fresh_home(tmp_path_factory.mktemp("described"), database)
    publish(home, "small", model, tmp_path_factory.mktemp("artifact") / "small")
    settings = Settings.read(
        {
            "models": {"default": "small"},
            "jobs": {"at_once": 0},
            "limits": {"requests_per_minute": MUCH, "queued_jobs_per_key": MUCH},
        }
    )
    yield from listening(application(home, settings))


def run(running: Running, folder: Path, *arguments: str) -> None:
    """All checks of schemathesis; its report where one fails."""
    address = f"{running.client.base_url}/openapi.json"
    command = [str(COMMAND), "--config-file", str(CONFIG), "run", address, "--no-color"]
    done = subprocess.run(
        [*command, "--seed", "1", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    print(done.stdout.splitlines()[-1])


def test_the_examples_are_accepted(described: Running, tmp_path: Path) -> None:
    """Who copies a sample of the documentation gets an answer."""
    run(described, tmp_path, "--phases", "examples")


@pytest.mark.faults
def test_every_route_does_what_it_says(described: Running, tmp_path: Path) -> None:
    """Thousands of requests by the schema and against it: none is a defect, none is misread."""
    run(described, tmp_path, "--phases", "examples,coverage,fuzzing", "--max-examples", "20")
