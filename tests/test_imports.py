"""The model library stands alone, and importing it does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tsformer

HIDE = """
import importlib.abc, sys
HIDDEN = {
    "polars", "ray", "mlflow", "pydantic", "fastapi", "starlette", "pyarrow", "sqlalchemy", "httpx",
    "typer", "yaml", "rich", "pipelines", "serving",
}
class Hider(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r} (hidden)", name=name)
sys.meta_path.insert(0, Hider())
"""

FORECAST = """
import torch, tsformer
shape = tsformer.Shape(context=64, horizon=8, variates=2)
model = tsformer.build(tsformer.spec_from_mapping({"kind": "patchtst"}), shape).eval()
past = torch.randn(3, 64, 2)
forecast = model(tsformer.Batch(past, torch.ones_like(past, dtype=torch.bool)))
assert forecast.shape == (3, 8, 2, 1), forecast.shape
assert not HIDDEN & {name.partition(".")[0] for name in sys.modules}
"""

EFFECT = """
import logging, os, random, signal, threading, warnings
import numpy, torch
def seen():
    return (
        dict(os.environ), os.getcwd(), threading.active_count(), torch.get_num_threads(),
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.random.get_rng_state().tolist(),
        numpy.random.get_state()[1].tolist(), random.getstate(), logging.root.handlers[:],
        logging.root.level, signal.getsignal(signal.SIGTERM), sorted(os.listdir(".")),
    )
before = seen()
from tsformer import *
assert seen() == before
"""

# What a person waits for: a command's answer, and the processes of a service before its model.
LIGHT = """
import sys
import pipelines.cli, pipelines.ray_head, serving.__main__, serving.doors, serving.deployments
heavy = {"torch", "mlflow", "polars", "scipy", "statsmodels"} & {*sys.modules}
assert not heavy, heavy
"""


SERVES = """
import importlib, pkgutil, sys
import ray.serve, serving.app, pipelines.registry
slow = {"matplotlib", "scipy.special", "statsmodels"} & {*sys.modules}
assert not slow, slow
for module in pkgutil.walk_packages(serving.__path__, "serving."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
trains = [name for name in sys.modules if name.startswith(("ray.train", "ray.tune"))]
assert not trains, trains
"""


def run(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    repository = Path(__file__).parents[1]
    path = f"import sys; sys.path.insert(0, {str(repository)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", path + code],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_model_runs_where_only_torch_is_installed(tmp_path: Path) -> None:
    """A GPU machine with an image of its own has torch and little else."""
    result = run(HIDE + FORECAST, tmp_path)
    assert result.returncode == 0, result.stderr


def test_importing_has_no_effect(tmp_path: Path) -> None:
    """A library that seeds, logs or sets threads on import does it to its user's program."""
    result = run(EFFECT, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_what_serves_does_not_load_what_trains(tmp_path: Path) -> None:
    """ray.train and ray.tune register an Arrow extension type that unpickles what a user sends."""
    result = run(SERVES, tmp_path)
    assert result.returncode == 0, result.stderr


def test_what_starts_the_service_loads_no_model(tmp_path: Path) -> None:
    """Else each of five processes imports PyTorch, one after the other, before a request is answered."""
    result = run(LIGHT, tmp_path)
    assert result.returncode == 0, result.stderr


def test_public_names_exist() -> None:
    """`from tsformer import *` and the documentation list what is really there, once."""
    assert [name for name in tsformer.__all__ if not hasattr(tsformer, name)] == []
    assert len(tsformer.__all__) == len(set(tsformer.__all__))


def test_modules_are_there_without_an_import_of_their_own() -> None:
    """The documentation says `tsformer.errors` and `tsformer.metrics`."""
    code = "import tsformer; tsformer.errors.DataError; tsformer.metrics.seasonal_scale; tsformer.losses"
    subprocess.run([sys.executable, "-c", code], check=True)
