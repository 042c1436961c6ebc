"""Names and addresses that would lead out of the house: refused, and nothing is opened or called."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pipelines.home import Home
from pipelines.sources import glance, load, locate
from serving.settings import Settings
from tests.audited import audited
from tests.figures import Told
from tests.serving.running import Running, application, listening, series, table
from tsformer.errors import TsformerError

DEVICES = ("CON", "nul.txt", "aux", "COM1", "LPT9", "/dev/zero", "/dev/stdin", "/proc/self/environ")
UP = (
    "..", "../x", "../../etc/passwd", "..\\..\\x", "a/../../x", "a/..", "./x", ".", "../", "....//x",
    "..;/x", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e", "%2e%2e%2f", "..%5cx", "%252e%252e%252fx",
    "..%c0%af..%c0%afx", "%00", "..%00/x", "a%2f..%2fb",
)  # fmt: skip
ABSOLUTE = (
    "/", "/etc/passwd", "//etc/passwd", "C:\\x", "c:x", "\\\\host\\share", "~", "~root", "~/x",
    "file:///etc/passwd", "$HOME/x", "${HOME}",
)  # fmt: skip
ODD = (
    "", " ", "a ", " a", "a.", ".a", "-a", "a\x00b", "a\nb", "a\tb", "a\x7fb", "a\u2215b", "a\uff0fb",
    "\uff0e\uff0e/x", "a\u2044b", "a\u202eb", "a:b", "a|b", "a*", "a?b", "x" * 65,
)  # fmt: skip
PAYLOADS = (*UP, *ABSOLUTE, *DEVICES, *ODD)
ALLOWED = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/dev/null", "/usr/share")


def in_bodies(name: str) -> list[tuple[str, dict[str, Any]]]:
    """The payload at every place of a body where there is a name: the route, and the body."""
    data = {"data": table(series(30)), "freq": "h"}
    job = {"type": "train", "spec": {"dataset": name, "kind": "ridge", "name": "load"}}
    return [
        ("/v1/datasets", {"name": name, **data}),
        ("/v1/datasets", {"name": "x", "file": name}),
        ("/v1/forecasts", {"model": name, **data}),
        ("/v1/forecasts", {"model": f"small/{name}", **data}),
        ("/v1/forecasts", {"model": f"small@{name}", **data}),
        ("/v1/jobs", job),
        ("/v1/jobs", {**job, "spec": {**job["spec"], "dataset": "clock", "name": name}}),  # type: ignore[dict-item]
    ]


PATHS = (
    ("GET", "/v1/datasets/{}"), ("GET", "/v1/models/{}"), ("GET", "/v1/models/small/versions/{}"),
    ("PUT", "/v1/models/small/aliases/{}"), ("GET", "/v1/jobs/{}"), ("GET", "/v1/jobs/{}/result"),
    ("GET", "/v1/schedules/{}"), ("GET", "/v1/schedules/{}/runs"), ("GET", "/v1/monitors/{}"),
    ("GET", "/v2/models/{}"), ("GET", "/assets/{}"),
)  # fmt: skip


def test_no_name_leads_out_of_the_home(service: Running, home: Home, record_property: Told) -> None:
    """S6: a dataset called ../../etc/cron.d/x must not be one."""
    assert service.post("/v1/forecasts", {"data": table(series(30)), "freq": "h"}).is_success
    statuses: dict[int, int] = {}
    with audited() as seen:
        for name in PAYLOADS:
            for route, body in in_bodies(name):
                reply = service.post(route, body)
                statuses[reply.status_code] = statuses.get(reply.status_code, 0) + 1
                assert reply.status_code in (422, 404), (route, name, reply.text)
                assert route != "/v1/datasets" or reply.status_code == 422
            for method, path in PATHS if name.strip("./") else ():  # which a client would resolve
                address = path.format(quote(name, safe=""))
                reply = service.client.request(method, address)
                statuses[reply.status_code] = statuses.get(reply.status_code, 0) + 1
                assert reply.status_code in (404, 405, 422, 428), (address, reply.text)
        opened = {str(path) for path, *_ in seen.of("open") if isinstance(path, (str, Path))}
    inside = (str(home.folder), *ALLOWED)
    outside = [path for path in opened if not path.startswith(inside) and path.startswith("/")]
    assert [path for path in opened if ".." in path or "passwd" in path] == []
    assert [path for path in outside if not path.startswith(("/proc/", "/sys/"))] == []
    record_property(
        "S6",
        f"{len(PAYLOADS)} payloads at {7 + len(PATHS)} places: {dict(sorted(statuses.items()))}; "
        f"{len(opened)} files opened, 0 outside of the home",
    )


REMOTE = (
    "http://169.254.169.254/latest/meta-data", "http://{}/x.parquet", "https://{}/x.csv",
    "http://[::1]:{port}/x.csv", "http://0x7f000001:{port}/x.csv", "http://2130706433:{port}/x.csv",
    "http://localhost:{port}/x.csv", "file:///etc/passwd", "file://{}/x.csv", "s3://bucket/x.parquet",
    "gs://bucket/x.parquet", "az://c/x.parquet", "hf://datasets/a/b.parquet", "ftp://{}/x.csv",
    "hdfs://{}/x", "//{}/x.csv", "\\\\{}\\x.csv", "http://user@{}/x.csv", "HTTP://{}/X.CSV",
    "s3a://bucket/*.parquet", "memory://x.csv", "data:text/csv,ds,y",
)  # fmt: skip


def test_no_address_is_called_for_data(service: Running, record_property: Told) -> None:
    """S7: who may name a table must not be able to ask the cloud for its credentials."""
    refused = 0
    with socket.create_server(("127.0.0.1", 0)) as canary, audited() as seen:
        port = canary.getsockname()[1]
        own = service.client.base_url.port
        for pattern in REMOTE:
            address = pattern.format(f"127.0.0.1:{port}", port=port)
            for read in (load, glance, locate):
                with pytest.raises(TsformerError):
                    read(address)
                refused += 1
            job = {"dataset": address, "kind": "ridge", "name": "load"}
            for route, body in (
                ("/v1/datasets", {"name": "x", "file": address}),
                ("/v1/jobs", {"type": "train", "spec": job}),
                ("/v1/forecasts", {"data": address, "freq": "h"}),
            ):
                assert service.post(route, body).status_code == 422
                refused += 1
        called = [to for _, to in seen.of("socket.connect") if to != ("127.0.0.1", own)]
        canary.settimeout(0.05)
        with pytest.raises(TimeoutError):
            canary.accept()
    assert called == []
    assert {host for host, *_ in seen.of("socket.getaddrinfo")} <= {"127.0.0.1"}
    record_property(
        "S7",
        f"{refused} tries with {len(REMOTE)} addresses refused, 0 connections, 0 names resolved",
    )


def test_a_link_out_of_the_folder_of_tables_is_refused(empty: Home, tmp_path: Path) -> None:
    """S6: what stands behind a link was not put there to be read."""
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "link.csv").symlink_to("/etc/passwd")
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    app = application(empty, Settings.read({"datasets": {"folder": str(folder)}}))
    for running in listening(app, ready=False):
        with audited() as seen:
            for name in ("link.csv", "loop.csv"):
                body = {"name": "x", "file": name}
                assert running.post("/v1/datasets", body).status_code == 422
        assert "/etc/passwd" not in {str(path) for path, *_ in seen.of("open")}
