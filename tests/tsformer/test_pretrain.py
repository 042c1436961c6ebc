"""Masked pretraining: what is hidden, what is learnt from it, and what is handed on."""

from __future__ import annotations

from dataclasses import replace
from math import pi
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.tsformer.windows import ArrayWindows
from tsformer import artifact
from tsformer.batch import Batch, Shape, Target
from tsformer.errors import ArtifactError, ConfigError, IncompatibleError
from tsformer.losses import mse
from tsformer.masking import Masking, PatchMasking, RunMasking
from tsformer.models.patchtst import LevelledPatchTSTSpec, PatchEncoder, PatchTSTSpec
from tsformer.models.ridge import RidgeSpec
from tsformer.pretrain import (
    MaskedPatches,
    MaskedWindows,
    Pretrained,
    encoder_of,
    fine_tune,
    frozen,
    load_encoder,
    pretrain,
    probe,
    save_encoder,
    transfer,
)
from tsformer.train import Training, fit

SPEC = PatchTSTSpec(
    patch=4, stride=4, depth=2, width=8, heads=2, feedforward=16, dropout=0.1,
    attention="plain", activation="relu", padding="none",
)  # fmt: skip
CONTEXT, HORIZON, COVERED = 43, 6, 40  # ten patches, and three steps that fill none
TRAINING = Training(epochs=2, batch_size=16, learning_rate=0.01)
LONG = Training(epochs=30, batch_size=16, learning_rate=0.03)
EVERY = torch.arange(8)


class GappyWindows(ArrayWindows):
    """Given contexts, of which only some values were measured."""

    def __init__(self, past: Tensor, future: Tensor, measured: Tensor) -> None:
        super().__init__(past, future)
        self.measured = measured

    def batch(self, index: Tensor) -> tuple[Batch, Target]:
        batch, target = super().batch(index)
        return replace(batch, observed=self.measured[index]), target


def waves(count: int = 64, *, seed: int = 0, context: int = CONTEXT) -> ArrayWindows:
    """Sines of one frequency at any phase, size and level, with a little noise."""
    chance = torch.Generator().manual_seed(seed)
    time = torch.arange(context + HORIZON)[:, None]
    phase, size, level = torch.rand(3, count, 1, 2, generator=chance)
    values = 10 * level + (0.5 + size) * torch.sin(2 * pi * (time / 16 + phase))
    values = values + 0.05 * torch.randn(values.shape, generator=chance)
    return ArrayWindows(values[:, :context], values[:, context:])


def masked(
    windows: ArrayWindows, *, masking: Masking | None = None, seed: int | None = 0
) -> MaskedWindows:
    return MaskedWindows(windows, SPEC, masking or PatchMasking(), seed=seed)


def pretrained(
    spec: PatchTSTSpec = SPEC,
    *,
    training: Training = TRAINING,
    masking: Masking | None = None,
) -> Pretrained:
    return pretrain(
        spec, train=waves(), validation=waves(seed=1), training=training, masking=masking
    )


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# The task


def test_what_is_hidden_is_exactly_the_target() -> None:
    """A value that is input and target at once is copied, and nothing is learnt."""
    windows = waves()
    batch, target = masked(windows).batch(EVERY)
    assert target.values.shape == (8, COVERED, 2)
    assert torch.equal(batch.observed[:, -COVERED:], ~target.observed)
    assert (batch.past[:, -COVERED:][target.observed] == 0).all()
    assert (target.observed.sum(1) == 4 * 4).all()  # of ten patches floor(6) stay


