"""Bodies that do not come: whoever holds a connection open must not hold it for ever."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from pipelines.home import Home
from serving.settings import Settings
from tests.serving.running import Running, application, listening

HEAD = (
    b"POST /v1/forecasts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n"
)


@pytest.fixture
def limited(empty: Home, request: pytest.FixtureRequest) -> Iterator[Running]:
    """A service without a model, with the seconds of a body that the test asks for."""
    settings = {"limits": {"body_seconds": request.param}, "jobs": {"at_once": 0}}
    yield from listening(application(empty, Settings.read(settings)), ready=False)


def told(service: Running, *, every_s: float) -> tuple[float, bytes]:
    """The answer to a body of which a byte comes now and then, and when it came."""
    url = service.client.base_url
    started = time.monotonic()
    with socket.create_connection((url.host, url.port or 80), timeout=every_s) as stream:
        stream.sendall(HEAD)
        while time.monotonic() - started < 60:
            try:
                answer = stream.recv(65_536)
                return time.monotonic() - started, answer
            except TimeoutError:
                stream.sendall(b" ")
    raise AssertionError("a slow body was never refused")


@pytest.mark.parametrize("limited", [1], indirect=True)
def test_a_body_that_stops_is_refused(limited: Running) -> None:
    """A thousand callers that say nothing more would leave no room for others."""
    seconds, answer = told(limited, every_s=0.2)
    assert answer.startswith(b"HTTP/1.1 408")
    assert seconds < 10
    assert limited.app.state.service.bodies.held == 0


@pytest.mark.faults
@pytest.mark.parametrize("limited", [600], indirect=True)
def test_a_body_that_trickles_is_refused(limited: Running) -> None:
    """A byte a second keeps any limit between two reads from ever being met."""
    seconds, answer = told(limited, every_s=1.0)
    assert answer.startswith(b"HTTP/1.1 408")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "/problems/body-too-slow"
    print(f"a byte a second was refused after {seconds:.1f} s")
    assert seconds < 30
