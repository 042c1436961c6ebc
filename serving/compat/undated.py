"""Series whose clients say no stamps: nothing is known of hours, weekdays and holidays."""

from __future__ import annotations

from typing import Any, ClassVar

from serving.forecasting import Forecasted
from serving.schemas.forecasts import ForecastRequest


class Undated(ForecastRequest):
    """A request whose stamps merely count the steps."""

    dated: ClassVar[bool] = False


def calendar_warnings(done: Forecasted) -> list[dict[str, Any]]:
    """That a model which reads the calendar was asked without one."""
    features = done.found.model.forecaster.recipe.inputs.features
    if done.asked.dated or not features:
        return []
    message = f"No start came: {', '.join(features)} are unknown."
    count = len(done.data.report.series)
    return [{"code": "calendar_unknown", "unique_id": None, "count": count, "message": message}]
