"""A graph forecasts as the model it was derived from, or is not used."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.registry import Registry
from serving import runtimes
from serving.app import create
from serving.graph_export import export
from serving.graph_model import GraphModel, graph_model
from serving.graphs import Graphs
from serving.host import Lane, LocalEngine
from serving.library import Shelf, warm_up
from serving.runtimes import Runtimes
from serving.samples import distance, sample
from serving.settings import Settings
from tests.laws.test_models import LEVELS, NEEDED
from tests.serving.running import Running, forecaster, listening, series, table
from tsformer import artifact
from tsformer.batch import Shape
from tsformer.errors import IncompatibleError
from tsformer.model import Model, ModelSpec
from tsformer.models import MODELS, build, spec_from_mapping

# Kinds that look at their values to decide what to do, or are no network at all: torch runs them.
WITHOUT = {"pooled_ridge", "autoregression", "ets", "theta", "sarimax", "last_value", "seasonal_naive"}  # fmt: skip


def spec_of(kind: str) -> ModelSpec:
    """A kind with its defaults, but for one layer where there may be several."""
    spec = spec_from_mapping({"kind": kind, **NEEDED.get(kind, {})})
    shallow = {"depth": 1} if any(field.name == "depth" for field in fields(spec)) else {}
    return replace(spec, **shallow)


def built(kind: str) -> Model:
    """A model of `kind` that reads all that it can, at its first weights, those of equations drawn."""
    can = MODELS[kind].capabilities
    shape = Shape(
        context=32,
        horizon=6,
        variates=3,
        known=(0, 4) if can.known else (),
        past=(0, 3) if can.past else (),
        static=(0, 5) if can.static else (),
        lags=(6, 50) if can.lags else (),
        series=4 if can.series else 0,
        levels=LEVELS if can.native_quantiles else (),
    )
    torch.manual_seed(0)
    model = build(spec_of(kind), shape).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim and tensor.min() == tensor.max():
            tensor.uniform_(*((0.5, 1.5) if key.endswith("running_var") else (-0.5, 0.5)))
    return model


@torch.inference_mode()
@pytest.mark.parametrize("kind", MODELS)
def test_a_graph_forecasts_as_its_model(kind: str) -> None:
    """The same version must not give other forecasts because another library computes them."""
    model = built(kind)
    if kind in WITHOUT:
        with pytest.raises(Exception) as caught:  # noqa: PT011 whatever the exporter raises
            export(model)
        assert not isinstance(caught.value, ImportError)
        return
    graph = graph_model(model, export(model), threads=1)
    wider = replace(model.shape, variates=5)  # as many as training saw, or others
    for shape, windows in ((model.shape, 1), (model.shape, 23), (wider, 4)):
        batch = sample(shape, windows=windows, seed=windows)
        assert distance(model(batch), graph(batch), batch).max() < 1e-5


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """With the graph of the tests' model, derived in a process of its own."""
    made = Graphs(tmp_path_factory.mktemp("graphs"))
    made.derive(described(forecaster(seed=1)))
    return made


def described(made: Forecaster) -> dict[str, object]:
    return artifact.description(made.model, made.spec)


def has_graph(made: Forecaster) -> bool:
    """Whether ONNX Runtime computes its forecasts."""
    return any(isinstance(each, GraphModel) for each in made.runtime.model.modules())


def test_a_graph_serves_other_weights_of_its_architecture(graphs: Graphs) -> None:
    """A model retrained every night needs no graph a night."""
    made, plain = forecaster(seed=2), forecaster(seed=2)
    Runtimes(graphs, "onnx").equip(made, name="m/2")
    assert has_graph(made)
    batch = sample(plain.model.shape, windows=70)
    one, other = made.runtime.predict(batch), plain.runtime.predict(batch)
    assert distance(one, other, batch).max() < 1e-5
    assert not torch.equal(one, forecaster(seed=1).runtime.predict(batch))


