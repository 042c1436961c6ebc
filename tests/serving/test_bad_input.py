"""Bad input over HTTP: a problem that names the place, never a 500, never an echo."""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.forecaster import Forecaster
from pipelines.frequency import EXAMPLES
from pipelines.home import Home
from serving.limits import MIB
from serving.settings import Settings
from tests.figures import Told
from tests.peaks import growth, peaks
from tests.serving.running import (
    CONTEXT,
    Running,
    application,
    listening,
    publish,
    series,
    stamps,
    table,
)

CANARY = "c4nary-7d1f"
HOURS = stamps(60)


def data(**columns: list[Any]) -> dict[str, Any]:
    return {"data": {"ds": HOURS, "y": series(60), **columns}, "freq": "h"}


def changed(values: list[Any], row: int, value: object) -> list[Any]:
    return [*values[:row], value, *values[row + 1 :]]


HALF_HOURS = stamps(60, hours=2)
BAD_DATA = {
    "no time": ({"data": {"y": [1.0]}}, "missing_column", "/data"),
    "no target": ({"data": {"ds": HOURS}}, "missing_column", "/data"),
    "no id of the name that is said": (
        {"data": {"shop": ["a"], "ds": HOURS[:1], "y": [1.0]}, "columns": {"id": "store"}},
        "missing_column", "/data",
    ),
    "no rows": ({"data": {"ds": [], "y": []}}, "insufficient_history", "/data"),
    "two lengths": (data(y=[1.0]), "length_mismatch", "/data/y"),
    "two lengths in another column": (data(z=[1.0]), "length_mismatch", "/data/z"),
    "text as value": (data(y=changed(series(60), 7, CANARY)), "non_numeric", "/data/y/7"),
    "all values text": (data(y=["5"] * 60), "non_numeric", "/data/y/0"),
    "true as value": (data(y=changed(series(60), 7, True)), "non_numeric", "/data/y/7"),
    "no date": (data(ds=changed(HOURS, 3, CANARY)), "timestamp_invalid", "/data/ds/3"),
    "a number as date": (data(ds=changed(HOURS, 3, 5)), "timestamp_invalid", "/data/ds/3"),
    "an id of 2^64-1": (data(unique_id=[2**64 - 1] * 60), "id_invalid", "/data/unique_id/0"),
    "a step of 2^70": (data(ds=[*range(59), 2**70]), "timestamp_out_of_range", "/data/ds/59"),
    "year 9999": (data(ds=changed(HOURS, 3, "9999-12-31T00:00:00")), "timestamp_out_of_range",
                  "/data/ds/3"),
    "an empty id": (data(unique_id=[""] * 60), "id_invalid", "/data/unique_id/0"),
    "an id of 129": (data(unique_id=["x" * 129] * 60), "id_invalid", "/data/unique_id/0"),
    "a control character": (data(unique_id=["a\x00b"] * 60), "id_invalid", "/data/unique_id/0"),
    "an id of a half": (data(unique_id=[0.5] * 60), "id_invalid", "/data/unique_id/0"),
    "ids of two kinds": (data(unique_id=[1] * 30 + ["1"] * 30), "id_invalid",
                         "/data/unique_id/30"),
    "a row twice": (data(ds=changed(HOURS, 9, HOURS[8])), "duplicate_timestamp", "/data/ds/9"),
    "a gap": (data(ds=HOURS[:30] + stamps(61)[31:]), "gap", "/data/ds/30"),
    "off the grid": (data(ds=changed(HOURS, 59, "2026-01-03T11:30:00")), "off_grid",
                     "/data/ds/59"),
    "all missing": (data(y=[None] * 60), "all_missing", "/data/y"),
    "one point without freq": ({"data": {"ds": HOURS[:1], "y": [1.0]}}, "frequency_unknown",
                               "/data"),
    "mixed frequencies": (
        {"data": {"unique_id": ["a"] * 60 + ["b"] * 60, "ds": HOURS + HALF_HOURS,
                  "y": series(120)}},
        "frequency_mixed", "/data",
    ),
    "offsets of two kinds": (data(ds=[f"{s}+01:00" for s in HOURS[:30]]
                                  + [f"{s}+02:00" for s in HOURS[30:]]), "mixed_offsets",
                             "/data/ds"),
}  # fmt: skip

