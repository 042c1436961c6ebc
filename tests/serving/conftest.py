"""One registry and one application for all tests of the service."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.keys import ROLES
from pipelines.tracking import connect
from serving.settings import Settings
from tests.serving.keyed import Tenants, new_key
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
    settings = Settings.read(
        {"models": {"default": "small", "poll_s": 0.2}, "jobs": {"at_once": 0}}
    )
    yield from listening(application(home, settings))


@pytest.fixture(scope="session")
def tenants(
    tmp_path_factory: pytest.TempPathFactory, model: Forecaster, database: Path
) -> Iterator[Tenants]:
    """A service with keys of two tenants, `ads` and `shop`."""
    made = fresh_home(tmp_path_factory.mktemp("tenants"), database)
    publish(made, "small", model, tmp_path_factory.mktemp("artifact") / "small")
    keys = {(t, role): new_key(made, role, tenant=t) for t in ("ads", "shop") for role in ROLES}
    settings = Settings.read(
        {
            "models": {"default": "small"},
            "limits": {"requests_per_minute": 10_000},
            "jobs": {"at_once": 0},
        }
    )
    for running in listening(application(made, settings)):
        yield Tenants(running, made, keys)
