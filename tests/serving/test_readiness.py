"""Why the service is not ready: the operator learns it from the service and from its log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from pipelines.home import Home
from serving.logs import LOGGERS, keep_log
from serving.run import await_ready
from serving.settings import Settings
from tests.serving.keyed import new_key, prefix_of
from tests.serving.running import application, forecaster, listening, publish, series, table
from tsformer.errors import UnavailableError


@pytest.fixture
def kept() -> Iterator[Callable[[Home], Path]]:
    """Starts a log in a home; gives its file, and ends it after."""
    before = {name: list(logging.getLogger(name).handlers) for name in LOGGERS}

    def start(home: Home) -> Path:
        keep_log(home, "test")
        return home.logs / "test.log"

    yield start
    for name, handlers in before.items():
        for handler in set(logging.getLogger(name).handlers) - set(handlers):
            logging.getLogger(name).removeHandler(handler)
            handler.close()


def damage(home: Home) -> None:
    for weights in home.folder.rglob("weights.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1])


def remove(home: Home) -> None:
    assert home.database is not None
    home.database.unlink()


@pytest.mark.parametrize(
    ("default", "harm", "reason"),
    [
        ("nobody", None, r"no model 'nobody'.*There are m\."),
        ("", remove, "registry"),
        ("m", damage, "damaged"),
    ],
)
def test_why_it_is_not_ready(
    empty: Home, tmp_path: Path, kept: Callable[[Home], Path],
    default: str, harm: Callable[[Home], None] | None, reason: str,
) -> None:  # fmt: skip
    publish(empty, "m", forecaster(seed=1), tmp_path / "m")
    if harm is not None:
        harm(empty)
    log = kept(empty)
    app = application(empty, Settings.read({"models": {"default": default, "poll_s": 0.05}}))

    async def scenario() -> dict[str, str]:
        transport = httpx.ASGITransport(app)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
            app.router.lifespan_context(app),
            asyncio.timeout(20),
        ):
            while True:
                problem = (await client.get("/health/ready")).json()
                if "being loaded" not in problem["detail"]:
                    return problem
                await asyncio.sleep(0.02)

    problem = asyncio.run(scenario())
    assert problem["status"] == 503
    assert re.search(reason, problem["detail"])
    assert str(empty.folder) not in problem["detail"]
    assert log.read_text().count("not ready") == 1
    assert log.stat().st_mode & 0o077 == 0


def test_the_log_holds_no_words_of_an_exception(empty: Home, kept: Callable[[Home], Path]) -> None:
    """They may quote what a client sent."""
    log = kept(empty)
    try:
        raise ValueError("c4nary")
    except ValueError:
        logging.getLogger("serving.access").exception("request r1 failed")
    text = log.read_text()
    assert "c4nary" not in text.replace(r"raise ValueError(\"c4nary\")", "")
    assert "request r1 failed" in text
    assert "ValueError" in text


def test_every_request_is_a_line_under_its_id(
    empty: Home, tmp_path: Path, kept: Callable[[Home], Path]
) -> None:
    """Whoever reports a request id must be told what happened to it, and nobody else's words."""
    publish(empty, "m", forecaster(seed=1), tmp_path / "m")
    log = kept(empty)
    key = new_key(empty, "reader")
    app = application(empty, Settings.read({"jobs": {"at_once": 0}}))
    sent = {"X-Request-ID": "mine-1", "Authorization": f"Bearer {key}"}
    for running in listening(app):
        for path in ("/v1/models", "/v1/models/c4nary", "/c4nary"):
            running.client.get(path, headers=sent)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    asked = [line for line in lines if line.get("request_id") == "mine-1"]
    assert [(line["route"], line["status"]) for line in asked] == [
        ("/v1/models", 200), ("/v1/models/{name}", 404), (None, 404),
    ]  # fmt: skip
    assert {(line["method"], line["tenant"]) for line in asked[:2]} == {("GET", "ads")}
    assert asked[0]["key"] == prefix_of(key)
    assert "c4nary" not in log.read_text()
    assert key not in log.read_text()


def test_waiting_for_a_service_ends_with_the_reason() -> None:
    with pytest.raises(UnavailableError, match="It does not answer"):
        await_ready("http://127.0.0.1:9", seconds=0.2)


def test_a_wrong_default_is_told_to_who_names_no_model(empty: Home, tmp_path: Path) -> None:
    """ "Wait and repeat" would be obeyed for ever."""
    publish(empty, "m", forecaster(seed=1), tmp_path / "m")
    app = application(empty, Settings.read({"models": {"default": "nosuch"}}))
    for running in listening(app, ready=False):
        reply = running.post("/v1/forecasts", {"data": table(series()), "freq": "h"})
        assert (reply.status_code, reply.json()["type"]) == (503, "/problems/not-ready")
        detail = reply.json()["detail"]
        assert "There is no model 'nosuch'. There are m." in detail
        assert "models.default" in detail
        assert "waiting does not mend it" in detail


def test_a_service_without_a_model_says_so(empty: Home) -> None:
    for running in listening(application(empty, Settings()), ready=False):
        reply = running.post("/v1/forecasts", {"data": table(series()), "freq": "h"})
        assert reply.status_code == 503
        assert reply.json()["detail"].startswith("0 models are registered")
