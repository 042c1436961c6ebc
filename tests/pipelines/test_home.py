"""Where things live, and that a registry that is away is found out at once."""

from __future__ import annotations

import socket
import stat
import time
from pathlib import Path

import pytest

from pipelines.home import IMPATIENT, SAFE, Home, Role, address, configure, reach
from tsformer.errors import UnavailableError


def test_everything_lies_in_one_folder_unless_told_otherwise(tmp_path: Path) -> None:
    home = Home.of({"TSFORMER_HOME": str(tmp_path)})
    assert home.database == tmp_path / "mlflow.db"
    assert home.artifacts == tmp_path / "artifacts"
    assert home.models == tmp_path / "models"


def test_a_server_keeps_its_own_database_and_files(tmp_path: Path) -> None:
    environment = {
        "TSFORMER_HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
    }
    home = Home.of(environment)
    assert home.uri == "http://127.0.0.1:5000"
    assert home.database is None
    assert home.artifacts is None
    environment["MLFLOW_TRACKING_URI"] = "sqlite:////data/ml.db"
    assert Home.of(environment).database == Path("/data/ml.db")


def test_nobody_but_the_owner_can_read_the_database(tmp_path: Path) -> None:
    home = Home.of({"TSFORMER_HOME": str(tmp_path / "new" / "home")})
    home.prepare()
    assert home.database is not None
    assert stat.S_IMODE(home.database.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("role", ["serving", "training"])
def test_no_role_reads_pickles_or_runs_the_code_of_models(role: Role) -> None:
    environment = dict.fromkeys(SAFE, "true")
    configure(environment, role=role)
    assert {name: environment[name] for name in SAFE} == dict.fromkeys(SAFE, "false")
    assert any("MODEL_CODE" in name for name in SAFE)


def test_configuring_keeps_what_the_user_has_set() -> None:
    environment = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "9"}
    configure(environment, role="serving")
    assert environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "9"
    assert environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_training_waits_for_a_slow_server() -> None:
    environment: dict[str, str] = {}
    configure(environment, role="training")
    assert not IMPATIENT.keys() & environment.keys()


def test_a_registry_that_was_never_made_says_how_to_make_it(tmp_path: Path) -> None:
    home = Home.of({"TSFORMER_HOME": str(tmp_path)})
    with pytest.raises(UnavailableError, match="tsformer train"):
        reach(home)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_database_is_refused_at_once(tmp_path: Path) -> None:
    """MLflow itself would try ten times, with pauses that add up to a minute and a half."""
    (tmp_path / "mlflow.db").write_text("not a database")
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="not an SQLite database"):
        reach(Home.of({"TSFORMER_HOME": str(tmp_path)}))
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_a_server_that_is_down_is_found_out_at_once(scheme: str, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        home = Home(tmp_path, f"{scheme}://127.0.0.1:{port}/mlflow")
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="does not answer"):
            reach(home)
    assert time.monotonic() - started < 30


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    home = Home(tmp_path, "postgresql://someone:secret@db.example:5432/mlflow")
    assert address(home) == "The registry at postgresql://db.example:5432/mlflow"
