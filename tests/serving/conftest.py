"""One registry and one application for all tests of the service."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.tracking import connect
from serving.settings import Settings
from tests.serving.running import Running, application, forecaster, listening, publish


@pytest.fixture(scope="session")
def model() -> Forecaster:
    """The forecaster behind the registered model `small`."""
    return forecaster(seed=1)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh registry's database: MLflow takes seconds to make one, a copy takes none."""
    made = Home.of({"TSFORMER_HOME": str(tmp_path_factory.mktemp("empty"))})
    connect(made).search_registered_models()
    assert made.database is not None
    return made.database


def fresh_home(folder: Path, database: Path) -> Home:
    folder.mkdir(exist_ok=True)
    shutil.copy(database, folder / database.name)
    return Home.of({"TSFORMER_HOME": str(folder)})


@pytest.fixture
def empty(tmp_path: Path, database: Path) -> Home:
    """A home with nothing in its registry."""
    return fresh_home(tmp_path / "home", database)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, model: Forecaster, database: Path) -> Home:
    """A home whose registry holds the model `small`."""
    made = fresh_home(tmp_path_factory.mktemp("home"), database)
    publish(made, "small", model, tmp_path_factory.mktemp("artifact") / "small")
    return made


@pytest.fixture(scope="session")
def service(home: Home) -> Iterator[Running]:
    """The application, ready, on a free port of this machine."""
    settings = Settings.read({"models": {"default": "small", "poll_s": 0.2}})
    yield from listening(application(home, settings))
