"""What a person sees of a search: a line a trial as it ends, a table and importances at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipelines.search import Parameters
from pipelines.trials import COMPARED, Trial, best_of

BAR = 30  # characters of a full bar
LOG_WIDTH = 200  # characters of a line in a file
ENOUGH = 10  # trials for each setting, below which an importance is a hint
EPOCHS = "training.epochs"


@dataclass
class SearchProgress:
    """Takes every change of a trial: a bar for each that runs, a line for each that has ended."""

    console: Console
    bars: Progress
    epochs: int  # of a trial, unless they are searched
    trials: dict[int, Trial] = field(default_factory=dict)
    tasks: dict[int, TaskID] = field(default_factory=dict)

    def __call__(self, trial: Trial) -> None:
        """A trial that began, said something or ended."""
        self.trials[trial.number] = trial
        if trial.state == "running":
            self._running(trial)
            return
        if trial.number in self.tasks:
            self.bars.remove_task(self.tasks.pop(trial.number))
        best = best_of(self.trials.values())
        self.console.print(line(trial, best), highlight=False, soft_wrap=True)

    def _running(self, trial: Trial) -> None:
        epochs = trial.parameters.get(EPOCHS, self.epochs)
        if trial.number not in self.tasks:
            name, note = f"trial {trial.number}", settings(trial.parameters)
            self.tasks[trial.number] = self.bars.add_task(name, total=epochs, note=note)
        if trial.epochs:
            note = f"epoch {trial.last}/{epochs}  {trial.loss:.4f}  {settings(trial.parameters)}"
            self.bars.update(self.tasks[trial.number], completed=trial.last, note=note)


@contextmanager
def search_progress(console: Console, *, epochs: int) -> Iterator[SearchProgress]:
    """Bars while trials run; hidden where the console is no terminal."""
    bars = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=BAR),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bars:
        yield SearchProgress(console, bars, epochs)


def line(trial: Trial, best: Trial | None) -> str:
    """A trial that has ended, in one line, and the best so far."""
    told = [f"  trial {trial.number:>2} {trial.state:<8}", escape(settings(trial.parameters))]
    if trial.epochs:
        told.insert(1, f"{_loss(trial):>8}  {trial.last:>3} epochs {trial.seconds:>6.1f} s")
    if trial.state not in COMPARED:
        told.append(escape(trial.reason))
    elif best is trial:
        told.append("[bold]the best so far[/]")
    elif best is not None:
        told.append(f"(best so far: trial {best.number}, {best.loss:.4f})")
    return "  ".join(told)


def settings(parameters: Parameters) -> str:
    """`width 32, learning_rate 0.002`."""
    short = short_names(parameters)
    return ", ".join(f"{short[name]} {_value(value)}" for name, value in parameters.items())


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted name, unless two end alike."""
    names = [*names]
    last = {name: name.rpartition(".")[2] for name in names}
    alike = [*last.values()]
    return {name: short if alike.count(short) == 1 else name for name, short in last.items()}


def show_trials(trials: Sequence[Trial], *, title: str, console: Console) -> None:
    """All trials, the best first; a log has room for every column."""
    wide = console if console.is_terminal else Console(file=console.file, width=LOG_WIDTH)
    wide.print(_table(trials, title=title))


def _table(trials: Sequence[Trial], *, title: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")
    table.add_column("trial", justify="right", style="bold")
    table.add_column("state")
    names = [*trials[0].parameters] if trials else []
    for head in (*short_names(names).values(), "loss", "epochs", "seconds"):
        table.add_column(head, justify="right", overflow="fold")
    for trial in ranked(trials):
        cells = [_value(trial.parameters[name]) for name in names]
        spent = [f"{trial.last}", f"{trial.seconds:.1f}"] if trial.epochs else ["-", "-"]
        table.add_row(str(trial.number), trial.state, *cells, _loss(trial), *spent)
    return table


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Those that may be the best by their loss, then the others in their order."""
    return sorted(
        trials,
        key=lambda t: (
            t.state not in COMPARED or not t.epochs,
            t.loss if t.epochs else 0,
            t.number,
        ),
    )


def show_importances(
    shares: Mapping[str, float] | None, trials: Sequence[Trial], console: Console
) -> None:
    """A bar a setting, or the sentence that there are too few trials."""
    compared = sum(trial.state in COMPARED and bool(trial.epochs) for trial in trials)
    if shares is None:
        console.print(
            f"Importance of the settings: {compared} trials came through, too few to tell.",
            highlight=False,
        )
        return
    hint = ", a hint at best" if compared < ENOUGH * len(shares) else ""
    console.print(f"Importance of the settings, by {compared} trials{hint}:", highlight=False)
    width = max(map(len, shares))
    for name, share in shares.items():
        bar = "█" * round(BAR * share)
        console.print(f"  {name:<{width}}  {share:>4.0%}  {bar}", highlight=False)


def _loss(trial: Trial) -> str:
    return f"{trial.loss:.4f}" if trial.epochs else "-"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
