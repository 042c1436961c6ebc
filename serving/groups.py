"""Which series a model reads side by side: the groups of a request, and the windows made of them.

Only models trained on series side by side (`recipe.joint`) read groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from pipelines.forecast import Forecast
from pipelines.forecaster import Forecaster
from pipelines.panel import Panel
from pipelines.plan import Plan
from pipelines.schema import LONE_ID
from serving.attributes import GROUP_ID
from serving.cells import column_of
from serving.problems import too_large
from serving.schemas.series import Options, Series
from tsformer.errors import Fault

Label = tuple[str, object]
EVERYTHING: Label = ("all", None)


@dataclass(frozen=True, slots=True)
class Groups:
    """The group of each requested series, and how many series each group has, `most` at most."""

    labels: Mapping[object, Label]
    sizes: Mapping[Label, int]
    most: int
    whole: bool = False

    def of(self, name: str | int) -> Label:
        """The group of a series; its own where none is named."""
        return EVERYTHING if self.whole else self.labels.get(name, ("own", name))

    def size(self, label: Label) -> int:
        """Requested series of a group."""
        return self.sizes.get(label, 1)


def groups_of(asked: Series, options: Options, *, requested: int, most: int) -> Groups:
    """The groups of the `requested` series, in each of which `most` may be read side by side."""
    if options.group == "all":
        return Groups({}, {EVERYTHING: requested}, most, whole=True)
    if GROUP_ID not in asked.static:
        return Groups({}, {}, most)
    cells = asked.static[GROUP_ID]
    names = asked.static.get(asked.columns.id, [LONE_ID] * len(cells))
    labels: dict[object, Label] = {
        name: ("group", label)
        for name, label in zip(names, cells, strict=True)
        if label is not None
    }
    there = column_of("id", asked.data.get(asked.columns.id, [LONE_ID])).unique().to_list()
    return Groups(labels, Counter(labels[name] for name in there if name in labels), most)


@dataclass(frozen=True, slots=True)
class Part:
    """Series of a panel whose windows have the same number of series, and what is asked of them."""

    places: tuple[int, ...]
    panel: Panel
    plan: Plan


def parts_of(
    forecaster: Forecaster, panel: Panel, groups: Groups, *, horizon: int, fallback: str | None,
    future: pl.DataFrame | None,
) -> tuple[Part, ...]:  # fmt: skip
    """The windows of `panel`: a part for each number of series in a group.

    Series with too little history, which no window holds, are a part too. Raises `too-large` for
    a group of too many series.
    """
    if not forecaster.recipe.joint or not panel.ids:
        plan = forecaster.plan(panel, horizon=horizon, fallback=fallback, future=future)
        return (Part(tuple(range(len(panel.ids))), panel, plan),)
    parts = []
    for width, places in _by_width(forecaster, panel, groups):
        own = panel if places == [*range(len(panel.ids))] else panel.take(places)
        plan = forecaster.plan(own, horizon=horizon, fallback=fallback, future=future, width=width)
        parts.append(Part(tuple(places), own, plan))
    return tuple(parts)


def _by_width(
    forecaster: Forecaster, panel: Panel, groups: Groups
) -> Iterator[tuple[int, list[int]]]:
    """Series in groups of the same size, group after group; then those that are too short."""
    enough = forecaster.enough(panel)
    members: dict[Label, list[int]] = {}
    for place in np.flatnonzero(enough).tolist():
        members.setdefault(groups.of(panel.ids[place]), []).append(place)
    widths: dict[int, list[int]] = {}
    for places in members.values():
        if len(places) > groups.most:
            raise too_large("variates_per_group", maximum=groups.most, actual=len(places))
        widths.setdefault(len(places), []).extend(places)
    yield from widths.items()
    short = np.flatnonzero(~enough).tolist()
    if short:
        yield 1, short


def joined(parts: Sequence[Part], forecasts: Sequence[Forecast], ids: Sequence[Any]) -> Forecast:
    """The forecasts of the parts as one, in the order of `ids`."""
    if len(parts) == 1 and parts[0].places == tuple(range(len(ids))):
        return forecasts[0]
    order = np.argsort([place for part in parts for place in part.places])
    entries = [entry for forecast in forecasts for entry in forecast.series]
    ends = np.cumsum([entry.rows for entry in entries])
    rows = [np.arange(ends[at] - entries[at].rows, ends[at]) for at in order]
    table = pl.concat([forecast.table for forecast in forecasts])[np.concatenate(rows)]
    warnings = {(w.code, w.series, w.message): w for one in forecasts for w in one.warnings}
    return Forecast(table, tuple(entries[at] for at in order), tuple(warnings.values()))


def misaligned(panel: Panel, groups: Groups) -> list[Fault]:
    """The series that do not end when most of their group do; of ends as frequent the first counts."""
    ends: dict[Label, list[object]] = {}
    for name, end in zip(panel.ids, panel.ends, strict=True):
        ends.setdefault(groups.of(name), []).append(end)
    common = {label: Counter(of_group).most_common(1)[0][0] for label, of_group in ends.items()}
    message = "It does not end when most of its group do. Series of one window end together."
    return [
        Fault("group_misaligned", message, name)
        for name, end in zip(panel.ids, panel.ends, strict=True)
        if end != common[groups.of(name)]
    ]


def reduced(forecast: Forecast, panel: Panel, parts: Sequence[Part], groups: Groups) -> Forecast:
    """The forecast with a warning on each series whose window lacks some of its group."""
    seen = [part.panel.ids[place] for part in parts for place in part.plan.modelled]
    inside = Counter(map(groups.of, seen))
    place = {name: at for at, name in enumerate(panel.ids)}
    warnings = []
    for name in sorted(seen, key=place.__getitem__):
        label = groups.of(name)
        asked = groups.size(label)
        if inside[label] < asked:
            message = (
                f"The model saw {inside[label]} of the {asked} series of the group, which it reads "
                "side by side."
            )
            count = asked - inside[label]
            warnings.append(Fault("group_reduced", message, name, count=count))
    return replace(forecast, warnings=(*forecast.warnings, *warnings))
