"""Where and how a model runs: device, precision, and micro-batches that fit the memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from tsformer.batch import Batch
from tsformer.devices import checked_device
from tsformer.errors import ConfigError, ShapeError
from tsformer.model import Model
from tsformer.precision import PRECISIONS

# Rows (windows x variates) that run at once. A CPU is fastest where the widest layer of a small
# network stays near a core's cache: 64 rows of 64 tokens of 128 float32 are 2 MiB (PatchTST
# takes a third less time than in one piece of 1,024 rows). A GPU wants enough rows to fill it.
MICRO_BATCH = {"cpu": 64, "cuda": 8192}


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` is the GPU where there is one, else the CPU."""
    kind, _, number = checked_device(name).partition(":")
    count = torch.cuda.device_count()
    if kind == "auto":
        return torch.device("cuda" if count else "cpu")
    if kind == "cuda" and int(number or 0) >= count:
        raise ConfigError(
            f"device '{name}': this machine has {count} CUDA devices. Use auto or cpu."
        )
    return torch.device(name)


def pick_precision(name: str, *, device: torch.device) -> torch.dtype:
    """The type of matrix products; `auto` is bfloat16 on a GPU that has it, else float32."""
    if name not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got '{name}'.")
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if name == "float16" and device.type == "cpu":
        raise ConfigError(
            "precision 'float16' needs a GPU. Use auto, float32 or bfloat16 on a CPU."
        )
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """The context in which a forward pass multiplies matrices in `precision`."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


class Runtime:
    """Runs a model on one device, in micro-batches that fit its memory.

    A micro-batch that does not fit is halved, and the size that did fit is kept for the calls
    after. Forecasts do not depend on the size but for rounding.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: torch.device | str = "auto",
        precision: str = "float32",
        micro_batch: int | None = None,
    ) -> None:
        self.device = pick_device(str(device))
        self.precision = pick_precision(precision, device=self.device)
        self.model = model.to(self.device).eval()
        self.micro_batch = MICRO_BATCH[self.device.type] if micro_batch is None else micro_batch
        if self.micro_batch < 1:
            raise ConfigError(f"micro_batch must be at least 1 row, got {micro_batch}.")

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Tensor:
        """Forecasts `[batch, horizon, variate, level]` on the CPU, in the dtype of `batch.past`.

        Raises torch.OutOfMemoryError when not even one window fits, and ShapeError for an empty
        batch.
        """
        if not len(batch):
            raise ShapeError("There is no window to forecast: the batch axis has length 0.")
        variates = batch.past.shape[2]
        done: list[Tensor] = []
        start = 0
        while start < len(batch):
            part = batch[start : start + max(1, self.micro_batch // variates)]
            forecast = self._forecast(part)
            if forecast is None:
                self.micro_batch = len(part) // 2 * variates
                continue
            done.append(forecast)
            start += len(part)
        return torch.cat(done).cpu()  # here alone a GPU is waited for

    def _forecast(self, part: Batch) -> Tensor | None:
        """The forecast of `part` on the device; None where it does not fit but half of it might."""
        try:
            with autocast(self.device, self.precision):
                forecast: Tensor = self.model(part.to(self.device))
            return forecast.to(part.past.dtype)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
        # outside the handler, whose traceback would keep the failed pass's tensors alive
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None
