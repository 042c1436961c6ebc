"""A data frame as a request: its rows are the data, the last of each series perhaps the future."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.schema import LONE_ID
from pipelines.stamps import read_stamps
from serving.cells import column_of
from serving.compat.invocations.frames import Frame, of_columns, of_records
from serving.compat.invocations.question import Question
from serving.compat.invocations.schemas import FrameParameters
from serving.compat.loose import parts_of
from serving.forecasting import Forecasted
from serving.limits import Limits
from serving.members import forecast_columns
from serving.models import Model, inputs_of
from serving.problems import Item, Problem, of_faults
from serving.schemas.forecasts import ForecastRequest
from serving.schemas.tables import Cells
from tsformer.errors import ConfigError, DataError

Rows = NDArray[np.int64]
OWN = ("dataframe_split", "dataframe_records", "params")  # members of the body
FIELDS = ("model", "h", "freq", "tz", "quantiles", "columns", "options")


@dataclass(frozen=True, slots=True)
class FrameForm:
    """A data frame, a row of attributes a series, and what is wanted; `said` is where that stands."""

    frame: Frame
    static: Mapping[str, Cells]
    given: FrameParameters
    said: str

    @staticmethod
    def of(frame: Frame, given: FrameParameters, limits: Limits, *, said: str) -> FrameForm:
        """The form with the table `static` of the parameters, in records or in columns."""
        table, where = given.static, f"{said}/static"
        static: Mapping[str, Cells] = {}
        if isinstance(table, dict):
            static = of_columns(table, limits, where=where).columns
        elif table is not None:
            static = of_records(table, limits, where=where).columns
        return FrameForm(frame, static, given, said)

    @property
    def reference(self) -> str | None:
        """The model that is asked; None for the default one."""
        return self.given.model

    def place(self, pointer: str) -> str:
        """Where in the body a field of /v1/forecasts stands, before its rows are split."""
        return self._place(pointer, None, None)

    def question(self, model: Model | None) -> Question:
        """The rows as data, and as the future where the parameters say so."""
        fields: dict[str, Any] = {name: getattr(self.given, name) for name in FIELDS}
        data, future = dict(self.frame.columns), {}
        rows = ahead = None
        if self.given.future is not None:
            fields["h"] = steps = self._steps(model)
            rows, ahead = self._split(steps)
            columns = self.given.columns
            known = [column.name for column in inputs_of(model).known]
            names = [name for name in (columns.id, columns.time, *known) if name in data]
            future = {name: taken(data[name], ahead) for name in names} if known else {}
            data = {name: taken(cells, rows) for name, cells in data.items()}
        tables = {"data": data, "future": future, "static": self.static}
        asked = ForecastRequest(data={}).model_copy(update={**fields, **tables})
        return Question(asked, lambda pointer: self._place(pointer, rows, ahead))

    def predictions(self, done: Forecasted) -> list[dict[str, Any]]:
        """A row a series and step."""
        return rows_of(done)

    def entries(self, done: Forecasted) -> list[dict[str, Any]]:
        """What became of each series."""
        return done.entries()

    # --- the rows ahead ---------------------------------------------------------------------------

    def _steps(self, model: Model | None) -> int:
        if self.given.h is None and model is None:
            message = "This model has no horizon of its own. Give h."
            raise Problem("invalid-request", message, [Item(message, self.said)])
        if self.given.h is not None or model is None:
            return self.given.h or 1
        return model.forecaster.recipe.horizon

    def _split(self, steps: int) -> tuple[Rows, Rows]:
        """The rows of the data and, by time, the last `steps` of each series, which have no y."""
        data, columns = self.frame.columns, self.given.columns
        if columns.time not in data or columns.target not in data:
            return np.arange(len(next(iter(data.values()), ()))), np.array([], np.int64)
        rows = len(data[columns.time])
        table = pl.DataFrame(
            {
                "id": column_of("id", data.get(columns.id, [LONE_ID] * rows)),
                "time": self._order(data[columns.time]),
                "y": column_of("y", data[columns.target]).is_not_null(),
            }
        )
        last = pl.col("time").rank("ordinal", descending=True).over("id") <= min(steps, rows)
        is_ahead = table.select(last.fill_null(False)).to_series()
        told = np.flatnonzero((is_ahead & table["y"]).to_numpy())
        if len(told):
            message = f"The last {steps} rows of a series are its future, and must have no value."
            place = self.frame.cell(columns.target, int(told[0]))
            raise of_faults(message, [Item(message, place, "future_missing")])
        return np.flatnonzero(~is_ahead.to_numpy()), np.flatnonzero(is_ahead.to_numpy())

    def _order(self, stamps: Cells) -> pl.Series:
        """Stamps as they follow each other; as they came where they cannot be read, which is said
        when the data are."""
        try:
            return read_stamps(column_of("time", stamps), tz=self.given.tz).values
        except (DataError, ConfigError):
            return pl.Series(np.arange(len(stamps)))

    def _place(self, pointer: str, rows: Rows | None, ahead: Rows | None) -> str:
        """Where in the body a pointer of /v1/forecasts leads."""
        table, *inside = parts_of(pointer) or [""]
        if table in ("data", "future"):
            own = rows if table == "data" else ahead
            if len(inside) < 2:
                return self.frame.whole
            row = int(inside[1])
            return self.frame.cell(inside[0], row if own is None else int(own[row]))
        if table in OWN:
            return pointer
        if table == "static":
            return f"{self.said}/static"
        return self.said + pointer if table in self.given.model_fields_set else ""


def taken(cells: Cells, rows: Rows) -> Cells:
    """Some of the cells of a column."""
    return cells.gather(rows) if isinstance(cells, pl.Series) else [cells[row] for row in rows]


def rows_of(done: Forecasted) -> list[dict[str, Any]]:
    """A forecast as an object a row."""
    columns = forecast_columns(done.found, done.panel, done.asked.columns)
    lists: Sequence[list[Any]] = [
        cells.tolist() if isinstance(cells, np.ndarray) else cells for cells in columns.values()
    ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]
