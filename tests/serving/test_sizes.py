"""Sizes, stamps and ids at the edge: what the contract allows is answered, the next one is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from pipelines.home import Home
from serving.limits import MIB
from serving.settings import Settings
from tests.figures import Told
from tests.peaks import growth, peaks
from tests.serving.running import Running, application, listening, series, stamps, table
from tests.serving.streams import MEDIA
from tsformer.errors import ConfigError

HEADERS = {"content-type": "application/json"}
NAIVE = {"freq": "h", "model": "seasonal_naive"}


def long(points: int, *, ids: int = 1, **more: Any) -> dict[str, Any]:
    """Series of hours by their beginning, so that a body is not mostly stamps."""
    one = {"start": "2001-01-01T00:00:00", "y": [1.0, 2.0] * (points // 2) + [1.0] * (points % 2)}
    return {**NAIVE, "series": [{"unique_id": str(i), **one} for i in range(ids)], "h": 1, **more}


def levels(count: int) -> list[float]:
    return [round((i + 1) / 100, 2) for i in range(count)]


SHORT = {**NAIVE, "data": table(series(48))}
AT = {
    "a horizon of 4,096": SHORT | {"h": 4_096},
    "21 quantiles": SHORT | {"quantiles": levels(21)},
    "10,000 series": long(2, ids=10_000),
    "100,000 points": long(100_000),
    "an id of 128": SHORT | {"data": table(series(48), ids=["x" * 128])},
}
BEYOND = {
    "a horizon of 0": (SHORT | {"h": 0}, 422),
    "of -1": (SHORT | {"h": -1}, 422),
    "of 4,097": (SHORT | {"h": 4_097}, 422),
    "of 2^31": (SHORT | {"h": 2**31}, 422),
    "of 2^63": (SHORT | {"h": 2**63}, 422),
    "22 quantiles": (SHORT | {"quantiles": levels(22)}, 422),
    "10,001 series": (long(2, ids=10_001), 413),
    "100,001 points": (long(100_001), 413),
    "an id of 129": (SHORT | {"data": table(series(48), ids=["x" * 129])}, 422),
    "9 models": (SHORT | {"models": ["small"] * 9, "path": "/v1/compare"}, 422),
    "2,000 series of 4,096 steps": (long(2, ids=2_000, h=4_096), 413),
    "60 series of 4,096 steps and 21 quantiles": (
        long(2, ids=60, h=4_096, quantiles=levels(21)), 413,
    ),
    "800 series of 4,096 steps by a model and the baselines": (
        long(2, ids=800, h=4_096, models=["small"], path="/v1/compare"), 413,
    ),
}  # fmt: skip


def sent(service: Running, body: dict[str, Any]) -> tuple[int, float, float]:
    """The status, the seconds, and the MiB beyond the body that this process took."""
    path = body.get("path", "/v1/forecasts")
    body = {name: value for name, value in body.items() if name != "path"}
    if path == "/v1/compare":
        body.pop("model")
    content = orjson.dumps(body)
    service.client.post(path, content=b" " * len(content), headers=HEADERS)  # room for it
    before, start = peaks(), time.perf_counter()
    reply = service.client.post(path, content=content, headers=HEADERS)
    seconds = time.perf_counter() - start
    return reply.status_code, seconds, growth(before) - len(content) / MIB


def test_what_is_at_its_limit_is_answered_and_one_more_is_refused(
    service: Running, record_property: Told
) -> None:
    """B4: a limit that is off by one is a promise broken, one that is checked late a way to crash."""
    for case, body in AT.items():
        assert (case, sent(service, body)[0]) == (case, 200)
    slowest, most = (0.0, ""), (0.0, "")
    for case, (body, status) in BEYOND.items():
        found, seconds, grown = sent(service, body)
        assert (case, found) == (case, status)
        slowest, most = max(slowest, (seconds, case)), max(most, (grown, case))
    record_property(
        "B4",
        f"{len(AT)} at their limit: 200; {len(BEYOND)} beyond: 413 or 422, the slowest "
        f"({slowest[1]}) after {1000 * slowest[0]:.0f} ms, at most {most[0]:.0f} MiB ({most[1]})",
    )
    assert slowest[0] < 30  # half a second on a quiet machine, most of it to read the body
    assert most[0] <= 32


HOURS, DAYS = stamps(48), stamps(48, hours=24)
BERLIN = {"tz": "Europe/Berlin"}
GAP = stamps(60, start="2026-03-27T19:00:00")  # with 02:00 of 29 March, which is none
FOLD = stamps(48, start="2026-10-24T10:00:00")  # with 02:00 of 25 October once, of which are two


def hourly(ds: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "model": "seasonal_naive",
        "freq": "h",
        "h": 2,
        "data": {"ds": ds, "y": series(len(ds))},
        **more,
    }


STAMPS = {
    "year 1": (hourly(["0001-01-01T00:00:00", *HOURS[1:]]), "timestamp_out_of_range"),
    "year 9999 and a step": (hourly([*HOURS[:-1], "9999-12-31T23:00:00"]), "timestamp_out_of_range"),
    "year 99999": (hourly([*HOURS[:-1], "99999-01-01T00:00:00"]), "timestamp_invalid"),
    "10^18 as an epoch": (hourly([10**18 + i for i in range(48)]), "timestamp_invalid"),
    "a second of 60": (hourly([*HOURS[:-1], "2026-01-02T23:59:60"]), "timestamp_invalid"),
    "25 o'clock": (hourly([*HOURS[:-1], "2026-01-02T25:00:00"]), "timestamp_invalid"),
    "twice": (hourly([*HOURS[:-1], HOURS[0]]), "duplicate_timestamp"),
    "zones of two kinds": (hourly([*(f"{s}Z" for s in HOURS[:24]), *HOURS[24:]]), "mixed_offsets"),
    "in a gap of the clock": (hourly(GAP, **BERLIN), "nonexistent_time"),
    "an hour that is twice, once": (hourly(FOLD, **BERLIN), "ambiguous_time"),
    "an irregular step": (hourly([*HOURS[:-1], "2026-01-03T00:30:00"]), "off_grid"),
    "a day missing": (hourly([*DAYS[:20], *DAYS[21:]], freq="D"), "gap"),
    "unsorted": (hourly(HOURS[::-1]), None),
    "days over a clock change": (hourly(stamps(48, start="2026-03-01", hours=24), freq="D", **BERLIN), None),
}  # fmt: skip
IDS = {
    "empty": ("", "id_invalid"),
    "NUL": ("a\x00b", "id_invalid"),
    "a line break": ("a\nb", "id_invalid"),
    "129 letters": ("x" * 129, "id_invalid"),
    "128 letters": ("x" * 128, None),
    "right to left": ("\u202eabc", None),
    "composed": ("\u00e9", None),
    "decomposed": ("e\u0301", None),
    "a path": ("../../x", None),
    "blanks": (" a ", None),
    "beyond the plane": ("\U0001f600", None),
}


def test_every_stamp_and_id_has_its_documented_answer(
    service: Running, record_property: Told
) -> None:
    """B5: a date that is read as another one shifts a forecast, and nobody sees why."""
    answered = 0
    for case, (body, code) in STAMPS.items():
        reply = service.post("/v1/forecasts", body)
        found = None if reply.is_success else reply.json()["errors"][0].get("code")
        assert (case, found, reply.status_code) == (case, code, 200 if code is None else 422)
        answered += reply.is_success
    for case, (name, code) in IDS.items():
        body = {**NAIVE, "h": 1, "data": table(series(30), ids=[name])}
        reply = service.post("/v1/forecasts", body)
        found = None if reply.is_success else reply.json()["errors"][0].get("code")
        assert (case, found) == (case, code)
        answered += reply.is_success
    good = [name for name, code in IDS.values() if code is None]
    body = {
        **NAIVE,
        "h": 1,
        "data": table(*(series(30, seed=i) for i in range(len(good))), ids=good),
    }
    assert service.post("/v1/forecasts", body).json()["forecast"]["unique_id"] == good
    record_property(
        "B5",
        f"{len(STAMPS)} kinds of stamps and {len(IDS)} of ids: {answered} answered, the others 422 by "
        f"their code; {len(good)} ids of one request came back byte for byte and in order",
    )


@pytest.mark.parametrize("media", ["application/vnd.apache.parquet", "application/x-parquet"])
def test_no_route_reads_parquet(service: Running, media: str) -> None:
    """B8: its declared size hides what it unpacks to."""
    for path in ("/v1/forecasts", "/v1/datasets", "/v1/actuals", "/invocations"):
        reply = service.client.post(path, content=b"PAR1", headers={"content-type": media})
        assert reply.status_code == 415
    parquet = service.client.post(
        "/v1/forecasts", content=b"PAR1" * 9, headers={"content-type": MEDIA}
    )
    assert parquet.status_code == 400


def test_what_is_too_long_for_an_id_is_not_repeated(service: Running) -> None:
    """A refusal of 20 kB for each fault would be work that a caller makes for nothing."""
    body = SHORT | {"data": table(series(48), ["many", *series(47)], ids=["x", "y" * 20_000])}
    for options in ({}, {"on_invalid": "skip"}):
        reply = service.post("/v1/validations", body | {"options": options})
        assert len(reply.content) < 22_000, "the entry of the series alone may name it"
        assert len(service.post("/v1/forecasts", body | {"options": {}}).content) < 2_000


@pytest.fixture
def terse(empty: Home) -> Iterator[Running]:
    """A service whose ids have 16 characters."""
    settings = Settings.read({"limits": {"id_length": 16}, "jobs": {"at_once": 0}})
    yield from listening(application(empty, settings), ready=False)


def test_ids_are_as_long_as_the_settings_say(terse: Running) -> None:
    """A limit that is set and does nothing is a promise that nobody keeps."""
    body = {**NAIVE, "h": 1, "data": table(series(48), series(48), ids=["x" * 16, "y" * 17])}
    for path, sent in (("forecasts", body), ("actuals", {"data": body["data"]})):
        (error,) = terse.post(f"/v1/{path}", sent).json()["errors"]
        assert (error["code"], error["pointer"]) == ("id_invalid", "/data/unique_id/48")
        assert "at most 16 characters" in error["message"]
    with pytest.raises(ConfigError, match="'id_length' must be at most 128"):
        Settings.read({"limits": {"id_length": 129}})
