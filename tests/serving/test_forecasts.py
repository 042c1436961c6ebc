"""POST /v1/forecasts: the numbers of the library, in the client's order, whatever the neighbours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.panel import read_panel
from pipelines.schema import Schema
from serving.settings import Settings
from tests.figures import Told
from tests.serving.running import (
    CONTEXT,
    HORIZON,
    Running,
    application,
    listening,
    series,
    stamps,
    table,
)

LEVELS = [0.1, 0.5, 0.9]


def numbers(answer: dict[str, Any], name: object = "s0", column: str = "mean") -> np.ndarray:
    forecast = answer["forecast"]
    return np.array(
        [v for v, i in zip(forecast[column], forecast["unique_id"], strict=True) if i == name]
    )


def ask(service: Running, **body: Any) -> dict[str, Any]:
    reply = service.post("/v1/forecasts", {"freq": "h", **body})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_the_service_gives_the_numbers_of_the_library(service: Running, model: Forecaster) -> None:
    data = table(series(), series(200, seed=1))
    schema = Schema(id="unique_id", time="ds", targets=("y",))
    panel, _ = read_panel(pl.DataFrame(data), schema=schema, freq="h")
    expected = model.predict(panel, levels=LEVELS).table
    forecast = ask(service, data=data, quantiles=LEVELS)["forecast"]
    assert list(forecast) == ["unique_id", "ds", "mean", "q0.1", "q0.5", "q0.9"]
    assert forecast["ds"] == expected["ds"].dt.strftime("%Y-%m-%dT%H:%M:%S").to_list()
    for name in ("mean", "q0.1", "q0.5", "q0.9"):
        np.testing.assert_allclose(forecast[name], expected[name], rtol=1e-12)


def test_a_series_alone_and_among_64_gives_the_same(
    service: Running, home: Home, record_property: Told
) -> None:
    """D7: a tenant's numbers must not depend on who else asks, nor on who answers."""
    alone = numbers(ask(service, data=table(series())))
    assert np.array_equal(alone, numbers(ask(service, data=table(series()))))
    settings = Settings.read({"models": {"default": "small"}, "jobs": {"at_once": 0}})
    for other in listening(application(home, settings)):  # as after a restart, or the next replica
        assert np.array_equal(alone, numbers(ask(other, data=table(series()))))
    many = table(*(series(seed=i) for i in range(64)))
    together = numbers(ask(service, data=many))
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    with ThreadPoolExecutor(16) as pool:
        bodies = [table(series(seed=i)) for i in range(64)]
        answers = list(pool.map(lambda data: ask(service, data=data), bodies))
    np.testing.assert_allclose(numbers(answers[0]), alone, rtol=1e-5)
    apart = max(np.abs(each / alone - 1).max() for each in (together, numbers(answers[0])))
    record_property("D7", f"loaded anew: bit-identical; among 64: {apart:.0e} relative")


def test_order_and_ids_come_back_byte_for_byte(service: Running) -> None:
    ids = ["\u00e9", "e\u0301", "1", "../x", "Ω 😀", "0" * 128]
    data = table(*(series(30, seed=i) for i in range(len(ids))), ids=ids)
    answer = ask(service, data=data, h=2)
    assert answer["forecast"]["unique_id"] == [name for name in ids for _ in range(2)]
    assert [entry["unique_id"] for entry in answer["series"]] == ids
    integers = ask(service, data=table(series(30), series(30), ids=[7, -3]), h=1)
    assert integers["forecast"]["unique_id"] == [7, -3]


def test_shuffled_rows_change_nothing(service: Running) -> None:
    data = table(series(50), series(60, seed=1))
    order = np.random.default_rng(0).permutation(110)
    shuffled = {name: [cells[i] for i in order] for name, cells in data.items()}
    first, second = ask(service, data=data), ask(service, data=shuffled)
    for name in ("s0", "s1"):
        assert np.array_equal(numbers(first, name), numbers(second, name))


def test_a_shorter_horizon_is_a_prefix(service: Running) -> None:
    whole = ask(service, data=table(series()))
    short = ask(service, data=table(series()), h=5)
    assert np.array_equal(numbers(short), numbers(whole)[:5])
    assert (whole["h"], whole["series"][0]["method"]) == (HORIZON, "direct")
    assert (short["h"], short["series"][0]["method"]) == (5, "prefix")


