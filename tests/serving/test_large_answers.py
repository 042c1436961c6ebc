"""A small question with a large answer: others are answered while it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from serving import arrow_answers
from serving.limits import MIB
from tests.serving.running import Running, series, table
from tests.serving.streams import MEDIA

FAR = {"freq": "h", "h": 4_096}
MANY = table(*(series(48, seed=seed) for seed in range(50)))
LONG = [{"unique_id": n, "start": "2001-01-01", "y": [1.0, 2.0, 4.0] * 1_700} for n in range(10)]
FRAME = {"columns": [*MANY], "data": [list(row) for row in zip(*MANY.values(), strict=True)]}
ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "forecasts": ("/v1/forecasts", {**FAR, "data": MANY, "model": "seasonal_naive"}),
    "compare": ("/v1/compare", {**FAR, "data": MANY, "models": ["seasonal_naive"]}),
    "anomalies": (
        "/v1/anomalies",
        {"series": LONG, "freq": "h", "model": "linear", "detect": {"last": 5_000, "h": 1_000}},
    ),
    "invocations": (
        "/invocations",
        {"dataframe_split": FRAME, "params": {**FAR, "model": "seasonal_naive"}},
    ),
}


FRAMES = {**FAR, "data": table(*(series(20, seed=seed) for seed in range(50)))}
ASKS["future-frames"] = ("/v1/future-frames", {**FRAMES, "model": "seasonal_naive"})
FORMS = {
    **{f"{name} in JSON": (*ask, "application/json") for name, ask in ASKS.items()},
    **{f"{name} in Arrow": (*ASKS[name], MEDIA) for name in ("forecasts", "compare", "anomalies")},
}


@pytest.mark.parametrize(("path", "body", "media"), FORMS.values(), ids=FORMS)
def test_a_large_answer_is_not_written_on_the_loop(
    service: Running, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], media: str
) -> None:
    """A comparison of 4 million numbers stopped all others, the probes too, for 11 s."""
    written = list[tuple[int, bool]]()

    def watched(write: Callable[..., bytes]) -> Callable[..., bytes]:
        def watching(*args: Any, **kwargs: Any) -> bytes:
            answer = write(*args, **kwargs)
            written.append((len(answer), asyncio._get_running_loop() is not None))
            return answer

        return watching

    monkeypatch.setattr(orjson, "dumps", watched(orjson.dumps))
    monkeypatch.setattr(arrow_answers, "encode", watched(arrow_answers.encode))
    content = orjson.dumps(body)
    assert len(content) < MIB
    written.clear()
    headers = {"content-type": "application/json", "accept": media}
    reply = service.client.post(path, content=content, headers=headers)
    assert reply.status_code == 200, reply.text
    size, on_loop = max(written)
    assert size > MIB / 4
    assert not on_loop