def test_values_are_normalised_by_the_whole_window() -> None:
    """By the visible alone, the scale of the target would change with every mask."""
    windows = waves()
    batch, target = masked(windows).batch(EVERY)
    past = windows.past[EVERY]
    normal = (past - past.mean(1, keepdim=True)) / past.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(target.values, normal[:, -COVERED:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        batch.past[batch.observed], normal[batch.observed], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("masking", [PatchMasking(), RunMasking()])
def test_the_loss_and_its_gradient_ignore_the_visible(masking: Masking) -> None:
    """Copying what is visible is easy: it would drown what has to be learnt."""
    _, target = masked(waves(), masking=masking).batch(EVERY)
    filled = torch.randn(8, COVERED, 2, 1, requires_grad=True)
    loss = mse(filled, target, ())
    loss.backward()
    assert filled.grad is not None
    assert torch.equal(filled.grad[..., 0] != 0, target.observed)
    changed = torch.where(target.observed[..., None], filled, 1e3)
    assert mse(changed, target, ()).item() == loss.item()


def test_what_was_never_measured_is_neither_read_nor_asked_for() -> None:
    """A sensor's gap filled with 0 would be a value that the network learns to invent."""
    given = waves()
    measured = torch.rand(given.past.shape, generator=torch.Generator().manual_seed(3)) > 0.3
    found = []
    for hole in (0.0, 1e6):
        past = torch.where(measured, given.past, hole)
        found.append(masked(GappyWindows(past, given.future, measured)).batch(EVERY))
    (batch, target), (other, asked) = found
    assert torch.equal(batch.past, other.past)
    assert torch.equal(target.values, asked.values)
    gap = ~measured[EVERY][:, -COVERED:]
    assert not (target.observed & gap).any()
    assert (batch.past[:, -COVERED:][gap] == 0).all()
    assert target.observed.any()


def test_a_flat_window_asks_for_nothing() -> None:
    """A dead sensor is filled in for free, and would make any network look good."""
    given = waves()
    given.past[2, :, 1] = 7.0
    batch, target = masked(given).batch(EVERY)
    assert not target.observed[2, :, 1].any()
    assert target.observed[2, :, 0].any()
    assert batch.past.isfinite().all()


def test_masks_of_validation_belong_to_the_window() -> None:
    """A score that depends on the batch size, or on luck, cannot choose the best epoch."""
    windows = masked(waves(), seed=5)
    batch, _ = windows.batch(EVERY)
    again, _ = windows.batch(EVERY[3:5])
    assert torch.equal(batch.observed[3:5], again.observed)
    assert not torch.equal(batch.observed[3], batch.observed[4])
    other, _ = masked(waves(), seed=6).batch(EVERY)
    assert not torch.equal(batch.observed, other.observed)


def test_masks_of_training_change_from_pass_to_pass() -> None:
    """Hiding always the same is a smaller task, soon known by heart."""
    windows = masked(waves(), seed=None)
    one, two = (windows.batch(EVERY)[0] for _ in range(2))
    assert not torch.equal(one.observed, two.observed)
    assert (one.observed[0, :, 0] != one.observed[0, :, 1]).any()  # each variate for itself


@torch.no_grad()
def test_the_paper_has_forty_two_patches_and_the_first_eight_steps_in_none() -> None:
    """Repeating the end as the supervised form does would show the hidden last value."""
    spec = replace(SPEC, patch=12, stride=12)
    windows = MaskedWindows(waves(8, context=512), spec, PatchMasking())
    assert (windows.patches, windows.shape.horizon) == (42, 504)
    model = MaskedPatches(spec, windows.shape, masking=PatchMasking()).eval()
    past = torch.randn(2, 512, 3)
    batch = Batch(past, torch.ones_like(past, dtype=torch.bool))
    filled = model(batch)
    assert filled.shape == (2, 504, 3, 1)
    past[:, :8] = 1e6
    assert torch.equal(model(batch), filled)
    past[:, 8] += 1
    assert not torch.equal(model(batch), filled)


@pytest.mark.parametrize("wrong", [{"stride": 2}, {"padding": "end"}])
def test_patches_that_show_what_is_hidden_are_refused(wrong: dict[str, object]) -> None:
    spec = replace(SPEC, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Set stride to patch and padding to 'none'"):
        MaskedWindows(waves(), spec, PatchMasking())


# Pretraining


@pytest.mark.parametrize("spec", [SPEC, LevelledPatchTSTSpec(**SPEC.to_mapping())])
def test_waves_are_filled_in_and_the_plateau_is_left(spec: PatchTSTSpec) -> None:
    """A sine is known from a part of it: who cannot learn that learns from no data."""
    found = pretrained(replace(spec, dropout=0.0), training=LONG)
    assert found.mean_fill == pytest.approx(1, abs=0.05)
    assert found.fit.validation_loss < 0.5 * found.mean_fill
    assert (found.left_plateau, found.warning) == (True, "")
    assert found.steps == 30 * 4


def test_who_stopped_on_the_plateau_is_told() -> None:
    """On ETTh1 nothing but positions is learnt for hundreds of steps, and the loss looks calm."""
    found = pretrained(training=replace(TRAINING, epochs=1))
    assert not found.left_plateau
    assert "After 4 steps" in found.warning
    assert "Take more steps" in found.warning


def test_values_in_runs_can_be_the_task() -> None:
    found = pretrained(replace(SPEC, dropout=0.0), training=LONG, masking=RunMasking())
    assert found.left_plateau


def test_the_seed_decides_everything() -> None:
    """An encoder that cannot be made again cannot be examined."""
    torch.manual_seed(1)
    one = pretrained()
    torch.manual_seed(2)
    two = pretrained()
    assert same(weights(one.encoder), weights(two.encoder))
    assert one.fit.validation_loss == two.fit.validation_loss
    assert not same(
        weights(one.encoder), weights(pretrained(training=replace(TRAINING, seed=1)).encoder)
    )


def test_an_interrupted_pretraining_goes_on_only_with_its_own_masking(tmp_path: Path) -> None:
    """Half a run on one task and half on another is neither."""
    how = {"train": waves(), "validation": waves(seed=1), "training": TRAINING}
    found = pretrain(SPEC, **how, checkpoint=tmp_path)
    again = pretrain(SPEC, **how, checkpoint=tmp_path)
    assert same(weights(found.encoder), weights(again.encoder))
    with pytest.raises(ConfigError, match="belongs to another run"):
        pretrain(SPEC, **how, checkpoint=tmp_path, masking=PatchMasking(0.5))


# Transfer


def encoder(spec: PatchTSTSpec = SPEC, *, context: int = CONTEXT) -> PatchEncoder:
    """An encoder in which no weight and no statistic stands where a fresh one has it."""
    made = PatchEncoder(spec, context=context).eval()
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return made


def test_all_but_the_head_is_handed_on() -> None:
    """Levels, horizon, number of variates and dropout are the forecaster's own affair."""
    model = replace(SPEC, dropout=0.4, affine="scalar").build(
        Shape(CONTEXT, 3, variates=5, levels=(0.1, 0.5, 0.9))
    )
    source, before = encoder(), weights(model)
    transfer(source, model)
    assert same(weights(encoder_of(model)), weights(source))
    kept = [name for name in before if ".encoder." not in name]
    assert len(kept) == 4  # weight and bias of head and affine
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feedforward": 32}, r"tensor 'stack.layers.0.feedforward.0.bias' must be .*\[16\], got"),
        ({"width": 16}, "tensor 'embedding.bias' must be"),
        ({"depth": 3}, "tensor 'stack.layers.2.attention.output.bias' must be absent, got"),
        ({"norm": "layer"}, "num_batches_tracked' must be .*, got absent"),
        ({"heads": 4}, "heads must be 2, got 4"),
        ({"attention": "residual"}, "attention must be plain, got residual"),
        ({"activation": "gelu"}, "activation must be relu, got gelu"),
    ],
)
def test_an_encoder_of_another_make_is_refused(changes: dict[str, object], message: str) -> None:
    """The official code skips what does not fit, and the probe runs on random layers (issue 67)."""
    model = SPEC.build(Shape(CONTEXT, HORIZON))
    before = weights(model)
    with pytest.raises(ArtifactError, match=message):
        transfer(encoder(replace(SPEC, **changes)), model)  # type: ignore[arg-type]
    assert same(weights(model), before)


def test_an_encoder_of_another_context_is_refused() -> None:
    """Positions of a longer window mean other times."""
    with pytest.raises(ArtifactError, match=r"tensor 'position' must be float32 \[10, 8\], got"):
        transfer(encoder(context=80), SPEC.build(Shape(CONTEXT, HORIZON)))


def test_only_patchtst_takes_an_encoder() -> None:
    with pytest.raises(ConfigError, match="Ridge has no patch encoder"):
        transfer(encoder(), RidgeSpec().build(Shape(CONTEXT, HORIZON)))


@pytest.mark.parametrize("spec", [SPEC, LevelledPatchTSTSpec(**SPEC.to_mapping())])
def test_a_stored_encoder_is_the_same_encoder(spec: PatchTSTSpec, tmp_path: Path) -> None:
    """Pretraining takes longest; what it found must survive the process."""
    stored = encoder(spec)
    digest = save_encoder(stored, tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder", digest=digest)
    assert (loaded.spec, loaded.context, loaded.training) == (spec, CONTEXT, False)
    assert same(weights(loaded), weights(stored))
    transfer(loaded, spec.build(Shape(CONTEXT, HORIZON)))


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    """A forecaster read as an encoder, or the other way round, must not half work."""
    model = SPEC.build(Shape(CONTEXT, HORIZON))
    artifact.save(model, SPEC, tmp_path / "forecaster")
    with pytest.raises(ArtifactError, match="not a pretrained encoder"):
        load_encoder(tmp_path / "forecaster")
    save_encoder(encoder(), tmp_path / "encoder")
    with pytest.raises(IncompatibleError, match="pretrained encoder: it has no head"):
        artifact.load(tmp_path / "encoder")
    described = {"format": 1, "encoder": {"kind": "ridge"}, "context": 43}
    artifact.write(tmp_path / "ridge", described=described, tensors={"a": torch.zeros(1)})
    with pytest.raises(ArtifactError, match="'ridge' has no patch encoder"):
        load_encoder(tmp_path / "ridge")
    (tmp_path / "encoder" / "weights.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(ArtifactError, match="manifest says"):
        load_encoder(tmp_path / "encoder")


# Probe and fine-tuning


def test_a_frozen_encoder_is_bit_equal_after_the_fit_of_a_head() -> None:
    """In the official probe the statistics of the batch norms move on: it is not the encoder's."""
    source = encoder()
    model = replace(SPEC, dropout=0.5).build(waves().shape)
    transfer(source, model)
    head = weights(model.inner.head)  # type: ignore[union-attr, arg-type]
    with frozen(model):
        fit(model, train=waves(), validation=waves(seed=1), training=TRAINING)
    assert same(weights(encoder_of(model)), weights(source))
    assert not same(weights(model.inner.head), head)  # type: ignore[union-attr, arg-type]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_frozen_encoder_draws_no_dropout_and_thaws() -> None:
    """A head that is fitted on noise is not the head of the features that will be served."""
    model, batch = replace(SPEC, dropout=0.5).build(waves().shape), waves().batch(EVERY)[0]
    with frozen(model):
        model.train()
        assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def test_a_probe_has_its_control() -> None:
    """Random features with a linear head forecast well: 0.379 on ETTh1 that a probe lost to."""
    source = encoder()
    how = {"train": waves(), "validation": waves(seed=1), "training": TRAINING}
    found = probe(SPEC, encoder=source, **how)
    assert same(weights(encoder_of(found.pretrained.model)), weights(source))
    control = encoder_of(found.control.model)
    assert control.position.abs().max() <= 0.02  # where random ones start
    assert found.pretrained.fit.validation_loss != found.control.fit.validation_loss
    assert len(found.control.fit.history) == TRAINING.epochs


def test_fine_tuning_goes_head_first_then_all_at_half_the_rate() -> None:
    """A random head's gradient would tear the encoder apart before the head is any good."""
    rates = []
    training = replace(TRAINING, schedule="constant")
    how = {"train": waves(), "validation": waves(seed=1), "training": training}
    source = encoder()
    found = fine_tune(
        SPEC,
        encoder=source,
        **how,
        probe_epochs=3,
        report=lambda progress: rates.append((progress.epochs, progress.learning_rate)),
    )
    assert list(dict.fromkeys(rates)) == [(3, 0.01), (2, 0.005)]
    assert not same(weights(encoder_of(found.model)), weights(source))
    assert len(found.fit.history) == 2