MEBI = 1024 * 1024
HOSTILE = {
    "depth 33": (b'{"data": {"y": ' + b"[" * 33 + b"]" * 33 + b"}}", 400),
    "depth 500": (b"[" * 500 + b"]" * 500, 400),
    "depth 5 million": (b"[" * 5_000_000, 400),
    "8 MiB of []": (b'{"data": {"y": [' + b"[]," * (8 * MEBI // 3) + b"[]]}}", 422),
    "an integer of 5,000 digits": (b'{"data": {}, "h": ' + b"9" * 5_000 + b"}", 422),
    "100,000 wrong cells": (b'{"data": {"y": [' + b"{}," * 99_999 + b"{}]}}", 422),
    "NaN": (b'{"data": {"y": [NaN]}}', 400),
    "1e999": (b'{"data": {"y": [1e999]}}', 422),
    "a lone surrogate": (b'{"data": {"y": ["\\ud800"]}}', 400),
    "a member twice": (b'{"data": {"y": [1]}, "h": 1, "h": 2}', 422),
    "h of true": (b'{"data": {"y": [1]}, "h": true}', 422),
    "h of text": (b'{"data": {"y": [1]}, "h": "5"}', 422),
    "h of 1e3": (b'{"data": {"y": [1]}, "h": 1e3}', 422),
}


def test_hostile_json_is_refused_soon_and_shortly(service: Running, record_property: Told) -> None:
    """B3: a megabyte of brackets must cost neither memory nor time, nor an answer as long."""
    seconds, lengths, grown = {}, list[int](), dict[str, float]()
    headers = {"content-type": "application/json"}
    service.client.post("/v1/forecasts", content=b" " * 8 * MEBI, headers=headers)  # room for one
    for case, (content, status) in HOSTILE.items():
        peaks()  # what was before is forgotten
        before, started = peaks(), time.perf_counter()
        reply = service.client.post("/v1/forecasts", content=content, headers=headers)
        seconds[case] = time.perf_counter() - started
        grown[case] = growth(before) - len(content) / MEBI  # of which the client has one
        lengths.append(len(reply.content))
        assert (case, reply.status_code) == (case, status)
    slowest = max(seconds, key=lambda case: seconds[case])
    record_property(
        "B3",
        f"{len(HOSTILE)} bodies: 400 or 422, the slowest ({slowest}) after "
        f"{1000 * seconds[slowest]:.0f} ms, at most {max(lengths)} bytes, {max(grown.values()):.0f} MiB more",
    )
    assert max(lengths) <= 2_048
    assert max(grown.values()) <= 16
    assert seconds[slowest] < 5  # 0.15 s on a quiet machine


BAD_REQUESTS = {
    "h beyond the limit": (data() | {"h": 4097}, 422, "/h"),
    "h of 2^63": (data() | {"h": 2**63}, 422, "/h"),
    "unknown model": (data() | {"model": "nobody"}, 404, "/model"),
    "unknown version": (data() | {"model": "small/99"}, 404, "/model"),
    "unknown alias": (data() | {"model": "small@nobody"}, 404, "/model"),
    "reference with a path": (data() | {"model": "../../etc/passwd"}, 422, "/model"),
    "unknown frequency": (data() | {"freq": CANARY}, 422, "/freq"),
    "unknown zone": (data() | {"tz": CANARY}, 422, "/tz"),
    "22 quantiles": (data() | {"quantiles": [i / 100 for i in range(1, 23)]}, 422, "/quantiles"),
    "a level the model lacks": (data() | {"quantiles": [0.001]}, 422, "/quantiles"),
    "a step the model lacks": (data(ds=HALF_HOURS) | {"freq": "2h"}, 422, None),
    "too many columns": ({"data": {f"c{i}": [] for i in range(513)}}, 422, "/data"),
}


@pytest.mark.parametrize(("body", "code", "pointer"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_are_named_with_their_place(
    service: Running, body: dict[str, Any], code: str, pointer: str
) -> None:
    reply = service.post("/v1/forecasts", body)
    problem = reply.json()
    assert (reply.status_code, problem["status"]) == (422, 422)
    assert (problem["errors"][0]["code"], problem["errors"][0]["pointer"]) == (code, pointer)
    assert reply.headers["content-type"] == "application/problem+json"
    assert CANARY not in reply.text
    assert "Traceback" not in reply.text


@pytest.mark.parametrize(("body", "status", "pointer"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_requests_are_named_with_their_place(
    service: Running, body: dict[str, Any], status: int, pointer: str | None
) -> None:
    reply = service.post("/v1/forecasts", body)
    problem = reply.json()
    assert (reply.status_code, problem["status"]) == (status, status)
    assert [item.get("pointer") for item in problem["errors"]] == ([pointer] if pointer else [])
    assert CANARY not in reply.text
    assert problem["detail"]


LEVELS = "Quantile levels between 0 and 1 (excluded), 0.1 and 0.9 for 10 and 90 percent; "
STEPS = f"One step of the series: {EXAMPLES}, or an integer where ds counts steps."
UNKNOWN = "There are small. Built in are seasonal_naive, linear, last_value, ets, theta, sarimax."
TOLD: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "percent as levels": ("forecasts", {"quantiles": [10, 90]}, "/quantiles/0", LEVELS),
    "a level of 0": ("forecasts", {"quantiles": [0]}, "/quantiles/0", LEVELS),
    "a level of 1": ("forecasts", {"quantiles": [0.5, 1]}, "/quantiles/1", LEVELS),
    "levels as text": ("forecasts", {"quantiles": ["0.1"]}, "/quantiles/0", LEVELS),
    "no list of levels": ("validations", {"quantiles": 0.9}, "/quantiles", LEVELS),
    "a share as level": ("anomalies", {"detect": {"level": 0.99, "last": 3}}, "/detect/level",
                         "99, not 0.99."),
    "a level of 100": ("anomalies", {"detect": {"level": 100, "last": 3}}, "/detect/level",
                       "99, not 0.99."),
    "an unknown model": ("forecasts", {"model": "nobody"}, "/model", UNKNOWN),
    "unknown models": ("compare", {"models": ["small", "nobody"]}, "/models/1", UNKNOWN),
    "a list as step": ("forecasts", {"freq": ["h"]}, "/freq", STEPS),
    "half a step": ("forecasts", {"freq": 0.5}, "/freq", STEPS),
    "a list as new step": ("forecasts", {"options": {"resample": {"freq": ["h"]}}},
                           "/options/resample/freq", STEPS),
    "numbers alone": ("forecasts", {"data": [1.0, 2.0]}, "/data/0", 'as {"ds": [...], "y": [...]}'),
    "the name of a file": ("forecasts", {"data": "a.csv"}, "/data", 'as {"ds": [...], "y": [...]}'),
    "an id beyond 64 bits": ("forecasts", data(unique_id=[2**64 - 1] * 60), "/data/unique_id/0",
                             "Send such ids as text."),
    "numbers in quotes": ("forecasts", data(y=["1.5"] * 60), "/data/y/0", "without quotes"),
    "two series without ids": ("forecasts", {"data": {"ds": HOURS * 2, "y": series(120)}},
                               "/data/ds/60", "tell the series apart by their ids."),
    "seconds since 1970": ("forecasts", data(ds=[1_700_000_000 + 3_600 * n for n in range(60)]),
                           "/data", "Give both of one kind"),
    "nothing to judge": ("anomalies", {}, "", '{"last": 48, "level": 99}'),
    "no name of a model": ("forecasts", {"model": "my model"}, "/model", "`name@alias`"),
    "no name among models": ("compare", {"models": ["my model"]}, "/models/0", "`name@alias`"),
}  # fmt: skip


@pytest.mark.parametrize(("route", "more", "pointer", "told"), TOLD.values(), ids=TOLD)
def test_a_wrong_field_is_told_with_what_should_stand_there(
    service: Running, route: str, more: dict[str, Any], pointer: str, told: str
) -> None:
    """`less than 1` and `a valid string` leave a newcomer where he was."""
    (item,) = service.post(f"/v1/{route}", data() | more).json()["errors"]
    assert item["pointer"] == pointer
    assert told in item["message"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "The body is empty."),
        (b"{'h': 1}", "(line 1, column 2). Text and names stand in double quotes."),
        (b'{"h": 1,\n}', "(line 2, column 1)."),
    ],
)
def test_what_is_not_json_is_told_with_its_place(service: Running, body: bytes, told: str) -> None:
    headers = {"content-type": "application/json"}
    reply = service.client.post("/v1/forecasts", content=body, headers=headers)
    assert reply.status_code == 400
    assert told in reply.json()["detail"]


@pytest.mark.parametrize("kind", ["forecast", "backtest"])
def test_levels_of_jobs_are_told_alike(service: Running, kind: str) -> None:
    spec: dict[str, Any] = (
        data() if kind == "forecast" else {"dataset": "d", "models": ["m"], "h": 1}
    )
    order = {"type": kind, "spec": spec | {"quantiles": [10, 90]}}
    (item,) = service.post("/v1/jobs", order).json()["errors"]
    assert item["pointer"] == "/spec/quantiles/0"
    assert LEVELS in item["message"]


def test_the_limit_of_the_horizon_is_named(service: Running) -> None:
    problem = service.post("/v1/forecasts", data() | {"h": 5000}).json()
    assert problem["errors"][0]["message"] == "At most 4096 steps are forecast here."


def test_one_point_with_a_frequency_gets_the_fallback(service: Running) -> None:
    reply = service.post(
        "/v1/forecasts", {"data": {"ds": HOURS[:1], "y": [3.5]}, "freq": "h", "h": 2}
    )
    assert reply.json()["forecast"]["mean"] == [3.5, 3.5]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/csv"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-encoding": "br"}, 415),
        ({"x-request-timeout-ms": "soon"}, 400),
        ({"x-request-timeout-ms": "0"}, 400),
    ],
)
def test_headers_that_cannot_be_read(
    service: Running, headers: dict[str, str], status: int
) -> None:
    headers = {"content-type": "application/json", **headers}
    reply = service.client.post("/v1/forecasts", content=b'{"data": {}}', headers=headers)
    assert (reply.status_code, reply.json()["status"]) == (status, status)


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_a_body_over_its_limit_is_refused(service: Running, declared: bool) -> None:
    """B1: counted while it is read, so a body without a length gains nothing."""
    chunk = b" " * 1024 * 1024
    content = chunk * 33 if declared else (chunk for _ in range(33))
    headers = {"content-type": "application/json"}
    reply = service.client.post("/v1/forecasts", content=content, headers=headers)
    assert reply.status_code == 413
    assert {"limit": "body_json_mib", "maximum": 32}.items() <= reply.json().items()


