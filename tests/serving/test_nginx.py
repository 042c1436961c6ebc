"""The service behind the nginx of configs/nginx.conf: what only a front can refuse, it refuses."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread

import httpx
import psutil
import pytest

from pipelines.config_files import config_path
from pipelines.forecaster import Forecaster
from serving.settings import Settings
from tests.figures import Told
from tests.peaks import growth, peaks
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
    processes: tuple[int, ...]  # of the front; the service is in this one
    upstream: int  # the port of the service

    @property
    def key(self) -> bytes:
        """The credentials of the client."""
        return self.client.headers["authorization"].encode()

    def plain(self, *, address: str = "127.0.0.1") -> socket.socket:
        """A connection without TLS, from an address of this machine."""
        to = ("127.0.0.1", self.port)
        return socket.create_connection(to, timeout=20, source_address=(address, 0))

    def connected(self, *, address: str = "127.0.0.1") -> ssl.SSLSocket:
        """A connection with TLS."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # in which only an answer is readable
        return context.wrap_socket(self.plain(address=address))

    def raw(self, sent: bytes) -> bytes:
        """What comes back for these bytes, until the front closes."""
        with self.connected() as stream:
            stream.sendall(sent)
            return b"".join(iter(lambda: stream.recv(65_536), b""))

    def first(self, sent: bytes) -> bytes:
        """The first that comes back for these bytes."""
        with self.connected() as stream:
            stream.sendall(sent)
            return stream.recv(65_536)

    def streamed(
        self, head: bytes, pieces: Iterable[bytes], *, limit: int
    ) -> tuple[bytes, int, float]:
        """The first of the answer to a body, how much was sent, and how long past `limit` it came."""
        sent, passed = 0, time.monotonic()
        with self.connected() as stream:
            stream.sendall(
                b"POST /v1/forecasts HTTP/1.1\r\nHost: localhost\r\nAuthorization: "
                + (self.key + b"\r\nContent-Type: " + head)
            )
            with suppress(ConnectionError):  # the answer may have come all the same
                for piece in pieces:
                    if select.select([stream], [], [], 0)[0]:
                        break
                    stream.sendall(piece)
                    sent += len(piece)
                    if sent <= limit:
                        passed = time.monotonic()
            return stream.recv(65_536), sent, time.monotonic() - passed


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
        upstream = behind.client.base_url.port or 0
        with nginx(folder, port=port, upstream=upstream) as processes:
            headers = {"Authorization": f"Bearer {key}"}
            url = f"https://127.0.0.1:{port}"
            with httpx.Client(base_url=url, verify=False, headers=headers, timeout=60) as client:
                yield Front(port, client, processes, upstream)


