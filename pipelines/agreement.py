"""Whether the parts of an experiment agree; each check raises ConfigError with the remedy."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from pipelines.versions import checked_new_name
from tsformer.conformal import LEVELS
from tsformer.errors import ConfigError, unlike
from tsformer.models import MODELS

if TYPE_CHECKING:
    from pipelines.experiment import Experiment


def three_days(days: tuple[str, ...]) -> bool:
    """Whether `days` are three days, one after the other."""
    try:
        parsed = [date.fromisoformat(day) for day in days]
    except ValueError:
        return False
    return len(parsed) == 3 and parsed == sorted(set(parsed))


def check_levels(section: str, levels: tuple[float, ...]) -> None:
    """Quantile levels ascend between 0 and 1."""
    if any(not 0 < level < 1 for level in levels) or [*levels] != sorted({*levels}):
        raise unlike(
            f"{section}: 'levels' must lie between 0 and 1 and ascend without repeats", [*levels]
        )


def check_name(name: str) -> None:
    """The registry takes the name."""
    try:
        checked_new_name(name)
    except ConfigError as error:
        raise ConfigError(f"'name': {error} Set it, such as name: sales.") from None


def check_reach(experiment: Experiment) -> None:
    """The backtest asks for no level that a model cannot give; else it fails after the fit."""
    own, asked = experiment.window.levels, experiment.backtest.asked
    if own and (missing := [level for level in asked if not own[0] <= level <= own[-1]]):
        raise ConfigError(
            f"window: 'levels' reach from {own[0]} to {own[-1]}, but backtest (levels, coverage) "
            f"asks for {_listed(missing)} too. Add {_listed(missing)} to window.levels, or ask "
            "for less in backtest.",
            told="window: 'levels' must reach as far as backtest (levels, coverage) asks. Add levels, "
            "or ask for less in backtest.",
        )
    calibrated = [s.kind for s in experiment.specs if not (own and s.capabilities.native_quantiles)]
    beyond = [level for level in asked if not LEVELS[0] <= level <= LEVELS[-1]]
    if calibrated and beyond:
        raise ConfigError(
            f"backtest: 'levels' and 'coverage' ask for {_listed(beyond)}; the quantiles of "
            f"{calibrated[0]} are calibrated from {LEVELS[0]} to {LEVELS[-1]}. Ask for less.",
            told=f"backtest: 'levels' and 'coverage' ask for more than {calibrated[0]} gives: its "
            f"quantiles are calibrated from {LEVELS[0]} to {LEVELS[-1]}. Ask for less.",
        )


def check_readers(experiment: Experiment) -> None:
    """A covariate that no model reads would be thought to have helped."""
    for use, key, names in _named(experiment):
        if any(getattr(spec.capabilities, use) for spec in experiment.specs):
            continue
        able = [kind for kind, spec in MODELS.items() if getattr(spec.capabilities, use)]
        kinds = ", ".join(dict.fromkeys(spec.kind for spec in experiment.specs))
        remedy = f"Take a model or baseline that does ({', '.join(able)}), or leave them out."
        raise ConfigError(
            f"'{key}' names {', '.join(names)}, but {kinds} cannot read them. {remedy}",
            told=f"'{key}' has entries, but {kinds} cannot read them. {remedy}",
        )


def check_start(experiment: Experiment) -> None:
    """Trials would begin with fresh weights, and the best settings would be those of another fit."""
    if experiment.search is not None and experiment.start is not None:
        raise ConfigError(
            "'search' tries settings on fresh weights, so they would not be the best for those of "
            "'from'. Leave one of the two out."
        )


def unread(experiment: Experiment) -> list[str]:
    """Which inputs that the experiment names some of its models cannot read, in sentences."""
    notes = []
    for use, key, names in _named(experiment):
        able = [spec.kind for spec in experiment.specs if getattr(spec.capabilities, use)]
        blind = [spec.kind for spec in experiment.specs if spec.kind not in able]
        if blind:
            notes.append(
                f"{key} ({', '.join(names)}): read by {', '.join(able)}, not by {', '.join(blind)}."
            )
    return notes


def _named(experiment: Experiment) -> list[tuple[str, str, tuple[str, ...]]]:
    """Each kind of input that the experiment names: the capability, the key, and the columns."""
    data, window = experiment.data, experiment.window
    columns = [
        ("known", "data.known", data.known),
        ("known", "window.features", window.features),
        ("lags", "window.lags", tuple(map(str, window.lags))),
        ("past", "data.past", data.past),
        ("static", "data.static", data.static),
    ]
    return [(use, key, names) for use, key, names in columns if names]


def _listed(levels: list[float]) -> str:
    return ", ".join(str(level) for level in levels)
