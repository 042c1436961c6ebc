"""From an inquiry to the windows that a model is asked about, or the problem why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.forecast import Forecast
from pipelines.forecaster import Forecaster
from pipelines.plan import Plan
from serving.baselines import built_in, check_fits
from serving.groups import Groups, Part, groups_of, joined, misaligned, parts_of, reduced
from serving.host import Answered
from serving.inquiry import Inquiry, horizon_of
from serving.limits import NUMBER_BYTES
from serving.models import Model
from serving.problems import Item, Problem
from serving.schemas.series import Options
from serving.service import Service
from serving.threads import off_loop
from tsformer.errors import DataError, Fault

ROUNDS = 5  # of leaving series out of a window: for their ends, and for each kind of covariate


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is to be asked of a model: the series of `inquiry` that it is given, in parts."""

    model: Model
    inquiry: Inquiry
    parts: tuple[Part, ...]
    groups: Groups
    faults: tuple[Fault, ...]  # of series that the model has to leave out
    fallback: str

    def assembled(self, answered: Sequence[Answered]) -> Forecast:
        """The forecast of all series from the answer to each part."""
        forecaster = self.model.forecaster
        forecasts = [
            _labelled(
                forecaster.assemble(part.panel, part.plan, one.values, self.inquiry.levels),
                part.plan,
                one,
            )
            for part, one in zip(self.parts, answered, strict=True)
        ]
        forecast = joined(self.parts, forecasts, self.inquiry.panel.ids)
        if not forecaster.recipe.joint:
            return forecast
        return reduced(forecast, self.inquiry.panel, self.parts, self.groups)


async def prepare(service: Service, model: Model | None, inquiry: Inquiry) -> Prepared:
    """The questions to `model` (None: the built-in baseline of `inquiry`), or why there are none.

    A model that reads series side by side (`recipe.joint`) gets a window a group; with
    `on_invalid` skip the series that do not fit are left out.
    """
    limits, options, levels = service.settings.limits, inquiry.options, inquiry.levels
    series = len(inquiry.panel.ids)
    horizon = horizon_of(model, inquiry.panel, inquiry.asked, limits.horizon)
    numbers = series * horizon * (1 + len(levels))
    limits.check_output(numbers)
    inquiry = replace(inquiry, size=max(inquiry.size, NUMBER_BYTES * numbers))
    if model is None:
        check_fits(inquiry.built_in, limits, fits=series)
        model = _baseline(inquiry, horizon)
    _check_levels(model.forecaster, levels)
    groups = groups_of(
        inquiry.asked, options, requested=inquiry.requested, most=limits.variates_per_group
    )
    fallback = options.fallback or service.settings.defaults.fallback
    inquiry, parts, faults = await off_loop(
        inquiry.size, _planned, model.forecaster, inquiry, groups,
        horizon=horizon, fallback=fallback,
    )  # fmt: skip
    if fallback == "none":
        _refuse_short(parts, options)
        parts = tuple(replace(part, plan=replace(part.plan, fallback=None)) for part in parts)
    return Prepared(model, inquiry, parts, groups, faults, fallback)


def _baseline(inquiry: Inquiry, horizon: int) -> Model:
    """The built-in baseline as a model."""
    name = inquiry.built_in
    forecaster = built_in(name, inquiry.panel, horizon=horizon, levels=inquiry.levels)
    return Model(name, None, None, None, forecaster)


def _planned(
    forecaster: Forecaster, inquiry: Inquiry, groups: Groups, *, horizon: int, fallback: str
) -> tuple[Inquiry, tuple[Part, ...], tuple[Fault, ...]]:
    """The series that fit into their windows, what is asked of them, and why the others do not."""
    faults: tuple[Fault, ...] = ()
    for left in reversed(range(ROUNDS)):
        panel = inquiry.panel
        try:
            parts = parts_of(
                forecaster, panel, groups, horizon=horizon, fallback=fallback,
                future=inquiry.future,
            )  # fmt: skip
            break
        except DataError as error:
            apart = any(fault.code == "group_misaligned" for fault in error.faults)
            if inquiry.options.on_invalid == "fail" or not apart or not left:
                raise
            left_out = misaligned(panel, groups) or error.faults
        faults += tuple(left_out)
        names = {fault.series for fault in left_out}
        kept = [i for i, name in enumerate(panel.ids) if name not in names]
        inquiry = replace(inquiry, panel=panel.take(kept))
    return inquiry, parts, faults


def _check_levels(forecaster: Forecaster, levels: Sequence[float]) -> None:
    served = forecaster.levels
    if not levels or (served and served[0] <= levels[0] and levels[-1] <= served[-1]):
        return
    able = f"levels from {served[0]:g} to {served[-1]:g}" if served else "no quantiles"
    item = Item(f"This model serves {able}.", "/quantiles")
    raise Problem("model-incompatible", "The model cannot serve these quantiles.", [item])


def _refuse_short(parts: Sequence[Part], options: Options) -> None:
    short = [part.panel.ids[position] for part in parts for position in part.plan.short]
    if options.on_invalid == "fail" and short:
        items = [
            Item("Too little history for this model.", "/data", "insufficient_history", name)
            for name in short
        ]
        detail = (
            f"{len(items)} series have too little history. Send more rows, or allow a fallback."
        )
        raise Problem("insufficient-history", detail, items)


def _labelled(forecast: Forecast, plan: Plan, answered: Answered) -> Forecast:
    """The forecast with the reason `model_error` where the model raised."""
    if not answered.failed:
        return forecast
    variates = plan.course.whole.variates
    failed = [row * variates + place for row in answered.failed for place in range(variates)]
    raised = {plan.modelled[place] for place in failed}
    series = tuple(
        replace(entry, fallback={**entry.fallback, "reason": "model_error"})
        if position in raised and entry.fallback
        else entry
        for position, entry in enumerate(forecast.series)
    )
    return replace(forecast, series=series)
