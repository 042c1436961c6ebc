"""How many processes fit a network together: the `workers` of an experiment.

workers: 2
workers: {count: 4, gpus: 1}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tsformer.errors import ConfigError
from tsformer.settings import from_mapping

if TYPE_CHECKING:
    from pipelines.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Workers:
    """How many processes fit each network together, and how many GPUs each of them has."""

    count: int = 1
    gpus: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"The number of workers must be at least 1, got {self.count}.")
        if self.gpus < 0:
            raise ConfigError(f"The GPUs of a worker must be 0 or more, got {self.gpus}.")

    @property
    def here(self) -> bool:
        """Whether this process does the work itself."""
        return self.count == 1 and not self.gpus

    def check(self, device: str) -> None:
        """Refuses a `device` that these workers do not have."""
        if not self.here and not self.gpus and device.startswith("cuda"):
            raise ConfigError(
                f"--device {device} with {self.count} workers: say how many GPUs each of them has "
                "(--gpus-per-worker 1)."
            )

    @staticmethod
    def from_plain(value: object, *, where: str) -> Workers:
        """Workers from what the YAML says: a number, or keys and values."""
        if isinstance(value, int) and not isinstance(value, bool):
            return Workers(value)
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a number such as 2, got {value!r}.")
        return from_mapping(Workers, value, where=where)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line says of the workers, before which the experiment's own words yield."""

    count: int | None = None
    gpus: int | None = None

    def of(self, experiment: Experiment) -> Experiment:
        """`experiment` with these workers; what was not said stays as it is."""
        own = experiment.workers
        count = own.count if self.count is None else self.count
        gpus = own.gpus if self.gpus is None else self.gpus
        return replace(experiment, workers=Workers(count, gpus))
