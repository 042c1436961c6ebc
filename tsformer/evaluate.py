"""The loss of a model over windows, and which windows are to blame when it is not finite."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tsformer.batch import Batch, Target, Windows
from tsformer.errors import DataError
from tsformer.losses import LOSSES
from tsformer.model import Model
from tsformer.ranks import ALONE, Ranks
from tsformer.recipe import Training
from tsformer.runtime import Runtime

LOG = logging.getLogger(__name__)


@torch.inference_mode()
def evaluate(model: Model, *, windows: Windows, training: Training, ranks: Ranks = ALONE) -> float:
    """The loss of `model` over all observed targets of `windows`, each weighing the same.

    Sums over batches, so the batch size has no influence; leaves the model in evaluation mode.
    A model without weights to be trained may have no forecast of a series (a classical one, where
    the fit fails): then its targets are left out, and the log says how many. A network's forecast
    that is not finite makes the loss so. `ranks` score a part of the windows each, and all get the
    loss over all. Raises DataError when there is no target to score.
    """
    runtime = Runtime(model, device=device_of(model), precision=training.precision)
    may_fail = not any(parameter.requires_grad for parameter in model.parameters())
    total, observed, failed, series = 0.0, 0.0, 0.0, 0.0
    for index in batches(len(windows), size=training.batch_size, ranks=ranks):
        batch, target = windows.batch(index)
        forecast = runtime.predict(batch)
        if may_fail:
            there = forecast.isfinite().all(dim=-1).all(dim=1)  # [batch, variate]
            asked = target.observed.any(dim=1)
            series += int(asked.sum())
            failed += int((asked & ~there).sum())
            target = replace(target, observed=target.observed & there[:, None])
        loss = LOSSES[training.loss](forecast, target, model.shape.levels)
        count = int(target.observed.sum())
        total += float(loss) * count if count else 0.0
        observed += count
    total, observed, failed, series = ranks.sums(total, observed, failed, series)
    if failed and not observed:
        raise DataError(
            f"The model has no forecast of any of {series:.0f} series of the windows, so there is "
            "nothing to score. The log says why: give it longer contexts or more seconds, or "
            "train another kind of model."
        )
    if failed:
        LOG.warning("%d of %d series have no forecast and are not in the score.", failed, series)
    if not observed:
        raise DataError("No target of the windows is observed, so there is nothing to score.")
    return total / observed


def batches(count: int, *, size: int, ranks: Ranks) -> Iterator[Tensor]:
    """The numbers of `count` windows in their order, `size` at a time; the share of this rank."""
    start, stop = (count * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1))
    for first in range(start, stop, size):
        yield torch.arange(first, min(first + size, stop))


@torch.inference_mode()
def blame(model: Model, *, windows: Windows, index: Tensor) -> tuple[str, list[int]]:
    """What of the windows numbered `index` is not finite, and of which; empty if all are."""
    model.eval()
    batch, target = cut(windows, index=index, device=device_of(model))
    parts = {
        "context": batch.past.where(batch.observed, 0.0),
        "known covariates": batch.known,
        "target": target.values.where(target.observed, 0.0),
        "forecast": model(batch),
    }
    for name, values in parts.items():
        bad = [] if values is None else index[~_finite(values)].tolist()
        if bad:
            more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
            shown = ", ".join(map(str, bad[:10]))
            return f"the {name} of windows {shown}{more} is not finite", bad
    return "", []


def cut(
    windows: Windows, *, index: Tensor, device: torch.device, variates: Tensor | None = None
) -> tuple[Batch, Target]:
    """The windows numbered `index` and what followed them, on `device`; all or some `variates`."""
    batch, target = windows.batch(index)
    if variates is not None:
        batch, target = batch.only(variates), target.only(variates)
    return batch.to(device), target.to(device)


def device_of(model: Model) -> torch.device:
    """Where the weights are; the CPU for a model without any."""
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def _finite(values: Tensor) -> Tensor:
    return values.isfinite().flatten(1).all(dim=1).cpu()  # [batch]
