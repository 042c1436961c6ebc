"""What a run is, by name: only a checkpoint of the very same run is gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from tsformer.batch import Windows
from tsformer.errors import ConfigError
from tsformer.model import Model
from tsformer.recipe import Training

DIFFERENCES_SHOWN = 5


def identity(
    model: Model, *, training: Training, train: Windows, validation: Windows
) -> dict[str, str]:
    """What a checkpoint must agree with; not how many processes train, or where."""
    facts: dict[str, object] = {
        **{f"training.{key}": value for key, value in asdict(training).items()},
        **{f"shape.{key}": value for key, value in asdict(model.shape).items()},
        "windows.train": len(train),
        "windows.validation": len(validation),
    }
    for name, module in model.named_modules():
        facts[f"module.{name}"] = f"{type(module).__name__}({module.extra_repr()})"
    for name, tensor in model.state_dict().items():
        facts[f"weight.{name}"] = tuple(tensor.shape)
    return {name: repr(value) for name, value in facts.items()}


def refuse_another_run(there: Mapping[str, str], here: Mapping[str, str], *, place: str) -> None:
    """Raises ConfigError with the first differences between a checkpoint `there` and the run."""
    differing = [
        f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
        for name in [*here, *(name for name in there if name not in here)]
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise ConfigError(
            f"The checkpoint in {place} belongs to another run: "
            f"{'; '.join(differing[:DIFFERENCES_SHOWN])}. "
            "Give another place, or remove this one to start anew."
        )
