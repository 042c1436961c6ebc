"""Processes that share every batch are one process: the same losses, weights, stops and errors."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tsformer.together import Together, together
from tests.tsformer.windows import ArrayWindows, Noisy, linear_windows
from tsformer.batch import Shape
from tsformer.errors import ConfigError, DivergedError, UnavailableError
from tsformer.model import Model
from tsformer.models import build, spec_from_mapping
from tsformer.ranks import BUCKET, Ranks
from tsformer.train import Fit, Progress, Training, fit

SHAPE = Shape(context=48, horizon=4, variates=3)
# 70 windows in steps of 17 and 18, of which two ranks have 8 to 9 each
TRAINING = Training(epochs=3, batch_size=20, learning_rate=3e-3, precision="float32")
SAME = 1e-5

SPECS: dict[str, dict[str, object]] = {
    "samformer": {"kind": "samformer"},
    "itransformer": {"kind": "itransformer", "dropout": 0.0, "width": 32, "feedforward": 32},
    "patchtst": {"kind": "patchtst", "dropout": 0.0, "depth": 1},
    "patchtst with dropout": {"kind": "patchtst", "depth": 1},
    "nlinear": {"kind": "nlinear"},
}
# Their gradient is 0 but for rounding, of which Adam makes steps: a softmax does not change with
# the bias of the keys. No forecast changes with them.
IDLE = ("key.bias", "project.bias")
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    with together(2, tmp_path_factory.mktemp("two")) as ranks:
        yield ranks


def data() -> tuple[ArrayWindows, ArrayWindows]:
    """Windows of which the second half lacks most of its target, so that ranks see unequal counts."""
    train, validation = linear_windows(70, shape=SHAPE), linear_windows(31, shape=SHAPE, seed=1)
    for windows in (train, validation):
        windows.observed[len(windows) // 2 :, 1:] = False
        windows.future[~windows.observed] = torch.nan
    return train, validation


def model_of(kind: str) -> Model:
    torch.manual_seed(1)
    if kind == "foreign":  # a batch norm that knows nothing of ranks
        return Noisy(SHAPE, dropout=0.0)
    return build(spec_from_mapping(SPECS[kind]), SHAPE)


def trained(kind: str, changes: dict[str, Any] | None = None, **how: Any) -> tuple[Weights, Fit]:
    """What a fit ends with, by all ranks of this process's group or by this process alone."""
    train, validation = data()
    model = model_of(kind)
    training = replace(TRAINING, **(changes or {}))
    result = fit(
        model, train=train, validation=validation, training=training, ranks=Ranks.here(), **how
    )
    return model.state_dict(), result


def curve(result: Fit) -> np.ndarray:
    return np.array([(row.train_loss, row.validation_loss) for row in result.history])


def distance(one: Weights, other: Weights) -> float:
    """The largest difference of two sets of weights, relative to the largest of a tensor."""
    told = {name: value for name, value in other.items() if not name.endswith(IDLE)}
    scale = {name: max(1.0, float(value.abs().max())) for name, value in told.items()}
    return max(float((one[n] - other[n]).abs().max()) / scale[n] for n in told)


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("samformer", {"sharpness": 0.5}),
        ("itransformer", {"gradient_clip": 0.3, "loss": "mae"}),
        ("itransformer", {"variate_share": 0.67, "windows_per_epoch": 51}),
        ("nlinear", {"optimizer": "adam", "weight_decay": 0.1}),
    ],
)
def test_two_ranks_end_where_one_does(two: Together, kind: str, changes: dict[str, Any]) -> None:
    """Whoever adds a machine would get another model, and could not say why."""
    (first, there), (second, _) = two(trained, kind, changes)
    alone, here = trained(kind, changes)
    np.testing.assert_allclose(curve(there), curve(here), rtol=SAME)
    assert distance(first, alone) < SAME
    assert same(first, second)


@pytest.mark.parametrize("sharpness", [0.0, 0.1])
def test_batch_statistics_are_those_of_the_whole_batch(two: Together, sharpness: float) -> None:
    """Statistics over a share would be another model, the more so the more machines share.

    Biases before a batch norm are idle too, but for the running mean that follows them late: so
    the training curve is the same, and the validation close.
    """
    (first, there), (second, _) = two(trained, "patchtst", {"sharpness": sharpness})
    _, here = trained("patchtst", {"sharpness": sharpness})
    assert same(first, second)
    np.testing.assert_allclose(curve(there)[:, 0], curve(here)[:, 0], rtol=SAME)
    np.testing.assert_allclose(curve(there)[:, 1], curve(here)[:, 1], rtol=1e-3)


def test_dropout_differs_from_one_process_and_stays_close(two: Together) -> None:
    """Each rank drops by its own numbers: equal ones would drop the same of different windows."""
    (first, there), (second, _) = two(trained, "patchtst with dropout")
    alone, here = trained("patchtst with dropout")
    assert same(first, second)
    assert not np.allclose(curve(there), curve(here), rtol=SAME)
    np.testing.assert_allclose(curve(there), curve(here), rtol=0.1)
    assert distance(first, alone) < 0.1


def test_a_batch_norm_of_others_sees_its_share_and_ends_the_same(two: Together) -> None:
    """Ranks with statistics of their own would validate, stop and save different models."""
    (first, there), (second, elsewhere) = two(trained, "foreign")
    _, here = trained("foreign")
    assert same(first, second)
    assert (curve(there) == curve(elsewhere)).all()
    assert not np.allclose(curve(there), curve(here), rtol=SAME)


