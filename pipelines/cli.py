"""The `tsformer` command: a file and how to run it, never a hyperparameter."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.data_commands import app as data_app
from pipelines.home import Home, configure
from pipelines.key_commands import app as keys_app
from pipelines.monitor_commands import app as actuals_app
from pipelines.registry_commands import Reason
from pipelines.registry_commands import app as registry_app
from pipelines.run_commands import app as runs_app
from pipelines.schedule_commands import app as schedule_app
from tsformer.errors import TsformerError
from tsformer.memory import keep_freed_memory

app = typer.Typer(
    help="Time-series forecasts from your own machine: train, compare, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(actuals_app, name="actuals", help="What really happened, for models under watch.")
app.add_typer(data_app, name="data", help="Public benchmark sets and the shipped sample.")
app.add_typer(keys_app, name="keys", help="Who may ask the service, and as what.")
app.add_typer(schedule_app, name="schedule", help="Retraining by the clock, or on drift.")
app.add_typer(runs_app, name="runs", help="What schedules have run, and how it goes.")
app.add_typer(registry_app, name="registry", help="Versions: trust, pin, clean up, audit.")

ExperimentFile = Annotated[
    Path, typer.Argument(help="The experiment, e.g. configs/etth1/ridge.yaml.")
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="NAME, NAME@ALIAS or NAME/VERSION; repeatable.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]

WorkerCount = Annotated[
    int | None, typer.Option("--workers", help="Processes that fit each network together.")
]
WorkerGpus = Annotated[
    int | None, typer.Option("--gpus-per-worker", help="GPUs that each of them has.")
]


@app.command()
def demo() -> None:
    """From a table to a served forecast: real data, trained, compared, registered, asked by HTTP."""
    from pipelines.demo import run

    run(home())


@app.command()
def train(
    experiment: ExperimentFile,
    device: Device = "auto",
    resume: Annotated[
        str | None, typer.Option(help="The id of an interrupted run, which goes on.")
    ] = None,
    workers: WorkerCount = None,
    gpus_per_worker: WorkerGpus = None,
) -> None:
    """Fit the model and its baselines, compare them, register them in MLflow."""
    from pipelines.train_command import train_command
    from pipelines.workers import Asked

    asked = Asked(workers, gpus_per_worker)
    train_command(experiment, home=home(), device=device, resumed=resume, asked=asked)


@app.command()
def pretrain(
    experiment: ExperimentFile,
    device: Device = "auto",
    resume: Annotated[
        str | None, typer.Option(help="The id of an interrupted run, which goes on.")
    ] = None,
) -> None:
    """Make an encoder that learnt to fill in hidden values, and register it to train from."""
    from pipelines.pretrain_command import pretrain_command

    pretrain_command(experiment, home=home(), device=device, resumed=resume)


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="Names of models that were trained.")],
) -> None:
    """Show the newest comparison of some models as MLflow keeps it: scores, versions, verdict."""
    from pipelines.compare import compare_command

    compare_command(names, home=home())


@app.command()
def tune(
    experiment: ExperimentFile,
    trials: Annotated[int, typer.Option(help="Combinations to try.")] = 16,
    parallel: Annotated[int, typer.Option(help="Trials at once, a processor each.")] = 1,
    time_budget: Annotated[
        str | None, typer.Option(help="End the search after 600, 90s, 10m or 1.5h.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="The id of an interrupted search, which goes on.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the best experiment here.")] = None,
    device: Device = "auto",
    workers: WorkerCount = None,
    gpus_per_worker: WorkerGpus = None,
) -> None:
    """Search the settings of an experiment; train, compare and register the best."""
    from pipelines.tune_command import effort_of, tune_command
    from pipelines.workers import Asked

    effort = effort_of(trials, parallel, time_budget, device)
    asked = Asked(workers, gpus_per_worker)
    tune_command(experiment, home=home(), effort=effort, resumed=resume, out=out, asked=asked)


@app.command()
def backtest(
    experiment: ExperimentFile,
    model: Models = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables as Parquet.")] = None,
    device: Device = "auto",
) -> None:
    """Score registered models on the experiment's rolling origins, all on the same cutoffs."""
    from pipelines.commands import backtest_command

    backtest_command(experiment, home=home(), references=model or [], out=out, device=device)


