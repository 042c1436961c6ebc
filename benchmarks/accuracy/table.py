"""The results beside the published numbers, as a section of a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.accuracy.measured import (
    Measured,
    Model,
    Models,
    Row,
    Table,
    choose,
    choose_one,
    failed,
    read_all,
    write_summary,
)
from benchmarks.accuracy.prepare import cells_of
from benchmarks.accuracy.published import HONEST, PAPERS, Published
from benchmarks.accuracy.sweep import DATASETS, ROWS, Dataset
from tsformer.errors import ConfigError, DataError

BEGIN = "<!-- accuracy: made by `python -m benchmarks.accuracy table` from here -->"
END = "<!-- accuracy: to here -->"

TITLES = {row.name: row.title for row in ROWS} | {"fits": "FITS"}
ORDER = [row.name for row in ROWS]
SEEDLESS = {row.name for row in ROWS if len(row.seeds) == 1}  # nothing in them is random

INTRODUCTION = """\
MSE / MAE on the standardised test part, all windows, mean ± sample deviation over seeds. L is the
look-back. *Printed* is what the papers print, † where their loader dropped the last batch of the
test part; *last batch of n dropped* is what that loader would have printed for our models, and
*all windows* what the authors of FITS found when they scored the same models on every window.
Nothing was chosen by a test score; the models in the rows *chosen on validation* have the least
validation MSE among all rows of the data set. Cells of SAMformer (arXiv 2402.10198) and of RLinear
at L 336 (arXiv 2305.10721) are second-hand and may be off by 0.002."""


def write(results: Path, *, page: Path) -> None:
    """Puts the tables between the two marks of `page`, and `summary.json` beside the results."""
    table = read_all(results)
    if not table:
        raise DataError(f"There is no result in {results}/*.jsonl. Run some cells first.")
    section = "\n\n".join(sections(table, errors=failed(results)))
    page.write_text(between(page.read_text(encoding="utf-8"), section), encoding="utf-8")
    write_summary(table, results / "summary.json")


def between(text: str, section: str) -> str:
    """`text` with `section` between the marks; ConfigError where a mark is missing."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ConfigError(f"The page must have, once each and in this order:\n{BEGIN}\n{END}")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{rest.partition(END)[2]}"


def sections(table: Table, *, errors: Mapping[str, str]) -> Iterator[str]:
    """The section, part by part."""
    yield INTRODUCTION
    yield "\n".join(overview(table))
    for data, dataset in DATASETS.items():
        if data in table:
            yield f"### {dataset.title}"
            yield "\n".join(of_dataset(table[data], data, dataset))
    yield "\n".join(missing(table, errors))
    yield "\n".join(machines(table))


# --- the overview -----------------------------------------------------------------------------


def overview(table: Table) -> Iterator[str]:
    """Mean MSE over the horizons of what validation chooses, beside the best that was printed."""
    yield "| mean MSE over horizons | chosen for each horizon | one model for all | best printed, all windows |"
    yield "|---|---|---|---|"
    for data, dataset in DATASETS.items():
        models = table.get(data, {})
        one = choose_one(models, dataset.horizons)
        if one is None:
            continue
        picked = _picked(models, dataset.horizons)
        each, alone = (
            fmean(row[h].mean("test", "mse") for h in dataset.horizons)
            for row in (picked, models[one])
        )
        yield (
            f"| {dataset.title} | {each:.4f} | {alone:.4f} ({_named(one)}) | {_best_printed(data)} |"
        )


def _picked(models: Models, horizons: Sequence[int]) -> dict[int, Measured]:
    """What validation chooses for each horizon."""
    named = ((horizon, choose(models, horizon)) for horizon in horizons)
    return {horizon: models[model][horizon] for horizon, model in named if model}


def _best_printed(data: str) -> str:
    """The least mean among the printed ones that were scored on all windows."""
    rows = [
        (fmean(_numbers(published.cells[data])), _named(model))
        for source in (PAPERS, HONEST)
        for model, published in source.items()
        if data in published.cells and not published.drop_last
    ]
    return "{:.3f} ({})".format(*min(rows)) if rows else "–"


# --- one data set -----------------------------------------------------------------------------


def of_dataset(models: Models, data: str, dataset: Dataset) -> Iterator[str]:
    """A line for what we measured of each model, and beneath it what others printed."""
    horizons = dataset.horizons
    yield f"| model | L | | {' | '.join(map(str, horizons))} | mean |"
    yield "|---" * (len(horizons) + 4) + "|"
    for model in sorted(models, key=_order):
        name, context = model
        row = models[model]
        cells = [_ours(row[h]) if h in row else "–" for h in horizons]
        yield _line(_title(name), str(context), _seeds(name, row), [*cells, _mean(row, horizons)])
        yield from _beneath(model, row, data, horizons)
    if data in HONEST["fits", 0].cells:
        yield _line("FITS", "own", *_printed(HONEST["fits", 0], data, "all windows"))
    yield from _chosen(models, horizons)


