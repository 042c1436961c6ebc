"""What a client orders: the spec of a job, checked as far as it can be before it is worked on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.datasets import Dataset, Datasets
from pipelines.orders import SECTIONS, experiment_of
from pipelines.span import check_span
from pipelines.versions import FALLBACK, checked_new_name
from serving import anomalies, forms, tables
from serving.baselines import BASELINES, BUILT_IN
from serving.body import pointer_to
from serving.limits import Limits
from serving.problems import Item, Problem, too_large
from serving.schemas.fields import Strict
from serving.schemas.forecasts import (
    AnomalyRequest,
    CompareRequest,
    ExplainRequest,
    ForecastRequest,
)
from serving.schemas.jobs import BacktestSpec, DatasetReference, TrainSpec, TuneSpec
from serving.schemas.series import Series
from serving.trees import validated
from tsformer.errors import ConfigError, DataError, NotFoundError

BODIES: Mapping[str, type[Series]] = {
    "forecast": ForecastRequest,
    "compare": CompareRequest,
    "anomaly": AnomalyRequest,
    "explain": ExplainRequest,
}
OF_A_MODEL = tuple(kind for kind, body in BODIES.items() if "model" in body.model_fields)
ORDERS: Mapping[str, type[Strict]] = {
    "backtest": BacktestSpec,
    "train": TrainSpec,
    "tune": TuneSpec,
}
OPERATORS = ("train", "tune")  # types of jobs that need one
WHERE = "/spec"
COUNTED = (("quantiles", "quantiles"), ("compare_models", "models"))


class DatasetOf(Strict):
    """The one member of a spec that no route has."""

    dataset: DatasetReference


def checked(
    kind: str, spec: Mapping[str, Any], limits: Limits, datasets: Datasets, *, default: str,
    where: str = WHERE,
) -> dict[str, Any]:  # fmt: skip
    """`spec` as it is kept, with what it leaves open: the default model, the dataset's version.

    Raises the problem of a field that is not as specified, with a pointer into the spec.
    """
    try:
        if kind in BODIES:
            return _body(BODIES[kind], spec, limits, datasets, default)
        if kind in ORDERS:
            return _order(ORDERS[kind], spec, limits, datasets)
    except Problem as problem:
        raise within(problem, where) from None
    message = f"Jobs of this type are not run here. Known: {', '.join((*BODIES, *ORDERS))}."
    place = where.removesuffix("/spec") + "/type"
    raise Problem("invalid-request", message, [Item(message, place)])


def _body(
    model: type[Series], spec: Mapping[str, Any], limits: Limits, datasets: Datasets, default: str
) -> dict[str, Any]:
    kept = dict(spec)
    if "dataset" in spec:
        named = validated(DatasetOf, {"dataset": spec["dataset"]})
        dataset = _dataset(datasets, named.dataset)
        kept["dataset"] = str(dataset)
        rest = {name: value for name, value in spec.items() if name != "dataset"}
        if given := {"data", "series"} & {*rest}:
            message = "'dataset' replaces data and series. Give one or the other."
            raise Problem("invalid-request", message, [Item(message, f"/{min(given)}")])
        asked = forms.of_tree(forms.without_tables(model), rest, limits)
        check_points(dataset.values, limits)
        series, rows = dataset.series, dataset.rows
    else:
        asked = forms.of_tree(model, spec, limits)
        sent = (asked.data, asked.future, asked.static)
        check_points(sum(len(cells) for table in sent for cells in table.values()), limits)
        series = len({*asked.data.get(asked.columns.id, ())}) or 1
        rows = max(map(len, asked.data.values()), default=0)
    _check_counts(asked, limits)
    if isinstance(asked, AnomalyRequest):
        anomalies.check(asked)
    else:
        tables.check_free(asked.columns, asked.quantiles)
    check_points(_answered(asked, series=series, rows=rows), limits)
    if "model" in model.model_fields and kept.get("model") is None:
        kept["model"] = default
    # The built-in baselines have no version to watch.
    if model in (ForecastRequest, ExplainRequest) and kept["model"] not in BUILT_IN:
        kept["options"] = {"record": True, **kept.get("options", {})}
    return kept


def _order(
    model: type[Strict], spec: Mapping[str, Any], limits: Limits, datasets: Datasets
) -> dict[str, Any]:
    asked = validated(model, spec)
    reference: str = getattr(asked, "dataset")  # noqa: B009 - all orders have one
    dataset = _dataset(datasets, reference)
    check_points(dataset.values, limits)
    _check_counts(asked, limits)
    if isinstance(asked, BacktestSpec):
        models = len({*asked.models, FALLBACK})
        numbers = models * asked.folds * asked.h * (1 + len(asked.quantiles))
        check_points(dataset.series * numbers, limits)
    if isinstance(asked, TrainSpec | TuneSpec):
        _check_training(asked, dataset, datasets)
    return {**asked.model_dump(), "dataset": str(dataset)}


def _dataset(datasets: Datasets, reference: str) -> Dataset:
    try:
        return datasets.one(reference)
    except NotFoundError as error:
        message = "There is no such dataset. GET /v1/datasets lists them."
        raise Problem("not-found", message, [Item(message, "/dataset")]) from error


def _answered(asked: Series, *, series: int, rows: int) -> int:
    """How many numbers the answer has at least; of a horizon that a model chooses, one step."""
    numbers = 1 + len(asked.quantiles)
    if isinstance(asked, AnomalyRequest):
        return min(series * asked.detect.last, rows) * numbers
    if isinstance(asked, CompareRequest):
        numbers *= len({*asked.models, *(BASELINES if asked.options.baselines else ())})
    return series * (asked.h or 1) * numbers


def check_points(values: int, limits: Limits) -> None:
    """Raises `too-large` where a job would read, or would answer, more than `job_points`."""
    if values > limits.job_points:
        raise too_large("job_points", maximum=limits.job_points, actual=values)


def _check_counts(asked: Strict, limits: Limits) -> None:
    for limit, field in COUNTED:
        count = len(getattr(asked, field, None) or ())
        limits.check_count(limit, f"/{field}", count=count, maximum=getattr(limits, limit))
    h = getattr(asked, "h", None) or 1
    if h > limits.horizon:
        message = f"At most {limits.horizon} steps are forecast here."
        raise Problem("invalid-request", "h is too far.", [Item(message, "/h")])


def _check_training(asked: TrainSpec | TuneSpec, dataset: Dataset, datasets: Datasets) -> None:
    """Builds the experiment; where that fails, finds the section that is to blame."""
    spec = asked.model_dump()
    file = datasets.path(dataset)
    strangers = [place for place, key in enumerate(asked.config) if key not in SECTIONS]
    if strangers:
        message = f"A section here is not known. Known: {', '.join(SECTIONS)}."
        raise Problem("invalid-request", message, [Item(message, "/config")])
    try:
        checked_new_name(asked.name)
    except ConfigError as error:
        raise Problem("invalid-request", error.told, [Item(error.told, "/name")]) from None
    if fault := _fault(spec, dataset, file):
        place, blamed = _blamed(spec, dataset, file, fault)
        message = blamed.told or "Not as docs/guide.md says of this section of an experiment."
        raise Problem("invalid-request", message, [Item(message, place)])


def check_length(spec: Mapping[str, Any], datasets: Datasets) -> None:
    """Raises `invalid-data` where a training that begins now has no window to learn from.

    That of a schedule reads its table later, when it may be longer.
    """
    dataset = datasets.one(str(spec["dataset"]))
    file = datasets.path(dataset)
    try:
        check_span(experiment_of(spec, dataset, file), dataset, file)
    except DataError as error:
        place = "/config/window" if "window" in spec["config"] else "/dataset"
        raise Problem("invalid-data", str(error), [Item(str(error), WHERE + place)]) from None


def _fault(spec: Mapping[str, Any], dataset: Dataset, file: Path) -> ConfigError | None:
    """What is wrong with a training order."""
    try:
        experiment_of(spec, dataset, file)
    except ConfigError as error:
        return error
    return None


def _blamed(
    spec: Mapping[str, Any], dataset: Dataset, file: Path, error: ConfigError
) -> tuple[str, ConfigError]:
    """The first part of a training order without which it would do, and what is wrong with it."""
    config: Mapping[str, Any] = spec["config"]
    if "space" in spec:
        rest = {name: value for name, value in spec.items() if name != "space"}
        other = _fault(rest, dataset, file)
        return ("/space", error) if other is None else _blamed(rest, dataset, file, other)
    for section in config:
        alone = {**spec, "config": {section: config[section]}}
        if fault := _fault(alone, dataset, file):
            if bare := _fault({**spec, "config": {}}, dataset, file):
                return "/kind", bare
            return pointer_to("config", section), fault
    return "/config" if config else "/kind", error


def within(problem: Problem, where: str, *, stored: Collection[str] = ()) -> Problem:
    """The problem of a spec as one of the body that it stands in.

    What is wrong in tables that are `stored` is wrong in the dataset that the spec names.
    """

    def place(pointer: str | None) -> str | None:
        if pointer is None:
            return None
        table = pointer.split("/")[1] if pointer else ""
        return where + ("/dataset" if table in stored else pointer)

    items = [replace(item, pointer=place(item.pointer)) for item in problem.errors]
    return Problem(problem.type, problem.detail, items, problem.members, problem.headers)
