"""What a person sees of a model under watch: live scores by version, and the series that drifted."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipelines.drift import sentence
from pipelines.monitor import Condition, Monitor

SHOWN = 10  # drifted series
METRICS = {"mase": "{:.3f}", "wql": "{:.4f}", "mae": "{:.4g}", "rmse": "{:.4g}"}


def show(found: Monitor, *, console: Console) -> None:
    """Live scores, then drift."""
    lives = [condition.live for condition in found.conditions if condition.live is not None]
    if lives:
        console.print(_scores(found))
    else:
        _say(
            console,
            f"{found.model}: no actual after {found.after} was forecast with --record (tsformer "
            f"forecast {found.model} --record), so its accuracy is not known.",
        )
    for condition in found.conditions:
        _show_drift(found, condition, console=console)


def _scores(found: Monitor) -> Table:
    lives = [condition.live for condition in found.conditions if condition.live is not None]
    shares = sorted({share for live in lives for share in live.coverage}, key=float)
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_justify="left",
        title=f"{found.model}: actuals after {found.after} up to {found.until}",
    )
    heads = ["version", "points", "series", "fallback", *(name.upper() for name in METRICS)]
    for head in [*heads, *(f"{float(share):.0%} cov." for share in shares)]:
        table.add_column(head, justify="left" if head == "version" else "right", no_wrap=True)
    for live in lives:
        table.add_row(
            live.version,
            f"{live.points:,}",
            f"{live.series:,}",
            f"{live.fallbacks:,}",
            *(_number(live.metrics.get(name), form) for name, form in METRICS.items()),
            *(_number(live.coverage.get(share), "{:.1%}") for share in shares),
        )
    return table


def _show_drift(found: Monitor, condition: Condition, *, console: Console) -> None:
    if condition.found is None:
        return
    _say(console, f"{found.model}/{condition.version}: {sentence(condition.found)}")
    drifts = condition.found.drifts
    for drift in drifts[:SHOWN]:
        since = found.stamp(drift.since_us)
        _say(
            console,
            f"  {drift.unique_id}: {drift.kind} since {since}, {drift.score:.1f} times the limit",
        )
    if len(drifts) > SHOWN:
        _say(console, f"  ... and {len(drifts) - SHOWN} more")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
