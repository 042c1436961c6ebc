"""The service behind the nginx of configs/nginx.conf: what only a front can refuse, it refuses."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from pipelines.experiment import config_path
from pipelines.forecaster import Forecaster
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.keyed import new_key
from tests.serving.running import application, listening, publish, series, table

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
pytestmark = pytest.mark.skipif(
    NGINX is None or shutil.which("openssl") is None,
    reason="There is no nginx here, or no openssl.",
)


@dataclass(frozen=True)
class Front:
    """A front, and a client that has a key."""

    port: int
    client: httpx.Client

    def raw(self, sent: bytes, *, seconds: float = 20.0) -> bytes:
        """What comes back for these bytes, until the front closes."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=seconds)
        with context.wrap_socket(plain) as stream:
            if sent:
                stream.sendall(sent)
            received = b""
            while chunk := stream.recv(65_536):
                received += chunk
        return received


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory, model: Forecaster, database: Path
) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("front")
    home = fresh_home(folder / "home", database)
    publish(home, "small", model, folder / "artifact")
    key = new_key(home, "forecaster")
    settings = Settings.read({"models": {"default": "small"}, "jobs": {"at_once": 0}})
    for behind in listening(application(home, settings)):
        port = free_port()
        with nginx(folder, port=port, upstream=behind.client.base_url.port):
            headers = {"Authorization": f"Bearer {key}"}
            url = f"https://127.0.0.1:{port}"
            with httpx.Client(base_url=url, verify=False, headers=headers, timeout=60) as client:
                yield Front(port, client)


def nginx(folder: Path, *, port: int, upstream: int | None) -> Nginx:
    """The shipped configuration with the addresses and files of a test."""
    tls = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", *tls],
        check=True, capture_output=True,
    )  # fmt: skip
    text = config_path("nginx.conf").read_text(encoding="utf-8")
    for shipped, own in (
        ("/run/nginx.pid", str(folder / "nginx.pid")),
        ("127.0.0.1:8000", f"127.0.0.1:{upstream}"),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/tsformer/tls/fullchain.pem", str(folder / "cert.pem")),
        ("/etc/tsformer/tls/privkey.pem", str(folder / "key.pem")),
    ):
        assert text.count(shipped) == 1
        text = text.replace(shipped, own)
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(text.replace("http {\n", f"http {{\n{temporary}", 1), encoding="utf-8")
    return Nginx(file, port)


class Nginx:
    """An nginx in the foreground, ended after."""

    def __init__(self, config: Path, port: int) -> None:
        self.config, self.port = config, port

    def __enter__(self) -> None:
        assert NGINX is not None
        own = "user root;" if os.getuid() == 0 else ""  # who alone may enter pytest's folder
        command = [NGINX, "-c", str(self.config), "-g", f"daemon off;{own}"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(self.process.communicate()[1].decode())

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_forecast_comes_through(front: Front) -> None:
    """With a key, in clear from the front on; a word of the framework's changes nothing."""
    body = {"data": table(series()), "freq": "h"}
    forged = {"X-Request-Timeout-Seconds": "0", "serve_multiplexed_model_id": "x"}
    for headers in ({}, forged):
        reply = front.client.post("/v1/forecasts", json=body, headers=headers)
        assert reply.status_code == 200, reply.text
    assert reply.headers["strict-transport-security"]
    assert "nginx/" not in reply.headers["server"]
    without = httpx.get(f"{front.client.base_url}/v1/models", verify=False)
    assert without.status_code == 401


@pytest.mark.parametrize("path", ["/v1/forecasts", "/v1/jobs/job_1/events"])
def test_no_word_for_the_framework_passes(tmp_path: Path, path: str) -> None:
    """Serve would switch off its own time limit, or believe who a client says it is."""
    heard: list[dict[str, str]] = []

    class Behind(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(204)
            self.end_headers()

    behind, port = HTTPServer(("127.0.0.1", 0), Behind), free_port()
    Thread(target=behind.serve_forever, daemon=True).start()
    forged = dict.fromkeys(
        ("X-Request-Timeout-Seconds", "X-Request-Disconnect-Disabled", "X-Forwarded-For"), "forged"
    )
    try:
        with nginx(tmp_path, port=port, upstream=behind.server_port):
            url = f"https://127.0.0.1:{port}{path}"
            assert httpx.get(url, headers=forged, verify=False).status_code == 204
    finally:
        behind.shutdown()
        behind.server_close()
    (headers,) = heard
    assert "forged" not in headers.values()
    assert headers["x-forwarded-for"] == "127.0.0.1"


def test_a_body_over_its_limit_is_refused(front: Front) -> None:
    """B1: by the front from its length, by the service as it counts; neither holds it whole."""
    declared = front.raw(
        b"POST /v1/forecasts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400000000\r\n\r\n"
    )
    assert declared.startswith(b"HTTP/1.1 413")
    headers = {"Content-Type": "application/json"}

    def stream() -> Iterator[bytes]:
        for _ in range(33):
            yield b" " * 1024 * 1024

    counted = front.client.post("/v1/forecasts", content=stream(), headers=headers)
    assert counted.status_code == 413
    assert counted.json()["limit"] == "body_json_mib"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"X-Large: " + b"a" * 65_536 + b"\r\n",
        b"".join(b"X-%d: %s\r\n" % (i, b"a" * 400) for i in range(200)),
    ],
    ids=["both lengths", "two lengths", "odd encoding", "64 KiB of a header", "200 headers"],
)
def test_framing_that_two_servers_may_read_differently_ends_here(front: Front, head: bytes) -> None:
    """B9: what is smuggled past the front would be answered to somebody else."""
    sent = b"POST /v1/forecasts HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\nhello"
    status = front.raw(sent).split(b" ", 2)[1]
    assert status in (b"400", b"413", b"431", b"501")


@pytest.mark.faults
def test_half_open_connections_are_closed(front: Front) -> None:
    """B9: three hundred that say nothing, and an honest one gets its answer meanwhile."""
    held = [socket.create_connection(("127.0.0.1", front.port), timeout=30) for _ in range(300)]
    started = time.monotonic()
    try:
        assert front.client.get("/health/live").status_code in (200, 429)
        for one in held:
            assert one.recv(1) == b""
        print(f"300 half-open connections closed after {time.monotonic() - started:.1f} s")
        assert time.monotonic() - started < 60
    finally:
        for one in held:
            one.close()
    assert front.client.get("/health/live").status_code == 200