def test_more_series_than_allowed_are_too_large(service: Running) -> None:
    ids = [str(i) for i in range(10_001)]
    body = {"data": {"unique_id": ids, "ds": [HOURS[0]] * 10_001, "y": [1.0] * 10_001}}
    reply = service.post("/v1/forecasts", body)
    assert reply.status_code == 413
    assert reply.json()["limit"] == "series_per_request"


def test_every_fault_is_counted_and_twenty_are_listed(service: Running) -> None:
    body = {"data": table(*([None] * 3 for _ in range(30))), "freq": "h"}
    problem = service.post("/v1/forecasts", body).json()
    assert (len(problem["errors"]), problem["error_count"], problem["truncated"]) == (20, 30, True)


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/nope", 404),
    ("GET", "/v1/forecasts", 405),
    ("DELETE", "/v1/models", 405),
    ("GET", "/v1/models/..%2f", 404),
    ("GET", "/v1/models/a b", 422),
    ("GET", "/v1/models?limit=x", 422),
    ("GET", "/v1/models/small/versions/x", 422),
])  # fmt: skip
def test_what_is_not_there_is_a_problem(
    service: Running, method: str, path: str, status: int
) -> None:
    reply = service.client.request(method, path)
    assert (reply.status_code, reply.json()["status"]) == (status, status)
    assert reply.headers["content-type"] == "application/problem+json"
    assert ("allow" in reply.headers) == (status == 405)


