"""Where a model runs, and that a bounded memory changes nothing but the memory."""

import pytest
import torch
from torch import Tensor

from tests.tsformer.windows import LinearMap, Noisy
from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError, ShapeError
from tsformer.model import Model
from tsformer.runtime import Runtime, autocast, pick_device, pick_precision

SHAPE = Shape(context=6, horizon=2, variates=3)
CPU = torch.device("cpu")


class Small(LinearMap):
    """A model on a device where `room` windows fit."""

    def __init__(self, shape: Shape, room: int) -> None:
        super().__init__(shape)
        self.room = room
        self.sizes: list[int] = []

    def forward(self, batch: Batch) -> Tensor:
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(batch)


def batch_of(count: int, dtype: torch.dtype = torch.float32) -> Batch:
    past = torch.randn(count, SHAPE.context, SHAPE.variates, dtype=dtype)
    return Batch(past, torch.ones_like(past, dtype=torch.bool))


def predict_whole(model: Model, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(batch)


@pytest.mark.parametrize("micro_batch", [1, 7, 30, 64, None])
def test_forecasts_do_not_depend_on_the_micro_batch(micro_batch: int | None) -> None:
    model = Noisy(SHAPE, dropout=0.5).eval()
    batch = batch_of(10)
    forecast = Runtime(model, device="cpu", micro_batch=micro_batch).predict(batch)
    torch.testing.assert_close(forecast, predict_whole(model, batch), rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_halved_and_the_size_is_remembered() -> None:
    model = Small(SHAPE, room=5)
    runtime = Runtime(model, device="cpu", micro_batch=48)
    batch = batch_of(13)
    torch.testing.assert_close(runtime.predict(batch), predict_whole_in_parts(model, batch))
    assert runtime.micro_batch == 3 * SHAPE.variates
    model.sizes.clear()
    runtime.predict(batch)
    assert model.sizes == [3, 3, 3, 3, 1]


def predict_whole_in_parts(model: LinearMap, batch: Batch) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch[i : i + 1]) for i in range(len(batch))])


def test_one_window_that_does_not_fit_is_an_error_not_a_loop() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Runtime(Small(SHAPE, room=0), device="cpu").predict(batch_of(4))


def test_prediction_is_in_evaluation_mode_and_without_gradients() -> None:
    model = Noisy(SHAPE, dropout=0.9).train()
    runtime = Runtime(model, device="cpu")
    batch = batch_of(4)
    forecast = runtime.predict(batch)
    assert torch.equal(forecast, runtime.predict(batch))
    assert not forecast.requires_grad


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ShapeError, match="no window"):
        Runtime(LinearMap(SHAPE), device="cpu").predict(batch_of(0))
    with pytest.raises(ConfigError, match="micro_batch"):
        Runtime(LinearMap(SHAPE), device="cpu", micro_batch=0)


def test_devices_by_name() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:x", "cuda:99", ""):
        with pytest.raises(ConfigError, match="device"):
            pick_device(name)


def test_precisions_by_name() -> None:
    assert pick_precision("auto", device=CPU) == torch.float32
    assert pick_precision("bfloat16", device=CPU) == torch.bfloat16
    with pytest.raises(ConfigError, match="needs a GPU"):
        pick_precision("float16", device=CPU)
    with pytest.raises(ConfigError, match="precision"):
        pick_precision("fp8", device=CPU)


def test_autocast_multiplies_in_the_precision_asked_for() -> None:
    weight = torch.randn(4, 4)
    with autocast(CPU, torch.bfloat16):
        assert (weight @ weight).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (weight @ weight).dtype == torch.float32


def test_output_has_the_dtype_of_the_past() -> None:
    runtime = Runtime(LinearMap(SHAPE), device="cpu", precision="bfloat16")
    assert runtime.predict(batch_of(2)).dtype == torch.float32
