"""The scripts of single studies, run whole on sizes that take a second."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import lookback, machine, pretraining, synthetic, toy
from benchmarks.accuracy.cells import Series
from benchmarks.accuracy.sweep import DATASETS
from benchmarks.pretraining import Parts, Size
from pipelines.windows import Borders, Grid, PanelWindows
from tsformer.batch import Shape
from tsformer.models.patchtst import SELF_SUPERVISED
from tsformer.models.tft import TFTSpec
from tsformer.train import Training

QUICK = Training(epochs=1, batch_size=16, windows_per_epoch=32)


def stored(folder: Path) -> dict[str, Any]:
    """The one result in `folder`."""
    (file,) = folder.glob("*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_the_toy_problem_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A committed result whose script does not run any more can be checked by nobody."""
    monkeypatch.setattr(toy, "SHAPE", Shape(context=16, horizon=4, variates=3))
    monkeypatch.setattr(toy, "TRAIN", 200)
    monkeypatch.setattr(toy, "SCORED", 50)
    monkeypatch.setattr(toy, "TRAINING", replace(toy.TRAINING, epochs=1))
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    toy.main()
    rows = stored(tmp_path)["rows"]
    assert rows.keys() == {"least squares", *toy.ROWS}
    assert rows["least squares"]["test_mse"] == pytest.approx(1.0, abs=0.3)
    for name, row in rows.items():
        assert row["test_mse"] > 0
        assert ("self" in row) == name.startswith("attention")
        assert 0 < row.get("self", 0.5) < 1


def test_the_synthetic_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above; and what generated the data must be the best that is possible."""
    monkeypatch.setattr(synthetic, "SERIES", 4)
    monkeypatch.setattr(synthetic, "STEPS", 200)
    spans = {"train": (0, 120), "validation": (120, 160), "test": (160, 200)}
    monkeypatch.setattr(synthetic, "SPANS", spans)
    monkeypatch.setattr(synthetic, "SPEC", TFTSpec(width=4, heads=1))
    monkeypatch.setattr(synthetic, "TRAINING", replace(QUICK, loss="pinball"))
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    synthetic.main(["--seeds", "1"])
    (row,) = stored(tmp_path)["seeds"]
    risks = {name: found["wql"] for name, found in row["scores"].items()}
    assert min(risks, key=risks.__getitem__) == "best possible"
    assert row["weights"]["known"].keys() == {"driver", "decoy", "hour"}
    assert sum(row["weights"]["known"].values()) == pytest.approx(1.0)


def walk(name: str) -> Parts:
    """Windows of a random walk, another for each name; 48 steps forecast 12."""
    random = np.random.default_rng(len(name))
    grid = Grid.of([random.normal(size=(300, 2)).cumsum(0)])
    borders = Borders.by_rows((180, 60, 60), grid.lengths)
    shape = Shape(context=48, horizon=12, variates=2)
    scaled = grid.standardised(grid.fit_scaler(borders.train))
    return Parts(
        *(
            PanelWindows(scaled, cutoffs=borders.cutoffs(part, scaled, shape), shape=shape)
            for part in ("train", "validation", "test")
        )
    )


def test_the_study_of_pretraining_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe without its control, or a way that is left out, would make pretraining look better."""
    spec = replace(SELF_SUPERVISED, width=8, heads=2, feedforward=8, depth=1)
    size = Size(spec, pretraining=QUICK, probing=QUICK, tuning=QUICK, probe_epochs=1)
    monkeypatch.setitem(pretraining.SIZES, "small", size)
    monkeypatch.setattr(Parts, "of", staticmethod(walk))
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    pretraining.main(["near", "--source", "elsewhere", "--device", "cpu"])
    rows = {row["way"]: row for row in stored(tmp_path)["rows"]}
    assert rows["pretraining"]["steps"] == 2
    scored = [
        "linear probe",
        "probe on a random encoder",
        "fine-tuned",
        "supervised",
        "ridge",
        "zero-shot, fine-tuned on the source",
        "zero-shot, ridge of the source",
    ]
    assert [*rows] == ["pretraining", *scored]
    assert all(rows[way]["mse"] > 0 and rows[way]["windows"] == 49 for way in scored)
    assert rows["ridge"]["mse"] != rows["zero-shot, ridge of the source"]["mse"]


def test_the_look_back_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above; and every look-back is scored on the same windows, or they would not compare."""
    values = np.random.default_rng(0).normal(size=(900, 2)).astype(np.float32)
    monkeypatch.setattr(lookback, "series_of", lambda *_: Series(values, parts=(400, 200, 300)))
    short = replace(DATASETS["etth1"], horizons=(96,))
    monkeypatch.setattr(lookback, "DATASETS", {"etth1": short})
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    lookback.main(["etth1", "--contexts", "24", "48"])
    rows = stored(tmp_path)["rows"]
    assert [(row["model"], row["context"]) for row in rows] == [
        (model, context) for context in (24, 48) for model in ("ridge-mean", "itransformer")
    ]
    assert {row["windows"] for row in rows} == {300 - 96 + 1}
