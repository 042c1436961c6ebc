"""POST /v1/compare: what is held out stays out, and the leaderboard says who was right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.serving.running import Running, series, table

HELD = 6


def compare(service: Running, **body: Any) -> dict[str, Any]:
    reply = service.post("/v1/compare", {"freq": "h", "models": ["small"], **body})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def held_out(data: dict[str, Any], **body: Any) -> dict[str, Any]:
    options = {"holdout": HELD, **body.pop("options", {})}
    return {"data": data, "h": HELD, "options": options, **body}


def test_models_stand_side_by_side(service: Running) -> None:
    answer = compare(service, data=table(series(), series(seed=1)), h=4, quantiles=[0.1, 0.9])
    assert answer["index"]["unique_id"] == ["s0"] * 4 + ["s1"] * 4
    assert [f["model"]["name"] for f in answer["forecasts"]] == [
        "small",
        "seasonal_naive",
        "linear",
    ]
    for forecast in answer["forecasts"]:
        assert list(forecast["columns"]) == ["mean", "q0.1", "q0.9"]
        assert all(len(column) == 8 for column in forecast["columns"].values())
    assert (answer["actuals"], answer["leaderboard"]) == (None, [])


def test_the_numbers_are_those_of_a_forecast_without_the_held_out_rows(service: Running) -> None:
    y = series(100)
    answer = compare(service, **held_out(table(y)))
    alone = service.post("/v1/forecasts", {"data": table(y[:-HELD]), "freq": "h", "h": HELD}).json()
    assert answer["forecasts"][0]["columns"]["mean"] == alone["forecast"]["mean"]
    assert answer["actuals"] == y[-HELD:]
    assert answer["forecasts"][0]["series"] == alone["series"]


@pytest.mark.parametrize("fill", ["mask", "ffill", "linear", "zero"])
def test_held_out_values_never_reach_a_model(service: Running, fill: str) -> None:
    """A gap that is filled by interpolation would otherwise know what follows the cut."""
    y = series(100)
    y[-HELD - 2 : -HELD + 1] = [None] * 3
    first = compare(service, **held_out(table(y), options={"fill": fill}))
    other = [*y[:-HELD], *(1e3 * i for i in range(HELD))]
    second = compare(service, **held_out(table(other), options={"fill": fill}))
    assert first["forecasts"] == second["forecasts"]
    assert first["actuals"] != second["actuals"]


def test_the_leaderboard_is_worked_by_hand(service: Running) -> None:
    y = series(100)
    answer = compare(service, **held_out(table(y), quantiles=[0.1, 0.9]))
    rows = {row["model"]["name"]: row for row in answer["leaderboard"]}
    assert [row["rank"] for row in answer["leaderboard"]] == [1, 2, 3]
    context, actual = np.array(y[:-HELD]), np.array(y[-HELD:])
    naive = context[-24:][:HELD]
    scale = np.abs(context[24:] - context[:-24]).mean()
    metrics = rows["seasonal_naive"]["metrics"]
    assert metrics["mae"] == pytest.approx(np.abs(actual - naive).mean())
    assert metrics["rmse"] == pytest.approx(np.sqrt(((actual - naive) ** 2).mean()))
    assert metrics["mase"] == pytest.approx(np.abs(actual - naive).mean() / scale)
    assert rows["seasonal_naive"]["scope"] == {"series": 1, "folds": 1, "h": HELD, "points": HELD}
    assert rows["seasonal_naive"]["skill"]["value"] == 0
    assert set(rows["small"]["coverage"]) == {"0.8"}
    best = [row["metrics"]["mase"] for row in answer["leaderboard"]]
    assert best == sorted(best)


def test_a_constant_series_has_no_mase(service: Running) -> None:
    answer = compare(service, **held_out(table([5.0] * 60)))
    assert all(row["metrics"]["mase"] is None for row in answer["leaderboard"])
    assert all(row["metrics"]["mae"] == 0 for row in answer["leaderboard"])


def test_a_series_without_enough_history_is_null_and_counted(service: Running) -> None:
    data = table(series(60), series(20, seed=1))
    options = {"fallback": "none", "on_invalid": "skip"}
    answer = compare(service, **held_out(data, options=options))
    small = answer["forecasts"][0]
    assert small["columns"]["mean"][HELD:] == [None] * HELD
    row = next(r for r in answer["leaderboard"] if r["model"]["name"] == "small")
    assert (row["failed_series"], row["scope"]["series"]) == (1, 1)


def test_more_than_h_cannot_be_held_out(service: Running) -> None:
    body = {
        "models": ["small"],
        "data": table(series()),
        "h": 2,
        "freq": "h",
        "options": {"holdout": 3},
    }
    problem = service.post("/v1/compare", body).json()
    assert (problem["status"], problem["errors"][0]["pointer"]) == (422, "/options/holdout")


def test_more_than_the_usual_h_cannot_be_held_out(service: Running) -> None:
    """Built-in models have no horizon of their own: it is a season."""
    body = {"models": ["linear"], "data": table(series()), "freq": "h", "options": {"holdout": 25}}
    problem = service.post("/v1/compare", body).json()
    assert (problem["status"], problem["errors"][0]["pointer"]) == (422, "/options/holdout")
    assert "here 24" in problem["errors"][0]["message"]
    assert service.post("/v1/compare", {**body, "h": 25}).is_success


def test_at_most_eight_models(service: Running) -> None:
    body = {"models": ["small"] * 9, "data": table(series())}
    problem = service.post("/v1/compare", body).json()
    assert (problem["status"], problem["errors"][0]["pointer"]) == (422, "/models")
