"""A sealed forecaster as an MLflow model: models from code, the artifact beside it, no pickle.

MLmodel, requirements.txt, ...      MLflow's own description
pyfunc.py                           pipelines/pyfunc.py, run when the model is loaded
artifacts/forecaster/               the sealed files, unchanged
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema

from pipelines.versions import ENCODER

FORECASTER = "forecaster"
FORECASTER_PATH = f"artifacts/{FORECASTER}"
CODE = Path(__file__).with_name("pyfunc.py")
DECILES = tuple(k / 10 for k in range(1, 10))


def log_model(
    client: MlflowClient, directory: Path, *, run_id: str, card: Mapping[str, Any]
) -> LoggedModel:
    """The sealed `directory` as a model of the run `run_id`, shown on the run's page.

    Goes through the client alone: MLflow's fluent functions would need one address for the whole
    process.
    """
    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id, name=str(card["kind"]), source_run_id=run_id
    )
    client.log_outputs(run_id, models=[LoggedModelOutput(logged.model_id, step=0)])
    with TemporaryDirectory() as scratch:
        # MLflow stores a folder under its own name, whatever name it had outside.
        sealed = shutil.copytree(directory, Path(scratch) / FORECASTER)
        folder = Path(scratch) / "model"
        save_model(folder, sealed, card=card, logged=logged)
        client.log_model_artifacts(logged.model_id, str(folder))
    return client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)


def save_model(folder: Path, sealed: Path, *, card: Mapping[str, Any], logged: LoggedModel) -> None:
    """Writes the MLflow model of a `sealed` folder into the new `folder`.

    A pretrained encoder predicts nothing: it is kept without code that would load it.
    """
    about = Model(
        artifact_path=logged.artifact_location,
        run_id=logged.source_run_id,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
        metadata={"kind": card["kind"]},
    )
    if card["kind"] == ENCODER:
        shutil.copytree(sealed, folder / FORECASTER_PATH)
        about.save(str(folder / MLMODEL_FILE_NAME))
        return
    from mlflow.pyfunc import save_model as save_pyfunc  # slow to import, and who reads needs none

    with warnings.catch_warnings():
        # MLflow wants an example of the input; one of honest length would outweigh the model.
        warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)
        save_pyfunc(
            path=str(folder),
            python_model=CODE,
            artifacts={FORECASTER: str(sealed)},
            signature=signature(card),
            mlflow_model=about,
            # MLflow pins itself. This package is on no index, so naming it there would fetch a
            # stranger's of the same name; it has to be installed where the model is loaded.
            pip_requirements=[],
        )
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)


def signature(card: Mapping[str, Any]) -> ModelSignature:
    """Columns and parameters of `predict`, with this model's horizon and levels as defaults.

    Columns may be of any type, because the panel checks them: MLflow would refuse whole numbers
    as values, numbers as ids, and stamps with a zone.
    """
    covariates = [
        ColSpec(AnyType(), name, required=False)
        for names in card.get("covariates", {}).values()
        for name in names
    ]
    columns = [
        ColSpec(AnyType(), "unique_id", required=False),
        ColSpec(AnyType(), "ds"),
        ColSpec(AnyType(), "y"),
        *covariates,
    ]
    answer = [
        ColSpec(AnyType(), "unique_id"),
        ColSpec(AnyType(), "ds"),
        ColSpec(DataType.double, "mean"),
    ]
    params = [
        ParamSpec("h", DataType.long, int(card["horizon"])),
        ParamSpec("quantiles", DataType.double, [*usual_levels(card)], shape=(-1,)),
        ParamSpec("freq", DataType.string, ""),
        ParamSpec("tz", DataType.string, ""),
        ParamSpec("fill", DataType.string, "none"),
        ParamSpec("future", DataType.string, ""),
    ]
    return ModelSignature(
        inputs=Schema(columns), outputs=Schema(answer), params=ParamSchema(params)
    )


def usual_levels(card: Mapping[str, Any]) -> tuple[float, ...]:
    """The levels given without asking: the model's own, or the deciles of calibrated ones.

    None of a point model without calibration.
    """
    quantiles = card["quantiles"]
    served = tuple(float(level) for level in quantiles["levels"])
    if card["point"] == "median" or not served:  # the model emits quantiles, or has none
        return served
    return tuple(level for level in DECILES if served[0] <= level <= served[-1])
