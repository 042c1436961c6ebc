"""Series that no statistics is made for: whatever they hold, what comes back are ordered numbers."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.figures import Told
from tests.serving.running import Running, stamps

TINY, LARGEST = sys.float_info.min * sys.float_info.epsilon, sys.float_info.max
AT_ONCE = 40  # series of a request
HOURS = stamps(120)
COLUMNS = ("mean", "q0.1", "q0.5", "q0.9")

Cells = list[float | int | None]


@st.composite
def degenerate(draw: st.DrawFn) -> Cells:
    """Some values of a series, and where they are missing."""
    length = draw(st.sampled_from([1, 2, 5, 23, 24, 25, 49, 97, 120]))
    edge = st.sampled_from([0.0, -0.0, 1e308, -1e308, LARGEST, -LARGEST, TINY, -TINY, 1e-300, 1.0])
    kind = draw(
        st.sampled_from(["constant", "edges", "noise", "steps", "spike", "integers", "ramp"])
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    cells: Cells
    if kind == "constant":
        cells = [draw(edge)] * length
    elif kind == "edges":
        cells = draw(st.lists(edge, min_size=length, max_size=length))
    elif kind == "noise":  # tiny beside its level
        cells = (draw(st.sampled_from([1e15, -1e12, 1e300])) + rng.normal(size=length)).tolist()
    elif kind == "steps":
        cells = np.where(rng.random(length) < 0.5, 1e-9, 1e9).tolist()
    elif kind == "spike":
        cells = [0.0] * length
        cells[draw(st.integers(0, length - 1))] = draw(edge)
    elif kind == "integers":
        cells = [draw(st.sampled_from([2**53 + 1, -(2**63), 2**63 - 1, 2**64 - 1, 0, 7]))] * length
    else:
        cells = np.geomspace(1e-300, 1e300, length).tolist()
    missing = draw(st.sampled_from(["none", "some", "gap", "end", "all"]))
    holes = {
        "none": np.zeros(length, bool),
        "some": rng.random(length) < 0.3,
        "gap": (np.arange(length) > length // 4) & (np.arange(length) < length // 2),
        "end": np.arange(length) >= length // 2,
        "all": np.ones(length, bool),
    }[missing]
    return [None if hole else cell for hole, cell in zip(holes, cells, strict=True)]


def asked(service: Running, columns: list[Cells], model: str, counted: Counter[str]) -> None:
    """Asks for all of them at once, and looks at every number."""
    names = [f"s{i}" for i in range(len(columns))]
    data = {
        "unique_id": [name for name, y in zip(names, columns, strict=True) for _ in y],
        "ds": [stamp for y in columns for stamp in HOURS[: len(y)]],
        "y": [cell for y in columns for cell in y],
    }
    body = {"data": data, "freq": "h", "h": 3, "model": model, "quantiles": [0.1, 0.5, 0.9]}
    reply = service.post("/v1/forecasts", body | {"options": {"on_invalid": "skip"}})
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    numbers = np.array([answer["forecast"][name] for name in COLUMNS], dtype=float)
    assert np.isfinite(numbers).all()
    assert (np.diff(numbers[1:], axis=0) >= 0).all()
    assert [entry["unique_id"] for entry in answer["series"]] == names
    warned = {(one["unique_id"], one["code"]) for one in answer["warnings"]}
    for name, y, entry in zip(names, columns, answer["series"], strict=True):
        seen = [cell for cell in y if cell is not None]
        assert (entry["status"] == "invalid") == (not seen)
        counted[entry["status"]] += 1
        flat = len({*map(float, seen)}) == 1 and len(seen) > 1
        if flat and not answer.get("warnings_truncated"):
            assert (name, "constant_series") in warned
            counted["flagged as constant"] += 1
    counted["series"] += len(columns)
    counted["warnings"] += len(warned)


def examined(service: Running, requests: int) -> Counter[str]:
    """So many requests of degenerate series, by turns to a network and to baselines."""
    counted, models = Counter[str](), ("small", "seasonal_naive", "linear", "small")

    @settings(
        max_examples=requests, derandomize=True, database=None, deadline=None,
        suppress_health_check=[*HealthCheck],
    )  # fmt: skip
    @given(st.lists(degenerate(), min_size=AT_ONCE, max_size=AT_ONCE))
    def ask(columns: list[Cells]) -> None:
        asked(service, columns, models[counted["requests"] % len(models)], counted)
        counted["requests"] += 1

    ask()
    return counted


def test_whatever_a_series_holds_the_answer_is_numbers_in_order(
    service: Running, record_property: Told
) -> None:
    """B6: one constant or enormous series in ten thousand must not cost a 500, nor give NaN."""
    counted = examined(service, 10)
    record_property(
        "B6", f"0 of {counted['requests']} answers were 500 or not finite: {dict(counted)}"
    )


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_whatever_ten_thousand_series_hold(service: Running, record_property: Told) -> None:
    """B6: the same in full."""
    counted = examined(service, 10_000 // AT_ONCE)
    assert counted["series"] >= 10_000
    record_property(
        "B6", f"0 of {counted['requests']} answers were 500 or not finite: {dict(counted)}"
    )