def test_only_the_context_counts(service: Running) -> None:
    """Law 6: what lies before the context, and leading nulls, change nothing."""
    y = series(CONTEXT + 40)
    expected = numbers(ask(service, data=table(y)))
    other = [1e6] * 40 + y[40:]
    assert np.array_equal(expected, numbers(ask(service, data=table(other))))
    leading = ask(service, data=table([None] * 20 + y[:50]))
    assert leading["series"][0]["status"] == "ok"
    bare = {"unique_id": ["s0"] * 50, "ds": stamps(70)[20:], "y": y[:50]}
    assert np.array_equal(numbers(leading), numbers(ask(service, data=bare)))


def test_one_series_needs_no_id_and_columns_can_have_any_name(service: Running) -> None:
    names = {"id": "shop", "time": "when", "target": "sold"}
    data = {"when": stamps(60), "sold": series(60)}
    forecast = ask(service, data=data, columns=names, h=1)["forecast"]
    assert list(forecast) == ["shop", "when", "mean"]
    assert forecast["shop"] == ["0"]


def test_local_days_come_back_with_their_offsets(service: Running) -> None:
    """Hours across the clock change of 2026-03-29 in Berlin: 02:00 does not exist."""
    y = series(30)
    first = stamps(30, start="2026-03-27T19:00:00")
    answer = ask(service, data={"ds": first, "y": y}, tz="Europe/Berlin", h=2)
    assert answer["series"][0]["context_end"] == "2026-03-29T00:00:00+01:00"
    assert answer["forecast"]["ds"] == ["2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"]


def test_the_frequency_is_inferred_and_reported(service: Running) -> None:
    answer = ask(service, data=table(series()), freq=None)
    assert answer["freq"] == "h"
    assert [warning["code"] for warning in answer["warnings"]] == ["frequency_inferred"]


def test_skip_names_the_bad_and_forecasts_the_others(service: Running) -> None:
    good, doubled, empty = table(series()), table(series(), ids=["bad"]), [None] * 30
    doubled["ds"][5] = doubled["ds"][4]
    data = {name: [*good[name], *doubled[name]] for name in good}
    for name, cells in table(empty, ids=["empty"]).items():
        data[name] += cells
    answer = ask(service, data=data, options={"on_invalid": "skip"})
    assert [e["status"] for e in answer["series"]] == ["ok", "invalid", "invalid"]
    assert [e["rows"] for e in answer["series"]] == [HORIZON, 0, 0]
    assert answer["series"][1]["errors"][0]["pointer"] == f"/data/ds/{CONTEXT + 5}"
    assert np.array_equal(numbers(answer), numbers(ask(service, data=good)))
    refused = service.post("/v1/forecasts", {"data": data, "freq": "h"})
    assert refused.status_code == 422
    problem = refused.json()
    assert problem["type"] == "/problems/invalid-data"
    assert [(e["unique_id"], e["code"]) for e in problem["errors"]] == [
        ("bad", "duplicate_timestamp"),
        ("bad", "gap"),
        ("empty", "all_missing"),
    ]


def test_skip_with_nothing_left_is_an_empty_answer(service: Running) -> None:
    answer = ask(service, data=table([None] * 30), options={"on_invalid": "skip"})
    assert answer["forecast"]["mean"] == []
    assert answer["series"][0]["status"] == "invalid"


def test_a_fallback_is_labelled(service: Running) -> None:
    answer = ask(service, data=table(series(), series(10)), h=3)
    short = answer["series"][1]
    assert (short["status"], short["method"]) == ("insufficient_history", "fallback")
    assert short["fallback"] == {"model": "seasonal_naive", "reason": "insufficient_history"}
    assert answer["fallback"] == {"mode": "seasonal_naive", "series": 1}


def test_without_a_fallback_short_history_is_refused_or_skipped(service: Running) -> None:
    data = table(series(), series(10))
    options = {"fallback": "none"}
    refused = service.post("/v1/forecasts", {"data": data, "freq": "h", "options": options})
    assert refused.json()["type"] == "/problems/insufficient-history"
    assert [e["unique_id"] for e in refused.json()["errors"]] == ["s1"]
    answer = ask(service, data=data, options={**options, "on_invalid": "skip"})
    assert [(e["status"], e["rows"]) for e in answer["series"]] == [
        ("ok", HORIZON),
        ("insufficient_history", 0),
    ]
    assert set(answer["forecast"]["unique_id"]) == {"s0"}


