"""The main job on the shipped data: train, compare, register, serve, ask, check.

Everything lives under the project's home (`TSFORMER_HOME`, default `.tsformer`): MLflow's SQLite
file and artifacts, the service's model cache, the picture.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from pipelines.audit import Actor
from pipelines.config_files import config_path
from pipelines.data_section import read
from pipelines.experiment import Experiment
from pipelines.figures import FanChart, forecast_figure
from pipelines.home import Home
from pipelines.keys import TENANT, add_key, all_keys
from pipelines.panel import Panel
from pipelines.registry import Registry
from pipelines.sheet import save_figure
from pipelines.store import Store
from pipelines.train_command import Outcome, Ticket, show_training, train_and_register
from tsformer.errors import TsformerError

CONFIG = "flights/patchtst.yaml"
SENT = 1_008  # hours of history in a request: twice the context, to scale the errors by
SHOWN = ("JFK-B6", "EWR-UA", "LGA-DL", "JFK-AA")  # busy and quiet, each with its own week
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
HISTORY_SHOWN = 96  # hours before the forecast
READY_SECONDS = 120
KEY_SECONDS = 600  # longer than the service lives here


def run(home: Home) -> None:
    """Runs the demo; prints what happens and where to look further."""
    console = Console()
    experiment = Experiment.read(config_path(CONFIG))
    horizon = experiment.window.horizon

    console.rule("1  Train and compare")
    ticket = Ticket(command=f"tsformer train configs/{CONFIG} --resume")
    outcome = train_and_register(experiment, home=home, console=console, ticket=ticket)
    show_training(outcome, console=console)

    console.rule("2  Serve")
    panel, _, _ = read(experiment.data)
    headers = key_header(home)
    with service(console, home=home, model=experiment.name) as address:
        console.rule("3  Ask over HTTP for the last week, which no model has seen")
        body = request_body(panel, model=experiment.name, horizon=horizon)
        started = time.perf_counter()
        answer = post(f"{address}/v1/forecasts", body, headers)
        elapsed = time.perf_counter() - started
        model = answer["model"]
        kind = Registry(home).describe("{name}/{version}".format_map(model)).kind
        console.print(
            f"POST {address}/v1/forecasts with {len(SHOWN)} series of "
            f"{SENT:,} hours: {elapsed * 1000:.0f} ms, answered by "
            f"{model['name']} version {model['version']} ({kind})."
        )
        console.print(accuracy_table(panel, answer, horizon=horizon))
        asked = compare_body(panel, references(outcome), horizon=horizon)
        compared = post(f"{address}/v1/compare", asked, headers)
        console.print(comparison_table(compared, outcome))
        picture = draw(panel, answer, home=home, horizon=horizon)
    console.rule("Done")
    console.print(f"Picture:   {picture}", soft_wrap=True)
    console.print("Service:   tsformer serve        then http://127.0.0.1:8000/docs")
    console.print(f"Runs:      mlflow ui --backend-store-uri {home.uri}", soft_wrap=True)
    console.print("Your data: docs/guide.md")


@contextmanager
def service(console: Console, *, home: Home, model: str) -> Iterator[str]:
    """The service as a process of its own, ready to answer; ended on the way out."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    log = home.folder / "service.log"
    command = [sys.executable, "-m", "serving", "--port", str(port), "--model", model]
    started = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        await_ready(process, address, log=log)
        console.print(f"Ready at {address} after {time.perf_counter() - started:.0f} s.")
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_ready(process: subprocess.Popen[bytes], address: str, *, log: Path) -> None:
    """Waits until the service has its model loaded and warm."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{address}/health/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    raise TsformerError(
        f"The service did not become ready within {READY_SECONDS} s; its log: {log}"
    )


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def key_header(home: Home) -> dict[str, str]:
    """A key of a few minutes where this home's service wants one; nothing where it is open."""
    store = Store.of(home)
    if not all_keys(store).keys:
        return {}
    key, _ = add_key(store, "forecaster", tenant=TENANT, lives_s=KEY_SECONDS, who=Actor.here())
    return {"Authorization": f"Bearer {key}"}