@app.command()
def forecast(
    model: Annotated[str, typer.Argument(help="NAME, NAME@ALIAS or NAME/VERSION.")],
    table: Annotated[
        str | None,
        typer.Argument(
            help="CSV, Parquet, a folder of Parquet, or sql:...; default: what it was trained on."
        ),
    ] = None,
    horizon: Annotated[int | None, typer.Option(help="Steps ahead; default: as trained.")] = None,
    levels: Annotated[str, typer.Option(help="Quantile levels, comma-separated.")] = "0.1,0.5,0.9",
    future: Annotated[
        Path | None, typer.Option(help="Known covariates of the horizon, partitioned alike.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="A file (.csv, .parquet), or a folder: then block by block, resumable."),
    ] = Path("forecast.csv"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes for a folder; default: one a core.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Keep the forecasts, to be scored by later actuals.")
    ] = False,
) -> None:
    """Forecast every series of a table with a registered model."""
    from pipelines.forecast_command import Wanted, forecast_command

    wanted = Wanted(table, future, horizon, levels, out, workers, record)
    forecast_command(model, wanted, home=home())


@app.command()
def monitor(
    model: Annotated[str, typer.Argument(help="NAME for all its versions, or NAME/VERSION.")],
    window: Annotated[
        str, typer.Option(help="How far back from the newest actual: 30d, 12h, or steps.")
    ] = "",
    tenant: Annotated[str, typer.Option(help="Whose actuals and forecasts.")] = "default",
) -> None:
    """Show how recorded forecasts turned out, and which series drifted since the training."""
    from pipelines.monitor_commands import monitor_command

    monitor_command(model, window=window, tenant=tenant, home=home())


@app.command()
def calibrate(
    reference: Annotated[str, typer.Argument(help="NAME, NAME@ALIAS or NAME/VERSION.")],
    experiment: ExperimentFile,
    device: Device = "auto",
) -> None:
    """A new version with the same weights and intervals from newer data; nothing is fitted."""
    from pipelines.recalibration import calibrate_command

    calibrate_command(reference, experiment, home=home(), device=device)


@app.command()
def explain(
    experiment: ExperimentFile,
    model: Annotated[str | None, typer.Option(help="NAME, NAME@ALIAS or NAME/VERSION.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables as Parquet.")] = None,
    device: Device = "auto",
) -> None:
    """Show what a registered model read from the newest windows, and whether it really matters."""
    from pipelines.explain_command import explain_command

    explain_command(experiment, home=home(), reference=model, out=out, device=device)


@app.command()
def promote(
    reference: Annotated[str, typer.Argument(help="The version: NAME/VERSION or NAME@candidate.")],
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
    reason: Reason = "",
    override: Annotated[
        bool, typer.Option("--override", help="Promote what the gate refused; needs a reason.")
    ] = False,
) -> None:
    """Move an alias to a version."""
    from pipelines.registry_commands import promote_command

    promote_command(reference, home=home(), alias=alias, reason=reason, override=override)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The name of a model.")],
    from_version: Annotated[
        str | None, typer.Option("--from", help="Only if the champion is this version.")
    ] = None,
    reason: Reason = "",
) -> None:
    """Move the champion back to the version before; once, not twice."""
    from pipelines.registry_commands import rollback_command

    rollback_command(name, home=home(), from_version=from_version, reason=reason)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="Default: configs/serve.yaml.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Serve forecasts over HTTP until interrupted."""
    options = [("--config", config), ("--host", host), ("--port", port)]
    arguments = [
        text for name, value in options if value is not None for text in (name, str(value))
    ]
    # The service is a process of its own: nothing here imports it.
    os.execv(sys.executable, [sys.executable, "-m", "serving", *arguments])


def home() -> Home:
    """The home that the environment names."""
    return Home.of(os.environ)


def main() -> None:
    """Runs the command; every error is one clear message, never a traceback."""
    configure(os.environ, role="training")
    keep_freed_memory()  # the service, which stays, is another process
    signal.signal(signal.SIGTERM, _end)
    try:
        app()
    except TsformerError as error:
        _fail(str(error))
        sys.exit(2)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted.")
        sys.exit(130)
    except Exception as error:
        _fail(f"This is a defect of tsformer ({type(error).__name__}). {_kept(error)}")
        sys.exit(1)


def _end(number: int, _: FrameType | None) -> NoReturn:
    """Told to end: what is open says so on its way out, as after Ctrl-C."""
    sys.exit(128 + number)


def _fail(text: str) -> None:
    message = f"[bold red]Error:[/] {escape(text)}"
    Console(stderr=True).print(message, highlight=False, soft_wrap=True)


def _kept(error: Exception) -> str:
    """Where the traceback is: in a file, or here where none can be written."""
    trace = "".join(traceback.format_exception(error))
    path = home().folder / "crash.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(trace, encoding="utf-8")
    except OSError:
        return trace
    return f"The traceback is in {path}; please report it."
