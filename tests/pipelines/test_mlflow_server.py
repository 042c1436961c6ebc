"""An MLflow server as docs/operations.md starts it: closed to who has no name and password."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from pipelines.demo import free_port
from tests.figures import Told
from tests.pipelines.homes import new_home

pytestmark = pytest.mark.timeout(300)

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
PASSWORD = secrets.token_urlsafe(16)
API = "/api/2.0/mlflow"
CLOSED = (
    ("GET", "/"), ("POST", f"{API}/experiments/search"), ("GET", f"{API}/experiments/get?experiment_id=0"),
    ("POST", f"{API}/experiments/create"), ("POST", f"{API}/experiments/delete"),
    ("POST", f"{API}/runs/create"), ("POST", f"{API}/runs/search"), ("POST", f"{API}/runs/delete"),
    ("GET", f"{API}/runs/get?run_id=x"), ("POST", f"{API}/registered-models/create"),
    ("GET", f"{API}/registered-models/search"), ("POST", f"{API}/model-versions/create"),
    ("GET", f"{API}/artifacts/list?run_id=x"), ("GET", "/api/2.0/mlflow-artifacts/artifacts"),
    ("POST", f"{API}/users/create"),
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """The commands of the documentation, with a folder and a port of the test."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    new_home(folder)  # its database is ready
    text = DOCS.read_text(encoding="utf-8")
    (found,) = [
        code for code in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "basic-auth" in code
    ]
    script = found.replace("/var/lib/mlflow", str(folder)).replace("5000", str(port))
    own = {
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
    }
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    log = (folder / "log").open("w")
    child = subprocess.Popen(
        ["bash", "-e", "-c", script.replace("\nmlflow server", "\nexec mlflow server")],
        env={**inherited, **own, "PATH": path}, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    url, began = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while not answers(url):
            assert child.poll() is None, (folder / "log").read_text()
            assert time.monotonic() - began < 200, (folder / "log").read_text()
            time.sleep(0.2)
        yield url, psutil.Process(child.pid)
    finally:
        log.close()
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_nobody_reads_or_writes_without_a_name_and_a_password(
    server: tuple[str, psutil.Process], record_property: Told
) -> None:
    """S11: who writes into the registry decides what is forecast."""
    url, process = server
    with httpx.Client(base_url=url, timeout=60) as client:
        found = {f"{method} {path}": client.request(method, path, json={} if method == "POST" else None)
                 for method, path in CLOSED}  # fmt: skip
        assert {name: reply.status_code for name, reply in found.items()} == dict.fromkeys(
            found, 401
        )
        assert client.get("/health").status_code == 200
        search = f"{API}/experiments/search"
        guessed = client.post(search, json={"max_results": 1}, auth=("admin", "password1234"))
        foreign = client.post(search, json={}, headers={"Host": "evil.example"})
        assert (guessed.status_code, foreign.status_code) == (401, 403)
        auth = ("admin", PASSWORD)
        assert client.post(search, json={"max_results": 1}, auth=auth).status_code == 200
        client.post(f"{API}/registered-models/create", json={"name": "m"}, auth=auth)
        sources = [
            client.post(
                f"{API}/model-versions/create", json={"name": "m", "source": source}, auth=auth
            ).status_code
            for source in ("http://169.254.169.254/x", "file:///etc", "/etc")
        ]
        assert sources == [400] * 3
    family = [process, *process.children(recursive=True)]
    listening = {
        each.laddr.ip
        for one in family
        for each in one.net_connections(kind="inet")
        if each.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    record_property(
        "S11",
        f"{len(found)} routes without a login: 401, a guessed password 401, a foreign Host 403, "
        f"sources of http and file 400; {len(family)} processes, on loopback",
    )
    assert len(family) == 2