def nginx(folder: Path, *, port: int, upstream: int, patience_s: int | None = None) -> Nginx:
    """The shipped configuration with the addresses and files of a test, and perhaps less patience."""
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
    if patience_s is not None:
        patient = r"((?:client_header_timeout|client_body_timeout|lingering_time)) \d+s"
        text, changed = re.subn(patient, rf"\1 {patience_s}s", text)
        assert changed == 3
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

    def __enter__(self) -> tuple[int, ...]:
        assert NGINX is not None
        own = "user root;" if os.getuid() == 0 else ""  # who alone may enter pytest's folder
        command = [NGINX, "-c", str(self.config), "-g", f"daemon off;{own}"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    master = psutil.Process(self.process.pid)
                    return (master.pid, *(worker.pid for worker in master.children()))
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
    without = httpx.get(f"{front.client.base_url}/v1/models", verify=False, timeout=60)
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
            assert httpx.get(url, headers=forged, verify=False, timeout=60).status_code == 204
    finally:
        behind.shutdown()
        behind.server_close()
    (headers,) = heard
    assert "forged" not in headers.values()
    assert headers["x-forwarded-for"] == "127.0.0.1"


JSON, ARROW = b"application/json", b"application/vnd.apache.arrow.stream"
MIB = 1024 * 1024
PIECE = b" " * MIB
DECLARED, CHUNKED = b"Content-Length: %d\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
TOO_LARGE = {
    "JSON of 400 MiB, declared": (JSON, DECLARED % (400 * MIB), 0, 32),
    "JSON of 33 MiB, declared": (JSON, DECLARED % (33 * MIB), 0, 32),
    "JSON of 400 MiB in chunks": (JSON, CHUNKED, 400, 32),
    "Arrow of 257 MiB, declared": (ARROW, DECLARED % (257 * MIB), 0, 256),
    "Arrow of 400 MiB in chunks": (ARROW, CHUNKED, 400, 256),
}


@pytest.mark.parametrize(("kind", "length", "mib", "limit"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_body_over_its_limit_is_refused(
    front: Front, record_property: Told, kind: bytes, length: bytes, mib: int, limit: int
) -> None:
    """B1: from its length or as it is counted; neither the front nor the service holds it whole."""
    pieces = (b"%x\r\n%s\r\n" % (MIB, PIECE) for _ in range(mib))
    measured = (os.getpid(), *front.processes)
    before = peaks(*measured)
    reply, sent, seconds = front.streamed(kind + b"\r\n" + length, pieces, limit=limit * MIB)
    grown = growth(before, *measured)
    assert reply.startswith(b"HTTP/1.1 413")
    record_property(
        "B1",
        f"{kind.decode()}, {mib or 'declared'} MiB: 413 after {sent / MIB:.0f} MiB, {seconds:.2f} s"
        f" past the limit; no process grew by more than {grown:.0f} MiB",
    )
    assert grown <= 2 * limit
    assert seconds < 10  # 1 s on a quiet machine


def test_a_million_chunks_of_a_byte_cost_little(front: Front, record_property: Told) -> None:
    """B1: a body that is honest in size and not in form must not take the service's memory."""
    measured = (os.getpid(), *front.processes)
    before, pieces = peaks(*measured), (b"1\r\n \r\n" * 1_000 for _ in range(1_000))
    started = time.monotonic()
    end = [b"0\r\n\r\n"]
    reply, _, _ = front.streamed(JSON + b"\r\n" + CHUNKED, chain(pieces, end), limit=MIB)
    seconds = time.monotonic() - started
    grown = growth(before, *measured)
    assert reply.startswith(b"HTTP/1.1 400")
    record_property("B1", f"a million chunks of a byte: 400 in {seconds:.1f} s, {grown:.0f} MiB")
    assert grown <= 64


HEADS = {
    "both lengths": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "an odd encoding": b"Transfer-Encoding: xchunked\r\n",
    "a space after the name": b"Transfer-Encoding : chunked\r\n",
    "a vertical tab": b"Transfer-Encoding:\x0bchunked\r\n",
    "two encodings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "64 KiB of a header": b"X-Large: " + b"a" * 65_536 + b"\r\n",
    "80 KiB of headers": b"".join(b"X-%d: %s\r\n" % (i, b"a" * 400) for i in range(200)),
    "200 headers": b"".join(b"X-%d: a\r\n" % i for i in range(200)),
}


def test_framing_that_two_servers_may_read_differently_ends_here(
    front: Front, record_property: Told
) -> None:
    """B9: what is smuggled past the front would be answered to somebody else."""
    found = {}
    for name, head in HEADS.items():
        sent = b"POST /v1/forecasts HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\nhello"
        found[name] = front.first(sent).split(b" ", 2)[1].decode()
    assert {*found.values()} <= {"400", "413", "431", "501"}, found
    lines = b"GET /health/live HTTP/1.1\nHost: localhost\nContent-Length: 5\nConnection: close\n\n"
    assert front.raw(lines + b"hello").count(b"HTTP/1.1 ") == 1  # is one request to both
    told = ", ".join(f"{name}: {status}" for name, status in found.items())
    record_property("B9", f"{told}; lines that end in LF alone are one request")


SLOWLY = b"POST /v1/forecasts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"


def besieged(front: Front, *, quiet: int, trickling: int, seconds: float) -> str:
    """Connections that say nothing and bodies of a byte a second, each kind of an address of its own;
    what became of them, and what an honest caller saw meanwhile."""

    def asked() -> float:
        started = time.monotonic()
        assert front.client.get("/v1/models").status_code == 200
        return time.monotonic() - started

    alone = [asked() for _ in range(30)]
    silent = [front.plain(address="127.0.0.2") for _ in range(quiet)]
    began, honest, slow = time.monotonic(), list[float](), list[ssl.SSLSocket]()
    for _ in range(trickling):
        slow.append(front.connected(address="127.0.0.3"))
        slow[-1].sendall(b"%sAuthorization: %s\r\n" % (SLOWLY, front.key))
        slow[-1].sendall(b"Content-Type: %s\r\n\r\n" % JSON)
    left: list[socket.socket] = [*silent, *slow]
    at = time.monotonic()
    while left and time.monotonic() - began < seconds:
        honest.append(asked())
        time.sleep(0.02)  # below the rate that the front allows
        if time.monotonic() > at:
            at += 1.0
            for one in set(slow) & set(left):
                with suppress(OSError):
                    one.sendall(b" ")
        left = [one for one in left if not ended(one)]
    took = time.monotonic() - began
    for one in (*silent, *slow):
        one.close()
    assert left == []
    before, during = (sorted(found)[int(0.99 * len(found))] for found in (alone, honest))
    assert during < 10 * before + 1.0  # twice on a quiet machine
    return (
        f"{quiet} silent and {trickling} slow connections closed after {took:.1f} s, an honest caller's p99 "
        f"{1000 * during:.0f} ms of {len(honest)} ({1000 * before:.0f} ms before)"
    )


def ended(stream: socket.socket) -> bool:
    """Whether the other side has closed."""
    try:
        while select.select([stream], [], [], 0)[0]:
            if not stream.recv(65_536):
                return True
    except OSError:
        return True
    return False


def test_slow_connections_are_closed(
    front: Front, tmp_path: Path, record_property: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B9: who opens connections and says nothing must not keep others out; times shortened to 1 s."""
    monkeypatch.setattr("serving.body.GRACE_S", 1.0)
    port = free_port()
    with nginx(tmp_path, port=port, upstream=front.upstream, patience_s=1) as processes:
        url = f"https://127.0.0.1:{port}"
        headers = front.client.headers
        with httpx.Client(base_url=url, verify=False, headers=headers, timeout=60) as client:
            hurried = Front(port, client, processes, front.upstream)
            told = besieged(hurried, quiet=100, trickling=20, seconds=30)
    record_property("B9", f"with 1 s for a header or body: {told}")


@pytest.mark.faults
def test_slow_connections_are_closed_in_time(front: Front, record_property: Told) -> None:
    """B9: with the times of the shipped configuration."""
    record_property("B9", besieged(front, quiet=300, trickling=50, seconds=75))
