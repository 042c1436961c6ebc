"""A captured pass forecasts as its model, or is not used.

On a CPU doing the work again with the same buffers stands for replaying a graph: all but the capture.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.query import Query
from serving import cuda_graphs
from serving.cuda_graphs import SIZES, GraphedRuntime, Work, cuda_graph, graphed
from serving.samples import distance, sample, whole
from tests.serving.running import CONTEXT, forecaster
from tests.serving.test_graphs import WITHOUT, built
from tsformer.models import MODELS
from tsformer.runtime import Runtime

MANY = SIZES[-1]


def again(work: Work) -> Work:
    return work


@pytest.fixture
def paying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work done again is not faster on a CPU, and is used all the same."""
    monkeypatch.setattr(cuda_graphs, "PAYS", 0.0)


@pytest.mark.usefixtures("paying")
@pytest.mark.parametrize("kind", sorted({*MODELS} - WITHOUT))
def test_a_pass_forecasts_as_its_model(kind: str) -> None:
    """With all inputs there are, in every size: what was in a buffer before must not show."""
    plain = Runtime(built(kind), device="cpu", micro_batch=400)
    runtime = graphed(plain, name="m/1", capture=again)
    assert isinstance(runtime, GraphedRuntime)
    for windows in (MANY, 1, 3, 2, 33, MANY + 1):
        batch = sample(plain.model.shape, windows=windows, seed=windows)
        assert distance(plain.predict(batch), runtime.predict(batch), batch).max() < 1e-5
        single = replace(batch, past=batch.past.float())
        assert runtime.predict(single).dtype == torch.float32


@pytest.mark.usefixtures("paying")
def test_what_a_request_asks_is_answered_by_a_pass() -> None:
    """A pass that takes no batch of a service would be fast in benchmarks alone."""
    done, made, usual = [], forecaster(seed=1), forecaster(seed=1)

    def counted(work: Work) -> Work:
        def replay() -> None:
            done.append(work())

        return replay

    made.runtime = graphed(made.runtime, name="m/1", capture=counted)
    walk = np.random.default_rng(0).normal(size=(5, CONTEXT, 1)).cumsum(1)
    walk[1, :40] = walk[2, 7] = np.nan
    query, before = Query(walk), len(done)
    assert np.allclose(made.answer(query, (0.1, 0.9)), usual.answer(query, (0.1, 0.9)), atol=1e-4)
    assert len(done) == before + 1


@pytest.mark.usefixtures("paying")
def test_another_number_of_variates_is_left_to_the_model() -> None:
    """A model of many series may be asked about fewer of them."""
    plain = Runtime(built("itransformer"), device="cpu")
    runtime = graphed(plain, name="m/1", capture=again)
    batch = sample(replace(plain.model.shape, variates=5), windows=4)
    assert torch.equal(plain.predict(batch), runtime.predict(batch))


def forgetful(_: Work) -> Work:
    """A graph that replays nothing: its buffers stay as they are."""
    return lambda: None


def impossible(_: Work) -> Work:
    raise RuntimeError("operation not permitted when stream is capturing")


def slow(work: Work) -> Work:
    def replay() -> None:
        time.sleep(0.02)
        work()

    return replay


def test_a_graph_that_forecasts_otherwise_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """Speed must not change what a model says."""
    made = forecaster(seed=1)
    assert graphed(made.runtime, name="m/1", capture=forgetful) is made.runtime
    assert "m/1 runs without CUDA graphs: the forecasts of 1 windows" in caplog.text


def test_a_model_that_cannot_be_captured_answers_without(caplog: pytest.LogCaptureFixture) -> None:
    """A kind that asks a GPU for its values must be served all the same."""
    made = forecaster(seed=1)
    assert graphed(made.runtime, name="m/1", capture=impossible) is made.runtime
    assert "not permitted when stream is capturing" in caplog.text


def test_a_graph_that_does_not_pay_is_not_kept() -> None:
    """Its memory would be taken from other models for nothing."""
    made = forecaster(seed=1)
    assert graphed(made.runtime, name="m/1", capture=slow) is made.runtime


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.usefixtures("paying")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["patchtst", "itransformer", "samformer", "tft", "nlinear"])
def test_a_graph_on_a_gpu_forecasts_as_its_model(kind: str, precision: str) -> None:
    """The whole of it, from tensors of the CPU to tensors of the CPU."""
    plain = Runtime(built(kind), device="cuda", precision=precision)
    runtime = graphed(plain, name="m/1", capture=cuda_graph)
    assert isinstance(runtime, GraphedRuntime)
    for windows in (1, 3, MANY, MANY + 1):
        batch = whole(sample(plain.model.shape, windows=windows, seed=windows))
        apart = distance(plain.predict(batch), runtime.predict(batch), batch)
        assert apart.square().mean().sqrt() < (1e-5 if precision == "float32" else 0.01)
