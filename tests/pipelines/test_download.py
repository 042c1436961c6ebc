"""Downloads against a real server on this machine that breaks off, ignores ranges, or lies."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.catalogue import CATALOGUE, Dataset
from pipelines.download import fetch
from tsformer.errors import DataError

CONTENT = b"date,OT\n" + b"".join(
    b"2016-07-01 %02d:00:00,%d.5\n" % (i % 24, i) for i in range(4000)
)


@dataclass
class Behaviour:
    """What the server does; `ranges` are the Range headers that came, one a request."""

    content: bytes = CONTENT
    break_after: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ignore_ranges: bool = False
    redirect: str = ""
    ranges: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Serves one file with ranges, as `server.behaviour` says."""

    def do_GET(self) -> None:
        behaviour: Behaviour = self.server.behaviour  # type: ignore[attr-defined]
        asked = self.headers.get("Range")
        behaviour.ranges.append(asked)
        if behaviour.redirect or (behaviour.statuses and behaviour.statuses[0] != 200):
            status = 302 if behaviour.redirect else behaviour.statuses.pop(0)
            self.send_response(status)
            self.send_header("Location", behaviour.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first = 0 if asked is None or behaviour.ignore_ranges else int(asked[6:-1])
        self._send(behaviour, first)

    def _send(self, behaviour: Behaviour, first: int) -> None:
        size = len(behaviour.content)
        if first >= size > 0 and first:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - first))
        self.end_headers()
        cut = behaviour.break_after.pop(0) if behaviour.break_after else None
        self.close_connection = True
        with suppress(ConnectionError):  # a client that has seen enough hangs up
            self.wfile.write(behaviour.content[first:cut])

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[tuple[Dataset, Behaviour]]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.behaviour = behaviour = Behaviour()  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield entry(f"http://127.0.0.1:{http.server_port}/ETTh1.csv"), behaviour
    http.shutdown()
    thread.join()
    http.server_close()


def entry(address: str) -> Dataset:
    digest = hashlib.sha256(CONTENT).hexdigest()
    known = CATALOGUE["etth1"]
    return replace(known, address=address, sha256=digest, size_bytes=len(CONTENT), rows=4000)


Served = tuple[Dataset, Behaviour]


def test_a_whole_file_comes_with_its_progress(server: Served, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(server[0], folder=tmp_path / "new", report=lambda *s: seen.append(s), pause_s=0)
    assert path == tmp_path / "new" / "ETTh1.csv"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in path.parent.iterdir()] == ["ETTh1.csv"]


def test_a_broken_download_goes_on_where_it_stopped(server: Served, tmp_path: Path) -> None:
    """136 MB over a bad line would otherwise never arrive."""
    server[1].break_after = [1000, 50_000]
    path = fetch(server[0], folder=tmp_path, pause_s=0)
    assert path.read_bytes() == CONTENT
    assert server[1].ranges == [None, "bytes=1000-", "bytes=50000-"]


def test_a_later_command_goes_on_from_the_part(server: Served, tmp_path: Path) -> None:
    (tmp_path / "ETTh1.csv.part").write_bytes(CONTENT[:777])
    assert fetch(server[0], folder=tmp_path, pause_s=0).read_bytes() == CONTENT
    assert server[1].ranges == ["bytes=777-"]


def test_a_complete_part_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "ETTh1.csv.part").write_bytes(CONTENT)
    assert fetch(entry("https://unreachable.invalid/ETTh1.csv"), folder=tmp_path).exists()


def test_a_server_without_ranges_starts_over(server: Served, tmp_path: Path) -> None:
    server[1].break_after, server[1].ignore_ranges = [1000], True
    assert fetch(server[0], folder=tmp_path, pause_s=0).read_bytes() == CONTENT


def test_a_part_of_another_file_is_dropped(server: Served, tmp_path: Path) -> None:
    (tmp_path / "ETTh1.csv.part").write_bytes(b"x" * (len(CONTENT) + 1))
    assert fetch(server[0], folder=tmp_path, pause_s=0).read_bytes() == CONTENT


def test_other_line_ends_are_the_same_data(server: Served, tmp_path: Path) -> None:
    server[1].content = CONTENT.replace(b"\n", b"\r\n")
    assert fetch(server[0], folder=tmp_path, pause_s=0).read_bytes() == server[1].content


def test_a_wrong_checksum_leaves_nothing(server: Served, tmp_path: Path) -> None:
    server[1].content = CONTENT.replace(b"17.5", b"99.9")
    with pytest.raises(DataError, match=r"Came: .* Expected: .* TSFORMER_DATA"):
        fetch(server[0], folder=tmp_path, pause_s=0)
    assert [*tmp_path.iterdir()] == []


def test_more_than_the_data_set_is_not_read_to_its_end(server: Served, tmp_path: Path) -> None:
    server[1].content = b"0" * 20_000_000
    seen: list[int] = []
    with pytest.raises(DataError, match="is not the data set"):
        fetch(server[0], folder=tmp_path, report=lambda done, _: seen.append(done), pause_s=0)
    assert seen[-1] < 1_000_000


def test_a_busy_server_is_asked_again(server: Served, tmp_path: Path) -> None:
    server[1].statuses = [503, 429]
    assert fetch(server[0], folder=tmp_path, pause_s=0).exists()


def test_a_refusal_is_told_at_once(server: Served, tmp_path: Path) -> None:
    server[1].statuses = [404]
    with pytest.raises(DataError, match=r"answered 404 Not Found\. .* ETTh1\.csv from elsewhere"):
        fetch(server[0], folder=tmp_path, pause_s=0)
    assert len(server[1].ranges) == 1


def test_without_a_network_the_remedy_is_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataError, match=r"4 attempts .*0 bytes are kept.*TSFORMER_DATA"):
        fetch(entry(f"http://127.0.0.1:{port}/ETTh1.csv"), folder=tmp_path, pause_s=0)


def test_plain_http_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not https"):
        fetch(entry("http://example.invalid/ETTh1.csv"), folder=tmp_path, pause_s=0)


def test_a_redirect_to_plain_http_is_refused(server: Served, tmp_path: Path) -> None:
    server[1].redirect = "http://example.invalid/ETTh1.csv"
    with pytest.raises(DataError, match=r"http://example\.invalid.* not https"):
        fetch(server[0], folder=tmp_path, pause_s=0)
