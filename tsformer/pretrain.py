"""Masked pretraining of PatchTST's encoder, and what is made of it: probe, fine-tuning, transfer.

Arxiv 2211.14730, sections 3.2 and 4.2, following github.com/yuqinie98/PatchTST: windows are
normalised, part of their values is set to 0 (the mean of the window), and one linear map for all
tokens says what stood there. Pretraining is an ordinary fit: `MaskedWindows` hides values of any
windows, and what was hidden is the observed part of their target. So what is visible, was never
measured or stands in a flat window has no part in the loss.

As in the official code the statistics of a window are those before the masking, so that its mean
and deviation are no secret (its issue 35). Deviations:

- The frozen encoder of a probe is frozen (see `PatchEncoder.freeze`).
- Weights are transferred all or not at all (the official code skips what does not fit).
- A probe never comes without its control, the same on an encoder with random weights: with tokens
  as wide as patches, those are nearly any affine map of the window.

The objective may stay for hundreds of steps where only positions have been learnt, 0.91 of the
error of filling with the mean on ETTh1, and fall then: count steps, and see `left_plateau`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from tsformer import artifact
from tsformer.batch import Batch, Shape, Target, Windows
from tsformer.checkpoint import Storage
from tsformer.dropout import Dropout
from tsformer.errors import ArtifactError, ConfigError, TsformerError
from tsformer.masking import Masking, PatchMasking
from tsformer.model import Model
from tsformer.models import spec_from_mapping
from tsformer.models.patchtst import PatchEncoder, PatchTSTSpec
from tsformer.multiscale import levels
from tsformer.scale import scaling
from tsformer.tokens import patch_count, unfold_variates
from tsformer.train import Fit, Report, Training, evaluate, fit

# Share of the error of mean-filling below which more than positions must have been learnt.
PLATEAU = 0.8

# What an encoder does not keep from its specification: they may differ in a transfer.
NOT_OF_THE_ENCODER = {"dropout", "head_dropout", "affine"}

PROBE, WHOLE = "probe", "whole"  # the parts of a fine-tuning


# --- masked windows -------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskedWindows:
    """The contexts of `windows`, normalised and partly hidden, and what was hidden as target.

    Satisfies `tsformer.batch.Windows`: the horizon is the steps that the patches of `spec` cover,
    the newest of the context. With a `seed` window n always hides the same; without one, each
    time anew by torch's random state. Level and deviation of the windows go along as static
    columns, which only a levelled network reads.
    """

    windows: Windows
    spec: PatchTSTSpec
    masking: Masking
    seed: int | None = None

    def __post_init__(self) -> None:
        spec = self.spec
        if spec.stride != spec.patch or spec.padding != "none":
            raise ConfigError(
                "masked pretraining needs patches that share no step and repeat none, or what is "
                f"hidden is seen in the next patch: got patch {spec.patch}, stride {spec.stride}, "
                f"padding '{spec.padding}'. Set stride to patch and padding to 'none'."
            )

    @property
    def patches(self) -> int:
        """How many patches a window has."""
        spec, context = self.spec, self.windows.shape.context
        return patch_count(context, patch=spec.patch, stride=spec.stride, padding=spec.padding)

    @property
    def shape(self) -> Shape:
        given = self.windows.shape
        return Shape(given.context, self.patches * self.spec.patch, variates=given.variates)

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, index: Tensor) -> tuple[Batch, Target]:
        """The masked windows numbered `index`, and the values that were hidden."""
        whole, _ = self.windows.batch(index)
        unit = scaling(whole.past, whole.observed, center="mean", scale="std")
        normal = unit.apply(whole.past, whole.observed)
        hidden = self._hidden(index, variates=whole.past.shape[2])  # [batch, horizon, variate]
        dropped = whole.past.shape[1] - hidden.shape[1]
        visible = whole.observed.clone()
        visible[:, dropped:] &= ~hidden
        masked = Batch(torch.where(visible, normal, 0), visible, static=levels(unit))
        asked = hidden & whole.observed[:, dropped:] & (unit.scale > 0)
        return masked, Target(normal[:, dropped:], asked)

    def _hidden(self, index: Tensor, *, variates: int) -> Tensor:
        if self.seed is None:
            return self._drawn(len(index), None, variates)
        states = (np.random.SeedSequence([self.seed, int(n)]).generate_state(1) for n in index)
        chances = (Generator().manual_seed(int(state[0])) for state in states)
        return torch.cat([self._drawn(1, chance, variates) for chance in chances])

    def _drawn(self, windows: int, chance: Generator | None, variates: int) -> Tensor:
        rows = windows * variates
        hidden = self.masking.draw(rows, patches=self.patches, patch=self.spec.patch, chance=chance)
        return hidden.unflatten(0, (windows, variates)).mT  # [batch, horizon, variate]


class MaskedPatches(Model):
    """The encoder with one linear map, shared by all tokens, back to the steps of their patch.

    The forecast of this model is the reconstruction of its context, without the first steps that
    fill no patch.
    """

    def __init__(self, spec: PatchTSTSpec, shape: Shape, *, masking: Masking) -> None:
        super().__init__(shape)
        self.masking = masking
        self.encoder = PatchEncoder(spec, context=shape.context)
        self.head = nn.Sequential(Dropout(spec.head_dropout), nn.Linear(spec.width, spec.patch))

    def forward(self, batch: Batch) -> Tensor:
        values = self.head(self.encoder(batch)).flatten(1)  # [row, time]
        filled = unfold_variates(values.unsqueeze(-1), variates=batch.past.shape[2])
        return filled.to(batch.past.dtype)  # [batch, time, variate, level]

    def extra_repr(self) -> str:
        return repr(self.masking)


# --- pretraining ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pretrained:
    """An encoder and how its pretraining went.

    `steps` are the optimiser's; `mean_fill` is the loss of filling with the mean of the window,
    on the same hidden values of the validation windows as `fit.validation_loss`.
    """

    encoder: PatchEncoder
    fit: Fit
    steps: int
    mean_fill: float

    @property
    def left_plateau(self) -> bool:
        """Whether more was learnt than what usually stands at a position."""
        return self.fit.validation_loss < PLATEAU * self.mean_fill

    @property
    def warning(self) -> str:
        """What to do where the plateau was not left; else empty."""
        if self.left_plateau:
            return ""
        return (
            f"After {self.steps} steps the error of reconstruction is still "
            f"{self.fit.validation_loss / self.mean_fill:.2f} of that of filling with the mean: "
            "little but positions was learnt. Take more steps (a smaller batch_size, more "
            "epochs), a higher learning_rate or less dropout."
        )


def pretrain(
    spec: PatchTSTSpec,
    *,
    train: Windows,
    validation: Windows,
    training: Training,
    masking: Masking | None = None,
    device: torch.device | str = "cpu",
    checkpoint: Storage | Path | None = None,
    report: Report | None = None,
) -> Pretrained:
    """An encoder of `spec` that learnt to fill in what `masking` hides of the contexts.

    Masking is `PatchMasking()` unless given. The seed of `training` decides initial weights, what
    is hidden, and everything else. Covariates have no part. Raises as `tsformer.train.fit`, and
    ConfigError where patches overlap.
    """
    masking = masking or PatchMasking()
    given = MaskedWindows(train, spec, masking)
    judged = MaskedWindows(validation, spec, masking, seed=training.seed)
    with _seeded(training.seed):
        model = MaskedPatches(spec, given.shape, masking=masking)
    fitted = fit(
        model,
        train=given,
        validation=judged,
        training=training,
        device=device,
        checkpoint=checkpoint,
        report=report,
    )
    steps = len(fitted.history) * training.steps_per_epoch(len(given))
    mean_fill = evaluate(MeanFill(given.shape), windows=judged, training=training)
    return Pretrained(model.encoder, fitted, steps, mean_fill)


class MeanFill(Model):
    """Fills in the mean of the window, which is 0: what pretraining must beat."""

    def forward(self, batch: Batch) -> Tensor:
        return torch.zeros_like(batch.past[:, -self.shape.horizon :, :, None])


# --- the encoder elsewhere ------------------------------------------------------------------


def encoder_of(model: Model) -> PatchEncoder:
    """The patch encoder inside `model`; raises ConfigError where there is none."""
    for module in model.modules():
        if isinstance(module, PatchEncoder):
            return module
    raise ConfigError(
        f"{type(model).__name__} has no patch encoder: only PatchTST takes a pretrained one."
    )


def transfer(encoder: PatchEncoder, model: Model) -> None:
    """Gives `model` the weights and statistics of `encoder`; its head alone stays as it was.

    Raises ArtifactError with the first tensor, or the first setting that no shape shows (the
    number of heads, say), in which the two encoders differ; dropouts may.
    """
    own = encoder_of(model)
    tensors = encoder.state_dict()
    artifact.check_tensors(own.state_dict(), tensors, where="the pretrained encoder")
    for field in fields(own.spec):
        wanted, got = getattr(own.spec, field.name), getattr(encoder.spec, field.name)
        if wanted != got and field.name not in NOT_OF_THE_ENCODER:
            raise ArtifactError(
                f"the pretrained encoder: {field.name} must be {wanted}, got {got}. "
                "Build the model with the settings of the pretraining."
            )
    own.load_state_dict(tensors, strict=True)


def save_encoder(encoder: PatchEncoder, directory: Path) -> str:
    """Writes `encoder` as an artifact to the new or empty `directory`; gives its digest."""
    described = {
        "format": artifact.FORMAT,
        "encoder": {"kind": encoder.spec.kind, **encoder.spec.to_mapping()},
        "context": encoder.context,
    }
    return artifact.write(directory, described=described, tensors=encoder.state_dict())


def load_encoder(directory: Path, *, digest: str | None = None) -> PatchEncoder:
    """The encoder in `directory`, in evaluation mode.

    Raises ArtifactError if the files, the description or any tensor is not as it must be.
    """
    described = artifact.described_in(directory, digest=digest)
    where = str(directory / artifact.SPEC)
    if set(described) != {"format", "encoder", "context"}:
        raise ArtifactError(
            f"{where} must hold format, encoder and context, got {', '.join(sorted(described))}: "
            "it is not a pretrained encoder."
        )
    try:
        spec = spec_from_mapping(described["encoder"], where=where)
        if not isinstance(spec, PatchTSTSpec):
            raise ConfigError(f"'{spec.kind}' has no patch encoder.")
        with _seeded(0):  # fresh weights are drawn and overwritten
            encoder = PatchEncoder(spec, context=described["context"])
    except (TsformerError, TypeError) as error:
        raise ArtifactError(f"{where} describes no encoder that can be built: {error}") from error
    artifact.restore(encoder, directory)
    return encoder.eval()


# --- probe and fine-tuning ------------------------------------------------------------------


@dataclass(frozen=True)
class Tuned:
    """A forecaster and how its fit went."""

    model: Model
    fit: Fit


@dataclass(frozen=True)
class Probe:
    """Heads on a frozen encoder: `pretrained`, and the control with random weights."""

    pretrained: Tuned
    control: Tuned


def probe(
    spec: PatchTSTSpec,
    *,
    encoder: PatchEncoder,
    train: Windows,
    validation: Windows,
    training: Training,
    device: torch.device | str = "cpu",
    report: Report | None = None,
) -> Probe:
    """Fits the head of `spec` on the frozen `encoder`, and on a random one as its control.

    Both heads start from the same weights, which the seed of `training` decides.
    """
    fitting = partial(
        fit, train=train, validation=validation, training=training, device=device, report=report
    )
    found = []
    for source in (encoder, None):
        model = _built(spec, train.shape, encoder=source, seed=training.seed)
        with frozen(model):
            found.append(Tuned(model, fitting(model)))
    return Probe(*found)


def fine_tune(
    spec: PatchTSTSpec,
    *,
    encoder: PatchEncoder,
    train: Windows,
    validation: Windows,
    training: Training,
    probe_epochs: int = 10,
    device: torch.device | str = "cpu",
    report: Report | None = None,
) -> Tuned:
    """A model of `spec` from `encoder`, fitted as by `head_first`."""
    model = _built(spec, train.shape, encoder=encoder, seed=training.seed)

    def fitting(part: str, how: Training) -> Fit:  # noqa: ARG001  (nothing is kept by its name)
        return fit(
            model, train=train, validation=validation, training=how, device=device, report=report
        )

    outcome = head_first(model, training=training, probe_epochs=probe_epochs, fitting=fitting)
    return Tuned(model, outcome)


def head_first(
    model: Model,
    *,
    training: Training,
    probe_epochs: int,
    fitting: Callable[[str, Training], Fit],
) -> Fit:
    """Fits the head of `model` alone first, then everything at half the learning rate.

    The official order: `probe_epochs` with the encoder frozen, then the epochs of `training`, each
    part with a schedule of its own. `fitting(part, training)` fits `model` in place; the parts are
    PROBE and WHOLE, and what is returned is the fit of the second, with the time of both.
    """
    seconds = 0.0
    if probe_epochs:
        with frozen(model):
            seconds = fitting(PROBE, replace(training, epochs=probe_epochs)).seconds
    whole = fitting(WHOLE, replace(training, learning_rate=training.learning_rate / 2))
    return replace(whole, seconds=seconds + whole.seconds)


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """The encoder of `model` frozen: what is fitted meanwhile is its head."""
    encoder = encoder_of(model)
    encoder.freeze()
    try:
        yield
    finally:
        encoder.thaw()


def _built(spec: PatchTSTSpec, shape: Shape, *, encoder: PatchEncoder | None, seed: int) -> Model:
    with _seeded(seed):
        model = spec.build(shape)
    if encoder is not None:
        transfer(encoder, model)
    return model


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's random state for initial weights; afterwards the caller's is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