def _beneath(model: Model, row: Row, data: str, horizons: Sequence[int]) -> Iterator[str]:
    """What the paper printed, what its loader would have printed of ours, and all windows."""
    paper, honest = PAPERS.get(model), HONEST.get(model)
    if paper and data in paper.cells:
        yield _line("", "", *_printed(paper, data, "printed"))
        if paper.drop_last:
            yield _line("", "", *_dropped(row, horizons))
    if honest and data in honest.cells:
        yield _line("", "", *_printed(honest, data, "all windows"))


def _dropped(row: Row, horizons: Sequence[int]) -> tuple[str, list[str]]:
    """MSE without the last batch."""
    scores = {horizon: cell.mean("drop_last", "mse") for horizon, cell in row.items()}
    cells = [f"{scores[h]:.4f}" if h in scores else "–" for h in horizons]
    complete = all(horizon in scores for horizon in horizons)
    batch = next(iter(row.values())).lines[0]["drop_last"]["batch"]
    mean = f"{fmean(scores.values()):.4f}" if complete else "–"
    return f"last batch of {batch} dropped", [*cells, mean]


def _chosen(models: Models, horizons: Sequence[int]) -> Iterator[str]:
    """What validation chooses for each horizon, and for all of them together."""
    row = _picked(models, horizons)
    names = {horizon: choose(models, horizon) for horizon in row}
    cells = [
        f"{_scores(row[h])} ({_named(model)})" if (model := names.get(h)) else "–" for h in horizons
    ]
    yield _line("**chosen on validation**", "", "each horizon", [*cells, _mean(row, horizons)])
    if one := choose_one(models, horizons):
        scores = [_scores(models[one][h]) for h in horizons]
        title = f"for all: {_title(one[0])}"
        mean = _mean(models[one], horizons)
        yield _line("**chosen on validation**", str(one[1]), title, [*scores, mean])


def _ours(cell: Measured) -> str:
    std = cell.std("test", "mse")
    spread = "" if std is None else f" ± {std:.4f}"
    return f"{cell.mean('test', 'mse'):.4f}{spread} / {cell.mean('test', 'mae'):.4f}"


def _scores(cell: Measured) -> str:
    return f"{cell.mean('test', 'mse'):.4f} / {cell.mean('test', 'mae'):.4f}"


def _mean(row: Row, horizons: Sequence[int]) -> str:
    """The mean of both scores over all horizons, where all are there."""
    if any(horizon not in row for horizon in horizons):
        return "–"
    mse, mae = (fmean(row[h].mean("test", metric) for h in horizons) for metric in ("mse", "mae"))
    return f"**{mse:.4f}** / {mae:.4f}"


def _seeds(name: str, row: Row) -> str:
    if name in SEEDLESS:
        return "ours"
    counts = sorted({len(cell.seeds) for cell in row.values()})
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"ours, {number} seed{'' if counts[-1] == 1 else 's'}"


def _printed(published: Published, data: str, label: str) -> tuple[str, list[str]]:
    cells = published.cells[data]
    marked = f"{label} †" if published.drop_last else label
    return marked, [*(cell.replace("/", " / ") for cell in cells), f"{fmean(_numbers(cells)):.3f}"]


def _numbers(cells: Sequence[str]) -> list[float]:
    """The MSE of printed cells."""
    return [float(cell.partition("/")[0].partition("±")[0]) for cell in cells]


def _line(model: str, context: str, what: str, cells: Sequence[str]) -> str:
    return f"| {model} | {context} | {what} | {' | '.join(cells)} |"


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _named(model: Model) -> str:
    name, context = model
    return f"{_title(name)} {context}" if context else _title(name)


def _order(model: Model) -> tuple[int, str, int]:
    name, context = model
    return (ORDER.index(name) if name in ORDER else len(ORDER), name, context)


# --- what is not there, and where the rest was made ---------------------------------------------


def missing(table: Table, errors: Mapping[str, str]) -> Iterator[str]:
    """The cells that have not been run, by data set and model, and those that failed."""
    yield "Not run, cells of all:"
    yield ""
    for data, dataset in DATASETS.items():
        wanted, left = Counter[Model](), Counter[Model]()
        for cell in cells_of(data, dataset):
            model = (cell.model, cell.context)
            wanted[model] += 1
            row = table.get(data, {}).get(model, {})
            left[model] += cell.horizon not in row or cell.seed not in row[cell.horizon].seeds
        if left.total() == wanted.total():
            yield f"- {dataset.title}: all {wanted.total()}"
        elif left.total():
            each = (f"{_named(m)} {left[m]} of {wanted[m]}" for m in wanted if left[m])
            yield f"- {dataset.title}: {', '.join(each)}"
    for name, error in errors.items():
        yield f"- {name} failed: {error.partition(chr(10))[0]}"


def machines(table: Table) -> Iterator[str]:
    """On what the results were made, and how long it took."""
    rows = (row for models in table.values() for row in models.values())
    lines = [line for row in rows for cell in row.values() for line in cell.lines]
    seconds: dict[str, list[float]] = {}
    for line in lines:
        machine = line["machine"]
        threads = f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'}"
        name = f"{machine.get('gpu', machine['processor'])}, {threads}, torch {machine['torch']}"
        seconds.setdefault(name, []).append(line["fit_s"] + line["score_s"])
    yield "Machines, shared with other work:"
    yield ""
    for name, each in seconds.items():
        yield f"- {name}: {len(each)} cells in {sum(each) / 3600:.1f} hours"
