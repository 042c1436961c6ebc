"""The accuracy benchmark: what it scores, what it runs again, what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.cells import Cell, Series, chosen, write_cells, write_series
from benchmarks.accuracy.measured import choose, choose_one, tabulate
from benchmarks.accuracy.prepare import cells_of, series_of
from benchmarks.accuracy.published import HONEST, PAPERS
from benchmarks.accuracy.results import append, read
from benchmarks.accuracy.run import measure, run
from benchmarks.accuracy.score import Errors, errors
from benchmarks.accuracy.sweep import BY_HORIZON, DATASETS, LTSF_LOADER, ROWS, Dataset
from benchmarks.accuracy.table import BEGIN, END, between, of_dataset
from tsformer.errors import ConfigError, DataError
from tsformer.models import build
from tsformer.models.linear import NLinearSpec
from tsformer.models.naive import LastValueSpec
from tsformer.models.ridge import RidgeSpec
from tsformer.runtime import Runtime
from tsformer.train import Training

REPOSITORY = Path(__file__).parents[2]
SERIES = Series(np.random.default_rng(0).normal(size=(300, 2)).cumsum(axis=0), parts=(180, 60, 60))
CELL = Cell(
    data="walk",
    model="ridge",
    context=16,
    horizon=4,
    spec=RidgeSpec(),
    training=Training(epochs=1),
    loader_batch=8,
)

# Rows of the parts, test windows at each horizon, and how many of them PatchTST's loader loses:
# arXiv 2012.07436 and the official loaders, counted by their authors' code.
ETTH, ETTM, WEATHER = (8640, 2880, 2880), (34560, 11520, 11520), (36887, 5270, 10539)
COUNTS = [
    (ETTH, 96, 2785, 97),
    (ETTH, 192, 2689, 1),
    (ETTH, 336, 2545, 113),
    (ETTH, 720, 2161, 113),
    (ETTM, 96, 11425, 33),
    (ETTM, 720, 10801, 49),
    (WEATHER, 96, 10444, 76),
    (WEATHER, 720, 9820, 92),
]


@pytest.mark.parametrize(("parts", "horizon", "windows", "lost"), COUNTS)
def test_every_window_is_scored_and_the_loader_loses_what_it_lost(
    parts: tuple[int, int, int], horizon: int, windows: int, lost: int
) -> None:
    """A test part that is cut short makes ETTh2 at 336 look a tenth better than it is."""
    series = Series(np.arange(sum(parts), dtype=np.float64)[:, None], parts=parts)
    for context in (336, 720):
        assert len(series.windows(context=context, horizon=horizon)["test"]) == windows
    ones = np.ones(windows)
    assert Errors(ones, ones, ones).without_last_batch(128)["windows"] == windows - lost


def test_a_context_longer_than_the_training_part_is_refused() -> None:
    """Fewer validation windows than another context has would make the choice between them unfair."""
    with pytest.raises(DataError, match="expected 57"):
        SERIES.windows(context=200, horizon=4)


def test_scores_are_means_over_all_targets_that_were_observed() -> None:
    """Means of batch means weigh the last batch too much; a gap must not count as a zero."""
    values = SERIES.values.copy()
    values[250:260, 0] = np.nan
    windows = replace(SERIES, values=values).windows(context=16, horizon=4)
    runtime = Runtime(build(LastValueSpec(), windows["test"].shape), device="cpu")
    found = errors(runtime, windows["test"])
    scaled = (values - np.nanmean(values[:180], 0)) / np.nanstd(values[:180], 0)
    gaps = []
    for cutoff in range(240, 297):
        past = scaled[cutoff - 16 : cutoff]
        last = [column[~np.isnan(column)][-1] for column in past.T]
        gaps.append(scaled[cutoff : cutoff + 4] - last)
    expected = np.stack(gaps)
    assert found.mean()["windows"] == 57
    assert found.mean()["mse"] == pytest.approx(np.nanmean(expected**2), rel=1e-5)
    assert found.mean()["mae"] == pytest.approx(np.nanmean(np.abs(expected)), rel=1e-5)
    dropped = found.without_last_batch(8)
    assert dropped["mse"] == pytest.approx(np.nanmean(expected[:56] ** 2), rel=1e-5)


BARE = """
import importlib.abc, sys
HIDDEN = {
    "polars", "ray", "mlflow", "pydantic", "fastapi", "starlette", "pyarrow", "sqlalchemy", "httpx",
    "typer", "yaml", "rich", "configs", "serving",
}
class Hider(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r} (hidden)", name=name)
sys.meta_path.insert(0, Hider())
from benchmarks.accuracy.__main__ import main
failed = main(["run", sys.argv[1], "--device", "cpu"])
used = {name for name in sys.modules if name.startswith("pipelines.")}
assert used == {"pipelines.windows"}, used
sys.exit(failed)
"""


def folder(tmp_path: Path, *cells: Cell) -> Path:
    write_series(tmp_path, "walk", SERIES)
    write_cells(tmp_path, cells)
    return tmp_path


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_cells_run_where_only_torch_is_installed(tmp_path: Path) -> None:
    """A GPU machine has an image of its own; what is missing there is seen after an hour's queue."""
    descended = replace(CELL, model="nlinear", spec=NLinearSpec())
    place = folder(tmp_path, CELL, descended)
    command = [sys.executable, "-c", BARE, str(place)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ridge, nlinear = lines(place / "results.jsonl")
    assert ridge["test"]["windows"] == 57
    assert ridge["drop_last"] | {"mse": 0, "mae": 0} == {
        "batch": 8, "windows": 56, "mse": 0, "mae": 0,
    }  # fmt: skip
    assert nlinear["parameters"] == 16 * 4 + 4
    assert nlinear["machine"]["torch"] == torch.__version__


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    """A night's run that stops at cell 300 must go on there, even from a line that was torn."""
    other = replace(CELL, training=replace(CELL.training, seed=1))
    place = folder(tmp_path, CELL, other)
    results = place / "results.jsonl"
    assert run([CELL], folder=place, results=results, device="cpu") == 0
    results.write_text(results.read_text() + '{"cell": {"data": "wa')
    assert run([CELL, other], folder=place, results=results, device="cpu") == 0
    assert [cell for cell, _ in read(results)] == [CELL, other]
    changed = replace(CELL, spec=RidgeSpec(center="last"))
    run([changed, other], folder=place, results=results, device="cpu")
    assert [cell for cell, _ in read(results)] == [CELL, other, changed]


def test_a_cell_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    """One cell that cannot be run must not cost those after it."""
    broken = replace(CELL, context=200)
    place = folder(tmp_path, broken, CELL)
    results = place / "results.jsonl"
    for _ in range(2):
        assert run([broken, CELL], folder=place, results=results, device="cpu") == 1
    error, score, again = lines(results)
    assert error["error"].startswith("DataError")
    assert again["error"] == error["error"]
    assert "test" in score


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device that is asked for")
def test_a_device_that_is_not_there_stops_before_the_first_cell(tmp_path: Path) -> None:
    """A mistyped device must not write an error for each of a thousand cells."""
    place = folder(tmp_path, CELL)
    assert main(["run", str(place), "--device", "cuda"]) == 2
    assert not (place / "results.jsonl").exists()


def test_equal_cells_have_equal_scores() -> None:
    """Without it nobody can tell a better model from another run."""
    cell = replace(CELL, model="nlinear", spec=NLinearSpec())
    torch.manual_seed(1)
    first = measure(cell, SERIES, device="cpu")
    torch.manual_seed(2)
    second = measure(cell, SERIES, device="cpu")
    assert first["test"] == second["test"]
    other = replace(cell, training=replace(cell.training, seed=1))
    assert measure(other, SERIES, device="cpu")["test"] != first["test"]


def test_patterns_choose_cells_in_their_order() -> None:
    cells = [replace(CELL, model=name) for name in ("linear", "ridge-last", "ridge-mean")]
    names = [cell.model for cell in chosen(cells, ["walk/ridge-m*", "*/ridge*", "*/4/0"])]
    assert names == ["ridge-mean", "ridge-last", "linear"]


# --- the table --------------------------------------------------------------------------------


def line(cell: Cell, *, validation: float, test: float, finished: str = "1") -> dict[str, Any]:
    def scores(mse: float) -> dict[str, float]:
        return {"mse": mse, "mae": mse / 2, "batch": 128}

    return {
        "cell": cell.to_mapping(),
        "validation": scores(validation),
        "test": scores(test),
        "drop_last": scores(test - 0.01),
        "finished": finished,
    }


def test_validation_chooses_and_the_test_part_does_not() -> None:
    """A table that picks rows by their test score prints numbers that nobody will meet again."""
    cells = {
        (name, horizon): replace(CELL, model=name, horizon=horizon)
        for name in ("good", "lucky")
        for horizon in (96, 192)
    }
    scores = {
        ("good", 96): (0.3, 0.5),
        ("good", 192): (0.4, 0.6),
        ("lucky", 96): (0.5, 0.1),
        ("lucky", 192): (0.39, 0.9),
    }
    table = tabulate(
        (cells[key], line(cells[key], validation=validation, test=test))
        for key, (validation, test) in scores.items()
    )
    assert choose(table["walk"], 96) == ("good", 16)
    assert choose(table["walk"], 192) == ("lucky", 16)
    assert choose_one(table["walk"], (96, 192)) == ("good", 16)
    assert choose_one(table["walk"], (96, 192, 336)) is None


def test_seeds_of_another_setting_are_not_averaged_in() -> None:
    """A learning rate changed after some seeds would leave a mean that no configuration has."""
    old = replace(CELL, training=Training(learning_rate=0.1, seed=2))
    seeds = [replace(CELL, training=Training(learning_rate=0.2, seed=seed)) for seed in (0, 1)]
    repeated = line(seeds[0], validation=1, test=0.5, finished="2")
    table = tabulate(
        [
            (seeds[0], line(seeds[0], validation=1, test=9.0, finished="1")),
            (seeds[1], line(seeds[1], validation=1, test=0.7, finished="3")),
            (old, line(old, validation=1, test=5.0, finished="0")),
            (seeds[0], repeated),
        ]
    )
    measured = table["walk"]["ridge", 16][4]
    assert measured.seeds == [0, 1]
    assert measured.mean("test", "mse") == pytest.approx(0.6)
    assert measured.std("test", "mse") == pytest.approx(0.1 * 2**0.5)


def test_ours_stand_beside_the_papers() -> None:
    """A reader must see look-back, seeds, and what the official loader would have printed."""
    cell = replace(CELL, model="dlinear", context=336)
    pairs = [
        (one, line(one, validation=1.0, test=0.4))
        for horizon in (96, 192, 336, 720)
        for one in [replace(cell, horizon=horizon)]
    ]
    models = tabulate(pairs)["walk"]
    text = "\n".join(of_dataset(models, "etth1", DATASETS["etth1"]))
    assert "| DLinear | 336 | ours, 1 seed | 0.4000 / 0.2000 |" in text
    assert "|  |  | printed † | 0.375 / 0.399 |" in text
    assert "|  |  | last batch of 128 dropped | 0.3900 |" in text
    assert "|  |  | all windows | 0.384 |" in text
    assert "| **0.4000** / 0.2000 |" in text


def test_the_page_keeps_what_is_written_by_hand() -> None:
    page = f"# Results\n\n{BEGIN}\nold\n{END}\n\nBy hand.\n"
    once = between(page, "new")
    assert "old" not in once
    assert once.startswith("# Results\n")
    assert once.endswith(f"{END}\n\nBy hand.\n")
    assert between(once, "new") == once
    with pytest.raises(ConfigError, match="once each"):
        between("# Results\n", "new")


# The means of MSE over the four horizons that the papers print themselves, or MODELS of theirs.
MEANS = {
    ("patchtst", 512, "weather"): 0.225,
    ("patchtst", 512, "traffic"): 0.391,
    ("patchtst", 512, "electricity"): 0.159,
    ("patchtst", 512, "etth1"): 0.413,
    ("patchtst", 512, "etth2"): 0.331,
    ("patchtst", 512, "ettm1"): 0.353,
    ("patchtst", 512, "ettm2"): 0.256,
    ("patchtst", 336, "weather"): 0.229,
    ("patchtst", 336, "traffic"): 0.396,
    ("patchtst", 336, "electricity"): 0.162,
    ("patchtst", 336, "etth1"): 0.417,
    ("patchtst", 336, "etth2"): 0.331,
    ("patchtst", 336, "ettm1"): 0.352,
    ("patchtst", 336, "ettm2"): 0.258,
    ("patchtst", 104, "ili"): 1.538,
    ("itransformer", 96, "etth1"): 0.454,
    ("itransformer", 96, "etth2"): 0.383,
    ("itransformer", 96, "ettm1"): 0.407,
    ("itransformer", 96, "ettm2"): 0.288,
    ("itransformer", 96, "electricity"): 0.178,
    ("itransformer", 96, "exchange"): 0.360,
    ("itransformer", 96, "traffic"): 0.428,
    ("itransformer", 96, "weather"): 0.258,
    ("rlinear", 96, "etth1"): 0.446,
    ("rlinear", 96, "etth2"): 0.374,
    ("rlinear", 96, "ettm1"): 0.414,
    ("rlinear", 96, "ettm2"): 0.285,
    ("rlinear", 96, "exchange"): 0.379,
    ("rlinear", 96, "weather"): 0.272,
    ("samformer", 512, "etth1"): 0.410,
    ("samformer", 512, "etth2"): 0.344,
    ("samformer", 512, "ettm1"): 0.373,
    ("samformer", 512, "ettm2"): 0.269,
    ("samformer", 512, "electricity"): 0.181,
    ("samformer", 512, "exchange"): 0.445,
    ("samformer", 512, "traffic"): 0.425,
    ("samformer", 512, "weather"): 0.261,
    ("linear", 336, "etth1"): 0.474,
    ("linear", 336, "etth2"): 0.454,
    ("linear", 336, "exchange"): 0.385,
    ("linear", 104, "ili"): 2.194,
    ("nlinear", 336, "etth1"): 0.413,
    ("nlinear", 336, "etth2"): 0.343,
    ("nlinear", 336, "exchange"): 0.408,
    ("nlinear", 336, "weather"): 0.254,
    ("nlinear", 104, "ili"): 1.731,
    ("dlinear", 336, "etth1"): 0.423,
    ("dlinear", 336, "etth2"): 0.431,
    ("dlinear", 336, "ettm2"): 0.267,
    ("dlinear", 336, "exchange"): 0.296,
    ("dlinear", 336, "weather"): 0.246,
    ("dlinear", 104, "ili"): 2.169,
    ("last_value", 336, "etth1"): 1.321,
    ("last_value", 336, "exchange"): 0.344,
    ("last_value", 336, "weather"): 0.353,
    ("last_value", 104, "ili"): 6.546,
}
HONEST_MEANS = {
    ("patchtst", 512, "etth1"): 0.424,
    ("patchtst", 512, "etth2"): 0.343,
    ("patchtst", 512, "ettm2"): 0.257,
    ("dlinear", 336, "etth1"): 0.444,
    ("dlinear", 336, "etth2"): 0.409,
    ("dlinear", 336, "ettm2"): 0.282,
    ("fits", 0, "etth1"): 0.407,
    ("fits", 0, "etth2"): 0.333,
    ("fits", 0, "weather"): 0.218,
}


@pytest.mark.parametrize(("source", "means"), [(PAPERS, MEANS), (HONEST, HONEST_MEANS)])
def test_printed_cells_have_the_printed_means(source: Any, means: Any) -> None:
    """A digit mistyped here would make a model look better than its paper."""
    for (name, context, data), mean in means.items():
        cells = source[name, context].cells[data]
        found = fmean(float(cell.partition("/")[0].partition("±")[0]) for cell in cells)
        assert found == pytest.approx(mean, abs=0.00076), (name, context, data)


@pytest.mark.parametrize("source", [PAPERS, HONEST])
def test_printed_cells_belong_to_rows_and_data_sets(source: Any) -> None:
    rows = {row.name for row in ROWS} | {"fits"}
    for (name, _), published in source.items():
        assert name in rows
        assert published.cells.keys() <= DATASETS.keys()
        assert {len(cells) for cells in published.cells.values()} == {4}


# --- from configurations and tables -----------------------------------------------------------


def test_what_papers_change_with_the_horizon_is_changed() -> None:
    """A width that stays at that of horizon 96 reproduces another network than the paper's."""
    assert BY_HORIZON
    rows = {row.config for row in ROWS}
    for (data, config), changes in BY_HORIZON.items():
        assert config in rows
        cells = [c for c in cells_of(data, DATASETS[data]) if c.spec.kind == config]
        for cell in cells:
            settings = {"model": cell.spec.to_mapping(), "training": cell.to_mapping()["training"]}
            for part, values in changes.get(cell.horizon, {}).items():
                assert settings[part].items() >= values.items()
    widths = {
        cell.horizon: cell.to_mapping()["spec"]["width"]
        for cell in cells_of("etth1", DATASETS["etth1"])
        if cell.model == "itransformer"
    }
    assert widths == {96: 256, 192: 256, 336: 512, 720: 512}


@pytest.mark.parametrize("model", ["last_value", "linear", "nlinear", "dlinear"])
def test_rows_of_one_paper_drop_what_its_loader_drops(model: str) -> None:
    """With another batch the printed last digits of ETTh1 cannot be found again."""
    for data in ("etth1", "ettm1", "weather"):
        cells = [cell for cell in cells_of(data, DATASETS[data]) if cell.model == model]
        assert cells
        assert {cell.loader_batch for cell in cells} == {LTSF_LOADER[data]}


def test_cells_are_those_of_the_papers() -> None:
    names = [cell.name for data, dataset in DATASETS.items() for cell in cells_of(data, dataset)]
    assert len(names) == len({*names})
    assert {"etth1/patchtst/512/96/2", "ili/patchtst/104/60/0"} <= {*names}
    assert "weather_clean/ridge-last/720/96/0" in names


def test_sentinels_are_kept_for_one_score_and_missing_for_the_other(tmp_path: Path) -> None:
    """The papers score Weather with -9999 in its training part; nobody should deploy that."""
    values = np.arange(100.0)
    values[5] = -9999
    table = pl.DataFrame({"date": np.arange(100), "y": values, "z": values + 1})
    table.write_csv(tmp_path / "table.csv")
    data = {"source": str(tmp_path / "table.csv"), "time": "date", "freq": "1", "group": "all"}
    kept = series_of(Dataset("kept"), data)
    clean = series_of(Dataset("clean", sentinel=-9999.0), data)
    assert kept.parts == clean.parts == (70, 10, 20)
    assert kept.values[5].tolist() == [-9999, -9998]
    assert np.isnan(clean.values[5]).tolist() == [True, False]
    assert np.isnan(clean.values).sum() == 1


def test_a_result_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    """NaN is not JSON: other readers would refuse the whole file."""
    with pytest.raises(ValueError, match="JSON"):
        append(tmp_path / "results.jsonl", {"mse": float("nan")})
    assert not (tmp_path / "results.jsonl").exists()