def test_a_client_can_shorten_its_deadline(service: Running) -> None:
    """L4: at the deadline the answer is 504, whatever runs."""
    large = {"data": table(*(series(CONTEXT, seed=i) for i in range(1_000))), "freq": "h"}
    reply = service.post("/v1/forecasts", large, **{"X-Request-Timeout-Ms": "1"})
    assert reply.status_code == 504
    assert reply.json()["type"] == "/problems/deadline-exceeded"


def test_bodies_that_are_together_too_much_are_refused_until_others_are_answered(
    home: Home,
) -> None:
    """A hundred honest callers at once must not take all of the memory either."""
    settings = Settings.read(
        {
            "models": {"default": "small"},
            "jobs": {"at_once": 0},
            "limits": {"bodies_in_flight_mib": 1},
        }
    )
    for running in listening(application(home, settings)):
        large = {"data": table(*(series(seed=i) for i in range(400))), "freq": "h"}
        reply = running.post("/v1/forecasts", large)
        assert reply.status_code == 503
        assert reply.headers["Retry-After"] == "2"
        assert reply.json()["limit"] == "bodies_in_flight_mib"
        packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        bomb = gzip.compress(b"0" * 8 * MIB)
        reply = running.client.post("/v1/forecasts", content=bomb, headers=packed)
        assert (reply.status_code, reply.json()["limit"]) == (503, "bodies_in_flight_mib")
        for _ in range(30):  # what was refused or answered is held no longer
            body = {"data": table(*(series(seed=i) for i in range(20))), "freq": "h"}
            assert running.post("/v1/forecasts", body).status_code == 200
        assert running.app.state.service.bodies.held == 0


