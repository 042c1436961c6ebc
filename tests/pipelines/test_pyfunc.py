"""A published model works through MLflow alone, and gives the numbers of the service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import polars as pl
import pytest
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import get_tracking_uri, set_tracking_uri

from pipelines.covariates import Covariate, Inputs, sizes
from pipelines.flavor import signature, usual_levels
from pipelines.forecaster import Forecaster
from pipelines.home import Home, configure
from pipelines.panel import read_panel
from pipelines.recipe import Recipe
from pipelines.registry import Registry
from pipelines.schema import Schema
from pipelines.tracking import track
from pipelines.windows import Borders, Grid, PanelWindows
from tsformer.batch import Shape
from tsformer.conformal import Calibration
from tsformer.errors import TsformerError
from tsformer.model import ClosedForm
from tsformer.models.ridge import RidgeSpec

CONTEXT, HORIZON, ROWS = 48, 24, 600
GRID = tuple(round(k / 100, 2) for k in range(1, 100))


def table(rows: int = ROWS) -> pd.DataFrame:
    """Two hourly series with a daily season, and a price known ahead that moves them."""
    generator = np.random.default_rng(7)
    stamps = pd.date_range("2026-01-01", periods=rows, freq="h")
    frames = []
    for name, level in (("b", 10.0), ("a", 100.0)):
        price = generator.normal(size=rows)
        season = np.sin(np.arange(rows) / 24 * 2 * np.pi)
        y = level + season + 0.5 * price + 0.1 * generator.normal(size=rows)
        frames.append(pd.DataFrame({"unique_id": name, "ds": stamps, "y": y, "price": price}))
    return pd.concat(frames, ignore_index=True)


def ridge(*, known: tuple[Covariate, ...] = ()) -> Forecaster:
    """A ridge map solved on the table, with calibrated intervals."""
    panels = [group for _, group in table().groupby("unique_id", sort=False)]
    grid = Grid.of(
        [group["y"].to_numpy()[:, None] for group in panels],
        known=[column.numbers(pl.Series(g["price"]))[:, None] for g in panels for column in known]
        or None,
    )
    shape = Shape(context=CONTEXT, horizon=HORIZON, known=sizes(known))
    borders = Borders.by_fractions((0.7, 0.1, 0.2), grid.lengths)
    spec = RidgeSpec()
    model = spec.build(shape)
    assert isinstance(model, ClosedForm)
    model.solve(
        *(
            PanelWindows(grid, cutoffs=borders.cutoffs(part, grid, shape), shape=shape)
            for part in ("train", "validation")
        )
    )
    recipe = Recipe("h", 24, CONTEXT, CONTEXT, HORIZON, Inputs(known=known))
    return Forecaster(
        model.eval(), spec=spec, recipe=recipe, calibration=calibration(), device="cpu"
    )


def calibration() -> Calibration:
    """Intervals of a standard normal distribution, whatever the step."""
    from statistics import NormalDist

    import torch

    quantiles = torch.tensor([NormalDist().inv_cdf(level) for level in GRID])
    return Calibration(levels=GRID, residuals=quantiles.double().expand(HORIZON, -1).contiguous())


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    configure(os.environ, role="training")
    folder = tmp_path_factory.mktemp("home")
    registry = Registry(Home.of({"TSFORMER_HOME": str(folder)}))
    price = Covariate("price", mean=0.0, std=1.0)
    for name, forecaster in (("plain", ridge()), ("priced", ridge(known=(price,)))):
        directory = folder / name
        digest = forecaster.save(directory)
        with track(registry.home, experiment="prices", name=name) as run:
            registry.publish(name, directory, digest=digest, run_id=run.id, card=forecaster.card)
        registry.promote(f"{name}/1")
    return registry


@pytest.fixture(scope="module")
def address(registry: Registry) -> Iterator[None]:
    """MLflow's own functions go by an address of the whole process, not by ours."""
    before = get_tracking_uri()
    set_tracking_uri(registry.home.uri)
    yield
    set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # set_tracking_uri leaves it to child processes


@pytest.fixture(scope="module")
def loaded(address: None) -> dict[str, mlflow.pyfunc.PyFuncModel]:  # noqa: ARG001
    return {n: mlflow.pyfunc.load_model(f"models:/{n}@champion") for n in ("plain", "priced")}


@pytest.fixture(scope="module")
def served(registry: Registry) -> Forecaster:
    """The same version as the service loads it: fetched, verified, no MLflow loader."""
    fetched = registry.fetch("plain")
    return Forecaster.load(fetched.directory, digest=fetched.version.digest, device="cpu")


def expected(forecaster: Forecaster, frame: pd.DataFrame, **options: object) -> pd.DataFrame:
    schema = Schema(id="unique_id", time="ds", targets=("y",))
    panel, _ = read_panel(pl.from_pandas(frame), schema=schema)
    return forecaster.predict(panel, **options).table.to_pandas()  # type: ignore[arg-type]


def test_the_numbers_are_those_of_the_service(
    loaded: dict[str, mlflow.pyfunc.PyFuncModel], served: Forecaster
) -> None:
    answer = loaded["plain"].predict(table(), params={"h": 5, "quantiles": [0.1, 0.9]})
    assert [*answer.columns] == ["unique_id", "ds", "mean", "q0.1", "q0.9"]
    wanted = expected(served, table(), horizon=5, levels=(0.1, 0.9))
    pd.testing.assert_frame_equal(answer, wanted, check_exact=True)