@pytest.mark.parametrize("y", [[5.0] * 60, [1e308, -1e308] * 30, [5e-324] * 60, [0.0] * 60])
def test_extreme_numbers_give_finite_ones_or_a_refusal(service: Running, y: list[float]) -> None:
    """Law 7: no NaN and no 500, however odd the series."""
    reply = service.post("/v1/forecasts", {"data": table(y), "freq": "h", "quantiles": LEVELS})
    assert reply.status_code == 200
    forecast = reply.json()["forecast"]
    columns = np.array([forecast[name] for name in ("q0.1", "q0.5", "q0.9")], dtype=float)
    assert np.isfinite(columns).all()
    assert (np.diff(columns, axis=0) >= 0).all()


def test_the_built_in_baseline_repeats_the_last_season(service: Running) -> None:
    y = series(60)
    answer = ask(service, data=table(y), model="seasonal_naive", h=30)
    assert answer["model"] == {
        "name": "seasonal_naive",
        "version": None,
        "alias": None,
        "run_id": None,
    }
    assert numbers(answer).tolist() == [*y[-24:], *y[-24:-18]]


def test_references_name_the_same_version(service: Running) -> None:
    for reference in ("small", "small@champion", "small/1"):
        assert ask(service, data=table(series()), model=reference)["model"]["version"] == "1"


def test_every_answer_has_a_request_id(service: Running) -> None:
    reply = service.client.get("/health/live", headers={"X-Request-ID": "mine-1"})
    assert reply.headers["x-request-id"] == "mine-1"
    for path, headers in (("/nope", {}), ("/health/live", {"X-Request-ID": "a b"})):
        reply = service.client.get(path, headers=headers)
        assert len(reply.headers["x-request-id"]) == 20


def test_a_leaving_client_harms_nobody(service: Running) -> None:
    with pytest.raises(httpx.ReadTimeout):
        service.client.post(
            "/v1/forecasts",
            json={"data": table(*(series(seed=i) for i in range(300))), "freq": "h"},
            timeout=httpx.Timeout(30, read=0.001),
        )
    ask(service, data=table(series()))


def test_a_longer_horizon_is_rolled_out(service: Running, model: Forecaster) -> None:
    """Any horizon is served, and the answer says how it was reached."""
    data = table(series())
    schema = Schema(id="unique_id", time="ds", targets=("y",))
    panel, _ = read_panel(pl.DataFrame(data), schema=schema, freq="h")
    expected = model.predict(panel, horizon=2 * HORIZON + 3, levels=LEVELS).table["mean"]
    answer = ask(service, data=data, h=2 * HORIZON + 3, quantiles=LEVELS)
    assert np.allclose(numbers(answer), expected.to_numpy())
    assert (answer["series"][0]["method"], answer["series"][0]["blocks"]) == ("rollout", 3)
    assert [warning["code"] for warning in answer["warnings"]] == ["rollout"]


@pytest.mark.parametrize("start", [False, True])
def test_finer_rows_are_gathered_first(service: Running, start: bool) -> None:
    """Readings of every quarter of an hour are forecast by the hour, and the answer says so."""
    y = series(96)
    quarters = [value + bump for value in y for bump in (-1, 0, 0, 1)]
    first = "2026-01-01T00:00:00"
    stamps = np.arange(first, "2026-01-05T00:00:00", np.timedelta64(15, "m"), "datetime64[s]")
    table = {"ds": [str(stamp) for stamp in stamps], "y": quarters}
    body = {"data": table} if not start else {"series": [{"start": first, "y": quarters}]}
    body |= {"freq": "15min", "options": {"resample": {"freq": "h", "agg": "mean"}}}
    answer = service.post("/v1/forecasts", body).json()
    alone = {"data": {"ds": [str(stamp) for stamp in stamps[::4]], "y": y}, "freq": "h"}
    expected = service.post("/v1/forecasts", alone).json()
    assert answer["freq"] == "h"
    assert answer["forecast"]["ds"] == expected["forecast"]["ds"]
    np.testing.assert_allclose(answer["forecast"]["mean"], expected["forecast"]["mean"], rtol=1e-6)
    assert [(w["code"], w["count"]) for w in answer["warnings"]] == [("resampled", 384)]


def test_a_grid_that_nobody_knows_is_named(service: Running) -> None:
    body = {"data": table(series()), "options": {"resample": {"freq": "fortnight"}}}
    problem = service.post("/v1/forecasts", body).json()
    assert problem["errors"][0]["pointer"] == "/options/resample/freq"
