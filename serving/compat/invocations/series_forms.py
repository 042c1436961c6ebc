"""Series that come one by one as a request: DeepAR's `instances`, and `inputs` with named covariates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.body import pointer_to
from serving.compat.columns import column_of, numbers_of
from serving.compat.invocations import schemas
from serving.compat.invocations.question import Question
from serving.compat.loose import levels_of, parts_of, relocated
from serving.compat.samples import Floats, Sample, Where, check_ids, grid_of, tables_of
from serving.forecasting import Forecasted
from serving.members import forecast_columns
from serving.models import Model, inputs_of
from serving.problems import Item, Problem, of_faults
from serving.schemas.forecasts import ForecastRequest
from serving.schemas.tables import Cells, Columns
from serving.scoring import numbers
from serving.trees import validated

NAMES = Columns()
PARAMETERS = {"h": "prediction_length", "freq": "freq", "quantiles": "quantile_levels"}
DECILES = tuple(f"{level / 10:g}" for level in range(1, 10))


@dataclass(frozen=True, slots=True)
class InstancesForm:
    """Series in the form of DeepAR, for the default model."""

    body: schemas.InstancesBody

    @property
    def reference(self) -> str | None:
        """The default model."""
        return None

    @property
    def words(self) -> Sequence[str]:
        """The levels that are wanted, as they were written."""
        given, wanted = self.body.configuration.quantiles, self.body.configuration.output_types
        if "quantiles" not in (wanted or ("quantiles",)):
            return ()
        return given if given is not None else DECILES if wanted else ()

    def place(self, pointer: str) -> str:
        """Where in the body a field of /v1/forecasts stands; of a series, an item gives the id."""
        table = (parts_of(pointer) or [""])[0]
        if table in ("data", "future", "static"):
            return "/instances"
        if table in ("instances", "configuration"):
            return pointer
        return "/configuration/quantiles" if table == "quantiles" else ""

    def question(self, model: Model | None) -> Question:
        """The series with attributes and covariates in the order of the card."""
        where = Where(
            sample=lambda place: f"/instances/{place}",
            id=lambda place: f"/instances/{place}",
            start=lambda place: f"/instances/{place}/start",
        )
        horizon = 0 if model is None else model.forecaster.recipe.horizon
        samples = [
            self._sample(place, instance, model, horizon)
            for place, instance in enumerate(self.body.instances)
        ]
        levels = levels_of(self.words, "/configuration/quantiles")
        with relocated(self.place):
            asked = _asked(samples, model, fields={"quantiles": levels}, where=where)
        return Question(asked, self.place)

    def _sample(
        self, place: int, instance: schemas.Instance, model: Model | None, horizon: int
    ) -> Sample:
        where, inputs = f"/instances/{place}", inputs_of(model)
        target = instance.target
        if isinstance(target, list):
            target = [None if cell == "NaN" else cell for cell in target]
        y = _target(target, f"{where}/target")
        names = [column.name for column in inputs.static]
        if len(instance.cat) != len(names):
            raise _invalid(f"cat has {len(names)} numbers for this model.", where)
        known = [column.name for column in inputs.known]
        rows = instance.dynamic_feat if instance.dynamic_feat is not None else []
        if not isinstance(rows, list) or len(rows) != len(known):
            raise _invalid(f"dynamic_feat has {len(known)} rows for this model.", where)
        past: dict[str, Cells] = {}
        future: dict[str, Cells] = {}
        for at, (name, row) in enumerate(zip(known, rows, strict=True)):
            cells = _cells(row, f"{where}/dynamic_feat/{at}", len(y) + horizon)
            past[name], future[name] = cells[: len(y)], cells[len(y) :]
        static = dict(zip(names, instance.cat, strict=True))
        return Sample(str(place), y, instance.start, past, future, static)

    def predictions(self, done: Forecasted) -> list[dict[str, Any]]:
        """An object a series: the mean, and the quantiles under the levels as they were written."""
        wanted = self.body.configuration.output_types or ("mean", "quantiles")
        levels = sorted(done.asked.quantiles)
        columns = [1 + levels.index(float(word)) for word in self.words]
        answers = []
        for values in numbers(done.found, done.panel.ids, levels):
            answer: dict[str, Any] = {"mean": values[:, 0].tolist()} if "mean" in wanted else {}
            if self.words:
                answer["quantiles"] = {
                    word: values[:, column].tolist()
                    for word, column in zip(self.words, columns, strict=True)
                }
            answers.append(answer)
        return answers

    def entries(self, done: Forecasted) -> list[dict[str, Any]]:
        """What became of each series."""
        return done.entries()


@dataclass(frozen=True, slots=True)
class InputsForm:
    """Series with covariates by name, for the default model."""

    body: schemas.InputsBody

    @property
    def reference(self) -> str | None:
        """The default model."""
        return None

    @property
    def given(self) -> schemas.ItemParameters:
        """What is wanted of the series."""
        return self.body.parameters or self.body.params or schemas.ItemParameters()

    def place(self, pointer: str) -> str:
        """Where in the body a field of /v1/forecasts stands; of a series, an item gives the id."""
        table = (parts_of(pointer) or [""])[0]
        if table in ("data", "future", "static"):
            return "/inputs"
        if table == "inputs":
            return pointer
        own, said = PARAMETERS.get(table), "params" if self.body.params else "parameters"
        return f"/{said}/{own}" if own in self.given.model_fields_set else ""

    def question(self, model: Model | None) -> Question:
        """The series, under their ids or their places."""
        where = Where(
            sample=lambda place: f"/inputs/{place}",
            id=lambda place: f"/inputs/{place}",
            start=lambda place: f"/inputs/{place}/start",
        )
        items, given = self.body.inputs, self.given
        samples = [_sample_of(place, item, items[0]) for place, item in enumerate(items)]
        fields = {
            "h": given.prediction_length,
            "freq": given.freq,
            "quantiles": given.quantile_levels,
        }
        with relocated(self.place):
            asked = _asked(samples, model, fields=fields, where=where)
        return Question(asked, self.place)

    def predictions(self, done: Forecasted) -> list[dict[str, Any]]:
        """An object a series: the mean, the quantiles by level, and what it was called."""
        levels = sorted(done.asked.quantiles)
        columns = forecast_columns(done.found, done.panel, NAMES)
        stamps = columns[NAMES.time][:: done.found.horizon]
        answers = []
        values = numbers(done.found, done.panel.ids, levels)
        for item, own, first in zip(self.body.inputs, values, stamps, strict=True):
            answer: dict[str, Any] = {"mean": own[:, 0].tolist()}
            answer |= {f"{level:g}": own[:, 1 + i].tolist() for i, level in enumerate(levels)}
            answer |= {} if item.item_id is None else {"item_id": item.item_id}
            answers.append(answer | ({} if item.start is None else {"start": first}))
        return answers

    def entries(self, done: Forecasted) -> list[dict[str, Any]]:
        """What became of each series; one without a start has no stamps to tell of."""
        return [
            entry if item.start is not None else {**entry, "context_end": None}
            for item, entry in zip(self.body.inputs, done.entries(), strict=True)
        ]


def _sample_of(place: int, item: schemas.Item, first: schemas.Item) -> Sample:
    where = f"/inputs/{place}"
    y = _target(item.target, f"{where}/target")
    for own, others in (
        (item.past_covariates, first.past_covariates),
        (item.future_covariates, first.future_covariates),
    ):
        if own.keys() != others.keys():
            raise _invalid("All series have covariates of the same names.", where)
    past = {
        name: _cells(
            item.past_covariates[name], where + pointer_to("past_covariates", name), len(y)
        )
        for name in first.past_covariates
    }
    steps = _steps(item.future_covariates, where)
    future = {
        name: _cells(
            item.future_covariates[name], where + pointer_to("future_covariates", name), steps
        )
        for name in first.future_covariates
    }
    name = str(place) if item.item_id is None else item.item_id
    return Sample(name, y, item.start, past, future)


def _steps(covariates: Mapping[str, Any], where: str) -> int:
    if not covariates:
        return 0
    name, cells = next(iter(covariates.items()))
    if not isinstance(cells, list) or not cells:
        place = where + pointer_to("future_covariates", name)
        raise _invalid("Give an array with a cell a step.", place)
    return len(cells)


# --- of both --------------------------------------------------------------------------------------


def _asked(
    samples: Sequence[Sample], model: Model | None, *, fields: Mapping[str, Any], where: Where
) -> ForecastRequest:
    """The request for `samples`."""
    check_ids(samples, where)
    grid = grid_of(samples, model, freq=fields.get("freq"), tz=None, where=where)
    blank = validated(grid.request, {**fields, "freq": grid.step, "data": {}})
    return blank.model_copy(update=tables_of(samples, grid))


def _target(cells: Any, where: str) -> Floats:
    if not isinstance(cells, list):
        raise _invalid("The target is an array of numbers.", where)
    if not cells:
        message = "The target has no values."
        raise of_faults(message, [Item(message, where, "insufficient_history")])
    return numbers_of(cells, lambda row: f"{where}/{row}")


def _cells(cells: Any, where: str, length: int) -> Cells:
    if not isinstance(cells, list):
        raise _invalid("Give an array with a cell a step.", where)
    if len(cells) != length:
        message = f"{len(cells)} cells came, and {length} are needed."
        raise of_faults(message, [Item(message, where, "length_mismatch")])
    return column_of(cells, lambda row: f"{where}/{row}")


def _invalid(message: str, pointer: str) -> Problem:
    return Problem("invalid-request", "A series is not as specified.", [Item(message, pointer)])
