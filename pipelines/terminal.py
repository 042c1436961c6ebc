"""What a person sees on the terminal: progress bars there, plain lines in a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from tsformer.train import Progress as TrainingProgress

# column of the leaderboard -> title and format
COLUMNS = {
    "mse_scaled": ("MSE", "{:.4f}"),
    "mae_scaled": ("MAE", "{:.4f}"),
    "mase": ("MASE", "{:.3f}"),
    "rmsse": ("RMSSE", "{:.3f}"),
    "wql": ("WQL", "{:.4f}"),
    "coverage": ("cov.", "{:.1%}"),
    "fallbacks": ("fallbacks", "{:,}"),
    "fit_seconds": ("fit s", "{:.1f}"),
}


CAPTION = "MSE, MAE: in training deviations. MASE, RMSSE: 1 is in-sample seasonal naive."


@dataclass
class FitProgress:
    """Shows fits as they go: a bar a model on a terminal, a line an epoch elsewhere."""

    console: Console
    bars: Progress
    tasks: dict[str, TaskID] = field(default_factory=dict)

    def __call__(self, name: str, progress: TrainingProgress | None) -> None:
        """Takes what `fit_all` reports."""
        if progress is None:
            self.tasks[name] = self.bars.add_task(f"fit {name}", total=None, note="")
            return
        ended = progress.validation_loss is not None
        if ended and not self.console.is_terminal:
            self.console.print(f"  {name}: {_epoch(progress)}", highlight=False)
        total = progress.epochs * progress.steps
        done = (progress.epoch - 1) * progress.steps + progress.step
        self.bars.update(self.tasks[name], total=total, completed=done)
        if ended:
            self.bars.update(self.tasks[name], note=_epoch(progress))

    def finish(self) -> None:
        """Fills the bars of fits that have no epochs, and of those that stopped early."""
        for task in self.tasks.values():
            self.bars.update(task, total=1, completed=1)


@contextmanager
def fit_progress(console: Console) -> Iterator[FitProgress]:
    """Progress bars while models are fitted; hidden where the console is no terminal."""
    bars = Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )
    with bars:
        progress = FitProgress(console, bars)
        yield progress
        progress.finish()


def leaderboard_table(board: pl.DataFrame, *, title: str, nominal: float) -> Table:
    """The leaderboard as a table, best first; with the column `version` where there is one."""
    shown = [name for name in COLUMNS if name in board.columns]
    if not board["fallbacks"].sum():
        shown.remove("fallbacks")
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=title,
        title_justify="left",
        caption=CAPTION,
        caption_justify="left",
    )
    texts = [name for name in ("model", "version") if name in board.columns]
    for text in texts:
        table.add_column(text, style="bold" if text == "model" else "", overflow="fold")
    for name in shown:
        head = f"{nominal:.0%} {COLUMNS[name][0]}" if name == "coverage" else COLUMNS[name][0]
        table.add_column(head, justify="right", no_wrap=True, min_width=max(6, len(head)))
    for row in board.iter_rows(named=True):
        cells = ["-" if row[n] is None else COLUMNS[n][1].format(row[n]) for n in shown]
        table.add_row(*(row[text] for text in texts), *cells)
    return table


def _epoch(progress: TrainingProgress) -> str:
    return (
        f"epoch {progress.epoch}/{progress.epochs}  train {progress.loss:.4f}  "
        f"validation {progress.validation_loss:.4f}"
    )
