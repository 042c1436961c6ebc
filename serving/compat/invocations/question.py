"""What a body of /invocations means, whatever its form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from serving.forecasting import Forecasted
from serving.models import Model
from serving.schemas.forecasts import ForecastRequest


@dataclass(frozen=True, slots=True)
class Question:
    """A request of /v1/forecasts, and where its parts stood in the body."""

    asked: ForecastRequest
    place: Callable[[str], str]


class Form(Protocol):
    """A body that was read."""

    @property
    def reference(self) -> str | None:
        """The model that is asked; None for the default one."""

    def place(self, pointer: str) -> str:
        """Where in the body a field of /v1/forecasts stands, before its series are read."""

    def question(self, model: Model | None) -> Question:
        """What is asked of `model`; DataError for stamps that are out of range."""

    def predictions(self, done: Forecasted) -> list[dict[str, Any]]:
        """The answer, as clients of this form expect it."""

    def entries(self, done: Forecasted) -> list[dict[str, Any]]:
        """What became of each series."""