def test_a_model_earns_its_graph_by_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The long tail of models costs no minute of exporting; a busy one is faster when loaded again.

    Until then a request repeated has the very same answer: nothing is switched while it serves.
    """
    monkeypatch.setattr(runtimes, "EARNED_S", 1e-9)
    monkeypatch.setattr(runtimes, "PAYS", 0.0)
    graphs, made = Graphs(tmp_path), nlinear()
    described = artifact.description(made.model, made.spec)
    Runtimes(graphs, "auto").equip(made, name="m/1")
    batch = sample(made.model.shape, windows=5)
    first = made.runtime.predict(batch)
    deadline = time.monotonic() + 100
    while graphs.find(described) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not has_graph(made)
    assert torch.equal(made.runtime.predict(batch), first)
    again = nlinear()
    Runtimes(graphs, "auto").equip(again, name="m/2")
    assert has_graph(again)
    assert distance(again.runtime.predict(batch), first, batch).max() < 1e-5
    graphs.note_slow(described, "ONNX Runtime takes 1.4 of its time.")
    Runtimes(graphs, "auto").equip(again := nlinear(), name="m/3")
    assert not has_graph(again)


def nlinear() -> Forecaster:
    """A model whose graph is derived quickly."""
    spec, kept = MODELS["nlinear"](), forecaster(seed=1)
    model = build(spec, kept.model.shape)
    return Forecaster(model, spec=spec, recipe=kept.recipe, device="cpu")


def test_what_cannot_be_exported_runs_by_torch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting meant for speed must not take a model out of service."""
    spec, kept = spec_of("last_value"), forecaster(seed=1)
    made = Forecaster(build(spec, kept.model.shape), spec=spec, recipe=kept.recipe, device="cpu")
    expected = made.runtime.predict(sample(made.model.shape, windows=3))
    for _ in range(2):  # the second time it is known and no process is started
        Runtimes(Graphs(tmp_path), "onnx").equip(made, name="naive/1")
        monkeypatch.setattr(subprocess, "Popen", None)
    warm_up(made, name="naive/1")
    assert torch.equal(made.runtime.predict(sample(made.model.shape, windows=3)), expected)
    told = [each.message for each in caplog.records if "naive/1 runs by torch" in each.message]
    assert len(told) == 2


@pytest.mark.parametrize("content", [b"", b"[]\nnonsense", b"nonsense", b'["other"]\n'])
def test_a_damaged_graph_is_not_used(tmp_path: Path, content: bytes) -> None:
    """A file cut short by a full disk must not stop a replica from starting."""
    made, folder = forecaster(seed=1), Graphs(tmp_path)
    folder.file(described(made)).write_bytes(content)
    Runtimes(folder, "onnx").equip(made, name="m/1")
    assert not has_graph(made)
    assert folder.find(described(made)) is None  # the next one derives it anew
    warm_up(made, name="m/1")


def test_a_graph_that_differs_is_refused(graphs: Graphs) -> None:
    """A graph derived of other code than what runs beside it would forecast something else."""
    made = forecaster(seed=1)
    graph = graphs.find(described(made))
    assert graph is not None
    changed = forecaster(seed=1).model
    with torch.no_grad():
        made.model.state_dict()["inner.encoder.position"].add_(1e-3)
    altered = GraphModel(made.model, graph, threads=1)
    batch = sample(changed.shape, windows=3)
    assert distance(changed(batch), altered(batch), batch).max() > 1e-5
    changed.forward = made.model.forward  # the same weights, another function
    with torch.no_grad():
        made.model.state_dict()["inner.encoder.position"].add_(1e-3)
    with pytest.raises(IncompatibleError, match="deviations"):
        graph_model(changed, graph, threads=1)


def test_a_graph_that_fails_in_use_is_given_up(
    graphs: Graphs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks gets the forecast of torch, not an error of a library."""
    made, plain = forecaster(seed=1), forecaster(seed=1)
    Runtimes(graphs, "onnx").equip(made, name="m/1")
    batch = sample(plain.model.shape, windows=3)

    def failing(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(GraphModel, "forward", failing)
    assert torch.equal(made.runtime.predict(batch), plain.runtime.predict(batch))
    assert not has_graph(made)
    assert "no memory" in caplog.text


@pytest.fixture
def by_graph(home: Home, graphs: Graphs) -> Iterator[Running]:
    """The application whose model runs by ONNX Runtime."""
    settings = Settings.read({"models": {"default": "small"}})
    shelf = Shelf(
        Registry(home), capacity=2, device="cpu", runtimes=Runtimes(graphs, runtime="onnx")
    )
    yield from listening(create(shelf, Lane(LocalEngine(shelf)), settings))


def test_the_service_answers_the_same_by_either(service: Running, by_graph: Running) -> None:
    """Nobody who reads a forecast can tell which library computed it."""
    body = {"data": table(series()), "freq": "h", "quantiles": [0.1, 0.5, 0.9]}
    answers = [running.post("/v1/forecasts", body) for running in (by_graph, service)]
    one, other = (answer.json()["forecast"] for answer in answers)
    numbers = [name for name, values in one.items() if isinstance(values[0], float)]
    assert len(numbers) == 4
    for name in numbers:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-5)