def post(address: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """The answer to a request; a problem becomes an error with its title and detail."""
    reply = httpx.post(address, json=body, headers=headers, timeout=60)
    if reply.is_error:
        problem = reply.json()
        raise TsformerError(f"{problem['title']}: {problem['detail']}")
    answer: dict[str, Any] = reply.json()
    return answer


def rows_of(panel: Panel, *, horizon: int, held_out: bool) -> pl.DataFrame:
    """The shown series without their last `horizon` rows, or with them."""
    wanted = pl.DataFrame(
        {"series": [panel.ids.index(name) for name in SHOWN], "unique_id": SHOWN},
        schema_overrides={"series": panel.table["series"].dtype},
    )
    rows = panel.table.join(wanted, on="series", maintain_order="left")
    return (
        rows
        if held_out
        else rows.filter(pl.int_range(pl.len()).over("series") < pl.len().over("series") - horizon)
    )


def columns(rows: pl.DataFrame) -> dict[str, list[Any]]:
    """Rows as the columnar table of a request."""
    return {
        "unique_id": rows["unique_id"].to_list(),
        "ds": [stamp.isoformat() for stamp in rows["time"]],
        "y": rows["y"].to_list(),
    }


def request_body(panel: Panel, *, model: str, horizon: int) -> dict[str, Any]:
    """A forecast request for the shown series up to the held-out week."""
    rows = rows_of(panel, horizon=horizon, held_out=False)
    return {
        "model": model,
        "h": horizon,
        "freq": "h",
        "tz": panel.tz,
        "quantiles": list(LEVELS),
        "data": columns(rows.group_by("series", maintain_order=True).tail(SENT)),
    }


def references(outcome: Outcome) -> list[str]:
    """The versions that were compared."""
    return [str(version) for version in outcome.versions.values()]


def compare_body(panel: Panel, references: list[str], *, horizon: int) -> dict[str, Any]:
    """The same series with the week included, of which the service holds back `horizon` rows."""
    rows = rows_of(panel, horizon=horizon, held_out=True)
    return {
        "models": references,
        "h": horizon,
        "freq": "h",
        "tz": panel.tz,
        "data": columns(rows.group_by("series", maintain_order=True).tail(SENT + horizon)),
        "options": {"holdout": horizon, "baselines": False},
    }


def actuals(panel: Panel, name: str, *, horizon: int) -> np.ndarray:
    """The held-out values of a series."""
    end = panel.offsets[panel.ids.index(name) + 1]
    return panel.target[end - horizon : end]


def answered(answer: Mapping[str, Any], name: str) -> pl.DataFrame:
    """The rows of one series in a forecast answer."""
    return pl.DataFrame(answer["forecast"]).filter(pl.col("unique_id") == name)


def accuracy_table(panel: Panel, answer: Mapping[str, Any], *, horizon: int) -> Table:
    """How the answer compares with what happened and with last week repeated."""
    table = Table(title="Departures an hour in the held-out week", title_justify="left")
    for head in ("series", "mean actual", "MAE", "MAE of last week", "inside 80 % band"):
        table.add_column(head, justify="left" if head == "series" else "right")
    for name in SHOWN:
        truth, rows = actuals(panel, name, horizon=horizon), answered(answer, name)
        end = panel.offsets[panel.ids.index(name) + 1] - horizon
        week = panel.target[end - 168 : end][:horizon]
        inside = (rows["q0.1"].to_numpy() <= truth) & (truth <= rows["q0.9"].to_numpy())
        table.add_row(
            name,
            f"{np.nanmean(truth):.2f}",
            f"{np.nanmean(np.abs(truth - rows['mean'].to_numpy())):.2f}",
            f"{np.nanmean(np.abs(truth - week)):.2f}",
            f"{np.nanmean(inside):.0%}",
        )
    return table


def comparison_table(compared: Mapping[str, Any], outcome: Outcome) -> Table:
    """The leaderboard that the service made of the same week."""
    table = Table(title="POST /v1/compare on the same week", title_justify="left")
    for head in ("model", "MASE", "MAE", "RMSE"):
        table.add_column(head, justify="left" if head == "model" else "right")
    for row in compared["leaderboard"]:
        values = (row["metrics"][name] for name in ("mase", "mae", "rmse"))
        table.add_row(
            outcome.kind(row["model"]["version"]),
            *("-" if value is None else f"{value:.3f}" for value in values),
        )
    return table


def draw(panel: Panel, answer: Mapping[str, Any], *, home: Home, horizon: int) -> Path:
    """History, forecast fan and actuals of the shown series as a picture."""
    charts = []
    for name in SHOWN:
        rows, position = answered(answer, name), panel.ids.index(name)
        start, end = panel.offsets[position], panel.offsets[position + 1]
        times = panel.table["time"][start:end].dt.replace_time_zone(None).to_numpy()
        values = panel.target[start:end]
        column = {level: rows[f"q{level:g}"].to_numpy() for level in LEVELS}
        charts.append(
            FanChart(
                title=name,
                times=times[-horizon - HISTORY_SHOWN : -horizon],
                history=values[-horizon - HISTORY_SHOWN : -horizon],
                future_times=times[-horizon:],
                actual=values[-horizon:],
                point=column[0.5],
                bands={
                    (0.1, 0.9): (column[0.1], column[0.9]),
                    (0.25, 0.75): (column[0.25], column[0.75]),
                },
            )
        )
    picture = home.folder / "demo.png"
    title = "A week of departures from New York, forecast over HTTP"
    save_figure(forecast_figure(charts, title=title, unit="departures an hour"), picture)
    return picture
