"""Gradient descent on one model: a step, and the state that a checkpoint must hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam, AdamW

from tsformer.batch import Batch, Target
from tsformer.losses import Loss
from tsformer.model import Model
from tsformer.ranks import ALONE, Ranks
from tsformer.runtime import autocast
from tsformer.sharpness import gradient_norm, random_state, set_random_state, uphill

OPTIMIZERS: dict[str, type[Adam]] = {"adam": Adam, "adamw": AdamW}

# Keeps a gradient that is 0 from being divided by 0 (the official code of arXiv 2010.01412).
NORM_AT_LEAST = 1e-12


class Descent:
    """Steps down the loss of one model on one device.

    `clip` bounds the norm of the gradient that is stepped by; `sharpness` is the radius of
    `tsformer.sharpness`. 0 is none of either. `ranks` take each step together, each with its share
    of the batch: losses and gradients are those of the whole.
    """

    def __init__(
        self,
        model: Model,
        *,
        optimizer: Adam,
        loss: Loss,
        precision: torch.dtype,
        clip: float = 0.0,
        sharpness: float = 0.0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.precision = precision
        self.clip = clip
        self.sharpness = sharpness
        self.ranks = ranks
        self.device = next(model.parameters()).device
        # float16 alone has too small a range for gradients: arXiv 1710.03740, section 3.2
        self.scaler = GradScaler(self.device.type, enabled=precision == torch.float16)
        self.parameters: list[nn.Parameter] = [
            p for group in optimizer.param_groups for p in group["params"]
        ]

    def step(self, batch: Batch, target: Target, *, learning_rate: float) -> float:
        """The loss of `batch` before the step; where it is not finite no weight is changed.

        The norm of a gradient that is not clipped, and with sharpness the loss nearby, must be
        finite too: what is not is given in place of the loss. Adam's second moment of a gradient
        beyond 1e19 would be infinite, and its weight stand still from then on.
        """
        differentiate = self._sharp_gradient if self.sharpness else self._gradient
        loss = differentiate(batch, target)
        if not math.isfinite(loss):
            return loss
        if not self.clip and not self.scaler.is_enabled():
            norm = gradient_norm(self.parameters)
            if not math.isfinite(norm):
                return norm
        self._descend(learning_rate)
        return loss

    def _gradient(self, batch: Batch, target: Target) -> float:
        """The loss of `batch`; where it is finite, gradients times the loss scale are left."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            forecast = self.model(batch)
        loss = self.loss(forecast, target, self.model.shape.levels)
        value, part = self.ranks.whole(loss, target.observed)
        if math.isfinite(value):
            self.scaler.scale(part).backward()
            self.ranks.sum_in_place(p.grad for p in self.parameters if p.grad is not None)
        return value

    def _sharp_gradient(self, batch: Batch, target: Target) -> float:
        """As `_gradient`, but the gradients are those of the worst place nearby."""
        randomness = random_state(self.device)
        loss = self._gradient(batch, target)
        if not math.isfinite(loss):
            return loss
        norm = gradient_norm(self.parameters)
        if not math.isfinite(norm):
            # In float16 the loss scale was too large: the scaler skips the step and lowers it.
            return loss if self.scaler.is_enabled() else norm
        set_random_state(randomness, device=self.device)
        # The loss scale is in gradient and norm alike, so nothing is unscaled before the step.
        factor = self.sharpness / (norm + NORM_AT_LEAST)
        with uphill(self.model, parameters=self.parameters, factor=factor):
            nearby = self._gradient(batch, target)
        return loss if math.isfinite(nearby) else nearby

    def _descend(self, learning_rate: float) -> None:
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.parameters, self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def facts(self) -> dict[str, Any]:
        """The state that is not tensors: that of the loss scale."""
        return dict(self.scaler.state_dict())

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's tensors, as `number of the parameter/name of the moment`."""
        state = self.optimizer.state_dict()["state"]
        return {f"{i}/{name}": value for i, row in state.items() for name, value in row.items()}

    def restore(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Goes back to the state that `facts` and `tensors` described."""
        self.scaler.load_state_dict(dict(facts))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            number, name = key.split("/")
            state.setdefault(int(number), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def build_optimizer(model: Model, *, name: str, weight_decay: float) -> Adam:
    """Adam, or AdamW with decoupled decay (arXiv 1412.6980, 1711.05101), over what can be trained.

    Each step sets its own learning rate. The fused form: one pass over all parameters, a third of the time of `foreach` on a CPU.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    return OPTIMIZERS[name](parameters, weight_decay=weight_decay, fused=True)