LONG = "z" * 20_000
LONG_NAMES = {
    "columns": {"data": {"ds": HOURS, "y": series(60), LONG: [1.0]}},
    "columns with a strange cell": {"data": {"ds": HOURS, "y": series(60), LONG: [{}]}},
    "columns that are right": {"data": {"ds": HOURS, "y": series(60), LONG: [1.0] * 60}},
    "records": {"data": [{"ds": HOURS[0], "y": 1.0, LONG: {}}]},
    "series": {"series": [{"start": HOURS[0], "y": series(60), "covariates": {LONG: [1.0]}}]},
    "attributes": {"data": {"ds": HOURS, "y": series(60)}, "static": {LONG: [{}]}},
    "many": {"data": {"ds": HOURS, "y": series(60)} | {f"{i}{LONG}": [1.0] for i in range(25)}},
}


@pytest.mark.parametrize("body", LONG_NAMES.values(), ids=LONG_NAMES)
def test_a_long_name_makes_no_long_refusal(service: Running, body: dict[str, Any]) -> None:
    """Law 10: a column of 5 MB in its name was answered with 5 MB."""
    reply = service.post("/v1/forecasts", {**body, "freq": "h"})
    assert reply.status_code == 422
    assert len(reply.content) < 16_384
    problem = reply.json()
    assert problem["errors"]
    for item in problem["errors"]:
        assert LONG not in item["pointer"]
        place: Any = body
        for part in item["pointer"].split("/")[1:]:
            place = place[int(part) if isinstance(place, list) else part]


@pytest.mark.parametrize("route", ["forecasts", "compare", "anomalies"])
@pytest.mark.parametrize("role", ["id", "time"])
def test_no_column_of_the_client_is_hidden_by_a_quantile(
    service: Running, route: str, role: str
) -> None:
    """An id called q0.1 was left out of the answer without a word."""
    own = {"id": "unique_id", "time": "ds"}[role]
    told = {"unique_id": ["a"] * 60, "ds": HOURS, "y": series(60)}
    more: dict[str, Any] = {
        "compare": {"models": ["linear"]},
        "anomalies": {"detect": {"last": 2}},
    }.get(route, {})
    body = {
        "data": {"q0.1" if name == own else name: cells for name, cells in told.items()},
        "columns": {role: "q0.1"},
        "quantiles": [0.1],
        "freq": "h",
        **more,
    }
    reply = service.post(f"/v1/{route}", body)
    assert reply.status_code == 422
    assert [item["pointer"] for item in reply.json()["errors"]] == [f"/columns/{role}"]


def test_how_much_is_listed_is_a_setting(home: Home) -> None:
    limits = {"errors_listed": 3, "warnings_listed": 2}
    settings = {"models": {"default": "small"}, "jobs": {"at_once": 0}, "limits": limits}
    for running in listening(application(home, Settings.read(settings))):
        faults = {"data": table(*([None] * 3 for _ in range(5))), "freq": "h"}
        told = running.post("/v1/forecasts", faults).json()
        assert (len(told["errors"]), told["error_count"], told["truncated"]) == (3, 5, True)
        short = {"data": table(*([1.0] * 5 for _ in range(4))), "freq": "h", "model": "small"}
        answer = running.post("/v1/forecasts", short).json()
        assert (len(answer["warnings"]), answer["warnings_truncated"]) == (2, True)


def test_who_names_no_model_of_several_hears_that(
    empty: Home, model: Forecaster, tmp_path: Path
) -> None:
    """The service told its callers to wait, which never helps."""
    for name in ("m", "n"):
        publish(empty, name, model, tmp_path / name)
    for running in listening(application(empty, Settings.read({"jobs": {"at_once": 0}}))):
        body = {"data": table(series()), "freq": "h"}
        for path, sent, pointer in (
            ("/v1/forecasts", body, "/model"),
            ("/v1/jobs", {"type": "forecast", "spec": body}, "/spec/model"),
        ):
            reply = running.post(path, sent)
            assert reply.status_code == 422, reply.text
            (item,) = reply.json()["errors"]
            assert item["pointer"] == pointer
            assert "2 models are registered" in item["message"]
        assert running.post("/v1/forecasts", {**body, "model": "n"}).status_code == 200