def drawn(folder: str) -> tuple[Weights, Fit]:
    """Training from weights that each rank drew by itself."""
    train, validation = data()
    torch.manual_seed(Ranks.here().rank)
    model = build(spec_from_mapping(SPECS["nlinear"]), SHAPE)
    result = fit(
        model, train=train, validation=validation, training=TRAINING, ranks=Ranks.here(),
        checkpoint=Path(folder) / str(Ranks.here().rank),
    )  # fmt: skip
    return model.state_dict(), result


def test_all_start_from_the_weights_of_the_first_which_alone_writes(
    two: Together, tmp_path: Path
) -> None:
    """Ranks of different weights would average gradients of different functions."""
    (first, _), (second, _) = two(drawn, str(tmp_path))
    assert same(first, second)
    assert [folder.name for folder in tmp_path.iterdir()] == ["0"]


def stopping(patience: int) -> tuple[int, int]:
    """How many epochs ran, and which was the best, where validation only gets worse."""
    train, _ = data()
    opposite = ArrayWindows(train.past, -train.future, train.observed)
    training = replace(TRAINING, epochs=20, patience=patience, schedule="constant")
    result = fit(
        model_of("nlinear"), train=train, validation=opposite, training=training, ranks=Ranks.here()
    )
    return len(result.history), result.best_epoch


def test_all_stop_in_the_same_epoch(two: Together) -> None:
    """A rank that went on alone would wait for the others for ever."""
    assert two(stopping, 2) == [stopping(2)] * 2 == [(3, 1)] * 2


class StopError(Exception):
    """What interrupts a run."""


def stop_in_epoch_three(progress: Progress) -> None:
    if (progress.epoch, progress.step) == (3, 2):
        raise StopError


def test_an_interrupted_run_goes_on_by_two_or_by_one(two: Together, tmp_path: Path) -> None:
    """Machines come and go in the night; the run must not depend on how many there are."""
    expected = two(trained, "patchtst with dropout")[0][0]
    how = {"checkpoint": tmp_path}
    stopped = two(trained, "patchtst with dropout", report=stop_in_epoch_three, **how)
    assert [type(error) for error in stopped] == [StopError] * 2
    assert len([*tmp_path.iterdir()]) == 2
    (first, _), (second, _) = two(trained, "patchtst with dropout", **how)
    assert same(first, expected)
    assert same(second, expected)
    alone, _ = trained("patchtst with dropout", **how)  # finished: only read
    assert same(alone, expected)

    plain = trained("nlinear")[0]
    how = {"checkpoint": tmp_path / "plain"}
    two(trained, "nlinear", report=stop_in_epoch_three, **how)
    assert distance(trained("nlinear", **how)[0], plain) < SAME


def spoilt(part: str, number: int) -> None:
    train, validation = data()
    spoil = train if part == "train" else validation
    spoil.past[number, 0, 0] = torch.nan
    fit(
        model_of("nlinear"), train=train, validation=validation, training=TRAINING,
        ranks=Ranks.here(),
    )  # fmt: skip


@pytest.mark.parametrize(("part", "number"), [("train", 3), ("train", 68), ("validation", 30)])
def test_a_number_that_is_none_stops_all_with_the_window_named(
    two: Together, part: str, number: int
) -> None:
    """The rank that did not see it would wait, and the log would not say which window it was."""
    errors = two(spoilt, part, number)
    with pytest.raises(DivergedError) as alone:
        spoilt(part, number)
    assert [type(error) for error in errors] == [DivergedError] * 2
    assert {str(error) for error in errors} == {str(alone.value)}
    assert f"the context of windows {number} is not finite" in str(alone.value)


def on_a_full_disk(folder: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        trained("nlinear", checkpoint=Path(folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_of_the_first_stops_all(two: Together, tmp_path: Path) -> None:
    """The others would wait for the first until their group times out, half an hour later."""
    first, second = two(on_a_full_disk, str(tmp_path))
    assert isinstance(first, UnavailableError)
    assert "checkpoint of epoch 1 cannot be written" in str(first)
    assert isinstance(second, UnavailableError)
    assert [*tmp_path.iterdir()] == []


def test_a_step_too_small_to_share_is_refused(two: Together) -> None:
    """A rank without a window has no statistics, and some layers no forecast."""
    errors = two(trained, "nlinear", {"batch_size": 1})
    assert [type(error) for error in errors] == [ConfigError] * 2
    assert "2 workers share the windows of each step, and a step has 1" in str(errors[0])


def summed(sizes: list[int]) -> list[Tensor]:
    ranks = Ranks.here()
    tensors = [torch.full((size,), float(ranks.rank + 1)) for size in sizes]
    tensors[1] = tensors[1].to(torch.float64)
    turned = torch.arange(6.0).view(2, 3).mT * (ranks.rank + 1)
    ranks.sum_in_place([*tensors, turned])
    return [*(tensor[[0, -1]] for tensor in tensors), turned]


def test_tensors_are_summed_whatever_their_sizes_types_and_layouts(two: Together) -> None:
    """A gradient that is left out, or put back in another order, is a wrong step without a word."""
    for results in two(summed, [5, 1, BUCKET - 1, 7]):
        assert all((tensor == 3).all() for tensor in results[:-1])
        assert torch.equal(results[-1], torch.arange(6.0).view(2, 3).mT * 3)


def test_mixed_precision_stays_close(two: Together) -> None:
    """Sums of rounded numbers may differ by their rounding, not by more."""
    changes = {"precision": "bfloat16"}
    (first, there), (second, _) = two(trained, "patchtst", changes)
    _, here = trained("patchtst", changes)
    assert same(first, second)
    np.testing.assert_allclose(curve(there), curve(here), rtol=1e-2)
