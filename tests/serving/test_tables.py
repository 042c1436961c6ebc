"""From a request to a panel: sizes are checked before anything large is made."""

from __future__ import annotations

import pytest

from serving import tables
from serving.limits import Limits
from serving.problems import Problem
from serving.schemas.forecasts import ForecastRequest
from serving.schemas.series import Options
from tests.serving.running import stamps


def test_filling_is_bounded_by_what_comes_out() -> None:
    """A few rows far apart ask for many: 50 rows of each series stand for 1,400."""
    hours = stamps(1_400)
    sparse = [*hours[:49], hours[-1]]
    data = {
        "unique_id": [f"s{i}" for i in range(20) for _ in sparse],
        "ds": sparse * 20,
        "y": [float(i) for i in range(20 * len(sparse))],
    }
    asked = ForecastRequest(data=data, freq="h")
    filled, options = 3 * 20 * 1_400, Options(fill="linear")
    with pytest.raises(Problem) as raised:
        tables.read(asked, options, Limits(input_values=filled - 1))
    assert raised.value.type == "too-large"
    assert raised.value.members == {
        "limit": "input_values", "maximum": filled - 1, "actual": filled, "jobs": "/v1/jobs",
    }  # fmt: skip
    assert len(tables.read(asked, options, Limits(input_values=filled)).panel.table) == 20 * 1_400