def test_without_parameters_it_is_the_whole_horizon_with_the_usual_levels(
    loaded: dict[str, mlflow.pyfunc.PyFuncModel], registry: Registry
) -> None:
    answer = loaded["plain"].predict(table())
    assert [*answer["unique_id"].unique()] == ["b", "a"]
    assert len(answer) == 2 * HORIZON
    names = [f"q{level:g}" for level in usual_levels(registry.describe("plain").card)]
    assert [*answer.columns] == ["unique_id", "ds", "mean", *names]
    assert len(names) == 9
    assert (np.diff(answer[names].to_numpy(), axis=1) >= 0).all()


def test_whole_numbers_number_ids_zones_and_text_stamps_are_read(
    loaded: dict[str, mlflow.pyfunc.PyFuncModel],
) -> None:
    """A schema of fixed types would have MLflow refuse each of these before the panel sees it."""
    model, plain = loaded["plain"], table()
    whole = plain.assign(y=plain["y"].round().astype("int64"))
    assert np.isfinite(model.predict(whole)["mean"]).all()
    numbered = plain.assign(unique_id=plain["unique_id"].map({"a": 1, "b": 2}))
    assert [*model.predict(numbered)["unique_id"].unique()] == [2, 1]
    zoned = plain.assign(ds=plain["ds"].dt.tz_localize("UTC"))
    assert str(model.predict(zoned)["ds"].dtype.tz) == "UTC"
    text = plain.assign(ds=plain["ds"].dt.strftime("%Y-%m-%dT%H:%M:%S"))
    pd.testing.assert_frame_equal(model.predict(text), model.predict(plain))


def test_one_series_needs_no_id(loaded: dict[str, mlflow.pyfunc.PyFuncModel]) -> None:
    alone = table()[lambda frame: frame["unique_id"] == "a"]
    named, unnamed = (
        loaded["plain"].predict(frame) for frame in (alone, alone.drop(columns="unique_id"))
    )
    np.testing.assert_array_equal(named["mean"], unnamed["mean"])


def test_the_last_rows_can_be_the_future_covariates(
    loaded: dict[str, mlflow.pyfunc.PyFuncModel],
) -> None:
    frame = table()
    ahead = frame.groupby("unique_id").cumcount() >= ROWS - HORIZON
    frame.loc[ahead, "y"] = np.nan
    params = {"future": "trailing_null", "quantiles": [0.5]}
    answer = loaded["priced"].predict(frame, params=params)
    stamps = frame.loc[ahead, "ds"].reset_index(drop=True)
    assert (answer["ds"] == stamps).all()
    dearer = frame.assign(price=frame["price"] + ahead)
    moved = loaded["priced"].predict(dearer, params=params)["mean"] - answer["mean"]
    assert moved.mean() == pytest.approx(0.5, abs=0.05)  # what the price does to y


def test_bad_parameters_and_data_say_what_is_wrong(
    loaded: dict[str, mlflow.pyfunc.PyFuncModel],
) -> None:
    model = loaded["plain"]
    with pytest.raises(TsformerError, match="at least 1 step, got -1"):
        model.predict(table(), params={"h": -1})
    with pytest.raises(MlflowException, match="'h'"):
        model.predict(table(), params={"h": "many"})
    with pytest.raises(TsformerError, match="append 24 rows"):
        model.predict(table(), params={"future": "trailing_null"})
    with pytest.raises(TsformerError):
        model.predict(pd.concat([table(), table().tail(3)]))


@pytest.mark.usefixtures("address")
def test_the_model_holds_no_pickle(tmp_path: Path) -> None:
    folder = Path(download_artifacts("models:/plain@champion", dst_path=str(tmp_path)))
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    sealed = ["calibration.safetensors", "manifest.json", "recipe.json", "spec.json"]
    assert {f"artifacts/forecaster/{name}" for name in sealed} <= {*files}
    assert not [name for name in files if Path(name).suffix in (".pkl", ".pickle", ".pt", ".bin")]
    # A pickle of protocol 2 and later starts with 0x80, whatever its name.
    assert not [name for name in files if (folder / name).read_bytes()[:1] == b"\x80"]
    assert "python_model.pkl" not in (folder / "MLmodel").read_text()


@pytest.mark.usefixtures("address")
def test_a_model_altered_in_the_store_is_not_loaded(tmp_path: Path) -> None:
    folder = Path(download_artifacts("models:/plain@champion", dst_path=str(tmp_path)))
    (folder / "artifacts" / "forecaster" / "recipe.json").write_text("{}")
    with pytest.raises(TsformerError, match=r"recipe\.json"):
        mlflow.pyfunc.load_model(str(folder))


def test_a_point_model_without_calibration_has_no_usual_levels() -> None:
    """A naive forecast could not be published at all."""
    card = {"point": "mean", "horizon": 3, "quantiles": {"levels": [], "method": "none"}}
    assert usual_levels(card) == ()
    assert signature(card).params.params[1].default == []
