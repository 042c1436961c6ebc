"""`tsformer explain`: what a registered model read from the newest windows, and whether it matters."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from pathlib import Path

import numpy as np
import polars as pl
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipelines.commands import agrees, labelled
from pipelines.experiment import Experiment
from pipelines.explanations import Asked, Explained, explained
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.material import Material
from pipelines.outputs import output_folder
from pipelines.registry import Registry
from tsformer.errors import DataError, IncompatibleError
from tsformer.explain import REGIME
from tsformer.faithfulness import Faithfulness

# Windows times variates that are explained, unless there are more series: each has one at least.
ROWS = 256
SHOWN = 10  # rows of a printed table
LITTLE = 1.5  # a ratio below this is not worth much, however certain
FAINT = 0.05  # of a deviation: a change that nobody would see in a figure

# the tables that are printed: a share of what, of whom, and the column it stands in
PRINTED = {
    "variables": (["role"], "variable", "importance"),
    "attention": ([], "lag", "weight"),
    "variate_attention": (["from"], "to", "weight"),
    "lags": ([], "lag", "importance"),
}


def explain_command(
    experiment_file: Path, *, home: Home, reference: str | None, out: Path | None, device: str
) -> None:
    """The tables of an explanation as Parquet, the largest entries of each on the terminal."""
    console = Console(markup=False)
    experiment = Experiment.read(experiment_file)
    if out is not None:
        output_folder(out, option="--out")
    fetched = Registry(home).fetch(reference or experiment.name)
    version = fetched.version
    forecaster = Forecaster.load(fetched.directory, digest=version.digest, device=device)
    material = Material.of(experiment)
    agrees(str(version), forecaster, material)
    asked = newest(experiment, material.read_by(forecaster), forecaster)
    try:
        found = explained(forecaster, asked)
    except IncompatibleError as error:
        raise IncompatibleError(f"{version}: {error} Choose one with --model.") from None
    folder = out or home.folder / "explanations" / f"{version.name}-{version.version}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in found.tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    console.print(
        f"{labelled(version)}: the newest {len(asked.batch)} windows of the test part, "
        f"{len(np.unique(asked.ids))} series",
        highlight=False,
    )
    show(found, console=console)
    console.print(f"Tables: {folder}", soft_wrap=True)


def newest(experiment: Experiment, material: Material, forecaster: Forecaster) -> Asked:
    """The newest windows of each group in the test part, at the cutoffs of the backtest."""
    context = max(forecaster.recipe.context, material.recipe.context)
    windows = material.scoring_windows("test", stride=experiment.backtest.stride, context=context)
    if not len(windows):
        raise DataError("The test part has no window to explain. Give it more rows.")
    groups, variates = windows.groups(), windows.shape.variates
    each = max(1, ROWS // (variates * len(np.unique(groups))))
    kept = np.concatenate([np.flatnonzero(groups == g)[-each:] for g in np.unique(groups)])
    batch, target = windows.batch(torch.from_numpy(kept))
    ids = material.ids(windows, kept)
    panel, first = material.panel, windows.grid.offsets[groups[kept]]
    rows = panel.offsets[groups[kept] * variates] + windows.cutoffs.numpy()[kept] - first
    targets = experiment.data.targets
    return Asked(
        batch=batch,
        target=target,
        ids=ids.astype(str),
        cutoffs=panel.table["time"].gather(rows),
        unit=forecaster.unit(ids, batch),
        target_name=targets[0] if len(targets) == 1 else "target",
    )


def show(found: Explained, *, console: Console) -> None:
    """The largest shares of each table, and what became of forecasts when they were hidden."""
    for name, (whole, part, value) in PRINTED.items():
        if name in found.tables:
            shares = mean_shares(found.tables[name], whole=whole, part=part, value=value)
            _print(shares, title=name.replace("_", " "), console=console)
    for line in (*_asides(found.tables), *(verdict(what, f) for what, f in found.checks.items())):
        console.print(line, highlight=False, soft_wrap=True)


def mean_shares(table: pl.DataFrame, *, whole: list[str], part: str, value: str) -> pl.DataFrame:
    """The share of each `part` of a `whole`, over all rows alike, the largest first.

    Steps, layers and series are averaged, so the shares of a whole are 1 together.
    """
    total = pl.col(value).sum()
    summed = table.group_by([*whole, part], maintain_order=True).agg(total)
    shares = summed.with_columns(pl.col(value) / (total.over(whole) if whole else total))
    return shares.sort(value, descending=True, maintain_order=True)


def _print(shares: pl.DataFrame, *, title: str, console: Console) -> None:
    shown = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for name in shares.columns[:-1]:
        shown.add_column(name, overflow="fold")
    shown.add_column("share", justify="right", no_wrap=True)
    for row in shares.head(SHOWN).iter_rows():
        shown.add_row(*map(str, row[:-1]), f"{row[-1]:.3f}")
    console.print(shown)
    if len(shares) > SHOWN:
        console.print(f"... and {len(shares) - SHOWN:,} more with less each", highlight=False)


def _asides(tables: Mapping[str, pl.DataFrame]) -> list[str]:
    """What is said in a sentence: windows out of the ordinary, and maps that resemble the data."""
    said = []
    if "regimes" in tables:
        distance = tables["regimes"]["distance"].to_numpy()
        said.append(
            f"Attention strays from the mean of its series by more than {REGIME} in "
            f"{(distance > REGIME).sum()} of {len(distance)} windows (farthest: {distance.max():.2f})."
        )
    if "resemblance" in tables:
        said += [
            f"Scores of layer {layer} and correlations of the series agree by {_signed(past)} in "
            f"the context and {_signed(future)} in the future (1: one picture, 0: none)."
            for layer, past, future in tables["resemblance"].iter_rows()
        ]
    return said


def _signed(correlation: float | None) -> str:
    return "nothing defined" if correlation is None else f"{correlation:+.2f}"


def verdict(what: str, found: Faithfulness | None) -> str:
    """Whether hiding what is called important moves forecasts more than hiding anything else."""
    if found is None:
        return f"Check of {what}: not possible, there is too little else to hide."
    if isnan(found.ratio):
        return (
            f"Check of {what}: whatever is hidden, no forecast moves. The importance says nothing."
        )
    numbers = (
        f"Check of {what}: without the {found.count} most important, forecasts move by "
        f"{found.important:.3g} deviations of their context; without {found.count} others drawn at "
        f"random, by {found.other:.3g}: {found.ratio:.2g} times as much."
    )
    return f"{numbers} {_words(found)}"


def _words(found: Faithfulness) -> str:
    if found.ratio < 1 / LITTLE:
        return "The importance misleads: the rest matters more."
    if not found.distinct:
        return "The importance says nothing: some draws of others moved forecasts as much."
    if found.ratio < LITTLE:
        return "That is little more: do not read much into the importance."
    told = "The model depends on these more than on others."
    return f"{told} Yet it hardly depends on either." if found.important < FAINT else told
