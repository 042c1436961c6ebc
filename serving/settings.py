"""The settings of the service: the `args` of its application in configs/serve.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipelines.versions import FALLBACK, FALLBACKS, RESERVED, checked_name
from serving.limits import Limits
from tsformer import settings
from tsformer.errors import ConfigError, unknown_key
from tsformer.fit_pool import AT_MOST
from tsformer.precision import PRECISIONS

DEVICES = ("auto", "cpu", "cuda")  # no cuda:N: a replica sees no GPU but the one that Ray gives it
HOST = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+(%[\w.-]+)?\]?")  # a name, or an address
MOST_INGRESSES = 64
RUNTIMES = ("auto", "torch", "onnx")
VARIABLE = "TSFORMER_SERVE"  # the settings of the service that starts the process of a job, as JSON


@dataclass(frozen=True, slots=True)
class Server:
    """`allowed_hosts`: names by which clients call the service, beside those of this machine itself.

    `replicas`: processes that answer HTTP. Several share the port that is told; each has one of its own
    too, in a row after it.
    """

    allowed_hosts: tuple[str, ...] = ()
    replicas: int = 1

    def __post_init__(self) -> None:
        _at_least_one("server", "replicas", self.replicas)
        if self.replicas > MOST_INGRESSES:
            raise ConfigError(
                f"server: 'replicas' must be at most {MOST_INGRESSES}, got {self.replicas}."
            )
        for name in self.allowed_hosts:
            if not HOST.fullmatch(name):
                raise ConfigError(
                    "server: 'allowed_hosts' are names or addresses as in the header Host, without "
                    f"scheme, path and port, got '{name}'."
                )


@dataclass(frozen=True, slots=True)
class Auth:
    """`anonymous_invocations`: whether callers of /invocations may forecast without a key.

    For platforms that strip Authorization and guard the service themselves, such as SageMaker.
    """

    anonymous_invocations: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """The processes of one deployment of models.

    There are `replicas` of them; where `replicas_maximum` is more, Ray Serve adds some under load, up
    to so many, and takes them away again. `device`: auto, cpu or cuda; which GPU, Ray says.
    """

    replicas: int = 1
    replicas_maximum: int = 0
    device: str = "auto"

    @property
    def most(self) -> int:
        """How many processes there may be at a time."""
        return max(self.replicas, self.replicas_maximum)

    @staticmethod
    def of_section(section: Mapping[str, Any], *, device: str, where: str) -> Scale:
        """The scale that `section` describes, on `device` where it does not say one."""
        scale = settings.from_mapping(Scale, section, where=where)
        return scale if "device" in section else replace(scale, device=device)

    def check(self, where: str) -> None:
        """Raises ConfigError where it cannot be so."""
        if self.device.startswith("cuda:"):
            raise ConfigError(
                f"{where}: 'device' cannot be '{self.device}': a replica sees no GPU but the one that "
                "Ray gives it. Say cuda."
            )
        _one_of(where, "device", self.device, DEVICES)
        _at_least_one(where, "replicas", self.replicas)
        if self.replicas_maximum and self.replicas_maximum < self.replicas:
            raise ConfigError(
                f"{where}: 'replicas_maximum' must be 0 or at least 'replicas', {self.replicas}, got "
                f"{self.replicas_maximum}."
            )


@dataclass(frozen=True, slots=True)
class Models:
    """Which models are served, and on what.

    - `default`: the model of a request that names none; empty means the only one there is.
    - `device`, `replicas`, `replicas_maximum`: of the deployment that all models share, see `Scale`.
    - `own`: models with a deployment of their own, each with such a `Scale`.
    - `threads`: of torch, in each replica; `in_memory`: versions that each keeps loaded.
    - `runtime`: of models on a CPU; auto, torch or onnx (see `serving.runtimes`).
    - `precision`: auto, float32, bfloat16 or float16; float32 where another is too far from it.
    - `poll_s`: how often aliases are asked for again.
    """

    default: str = ""
    device: str = "auto"
    threads: int = 1
    runtime: str = "auto"
    precision: str = "float32"
    in_memory: int = 8
    poll_s: float = 2.0
    replicas: int = 1
    replicas_maximum: int = 0
    own: Mapping[str, Scale] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("threads", "in_memory"):
            _at_least_one("models", name, getattr(self, name))
        _above_zero("models", "poll_s", self.poll_s)
        _one_of("models", "runtime", self.runtime, RUNTIMES)
        _one_of("models", "precision", self.precision, PRECISIONS)
        if self.default in RESERVED:
            raise ConfigError(
                f"models: default: '{self.default}' is a built-in baseline, which requests name by "
                "themselves. Give a registered model, or leave it empty for the only one there is."
            )
        self.shared.check("models")
        for name, scale in self.own.items():
            if checked_name(name) in RESERVED:
                raise ConfigError(
                    f"models: own: '{name}' is a built-in baseline, which runs where requests are "
                    "read. Leave it out; here stand names of registered models."
                )
            scale.check(f"models: own: {name}")

    @property
    def shared(self) -> Scale:
        """The deployment of all models that have none of their own."""
        return Scale(self.replicas, self.replicas_maximum, self.device)

    @staticmethod
    def of_section(section: Mapping[str, Any], *, where: str) -> Models:
        """The section `models`; what `own` does not say is as the defaults are, but for the device."""
        plain = {name: value for name, value in section.items() if name != "own"}
        models = settings.from_mapping(Models, plain, where=where)
        own = section.get("own", {})
        if not isinstance(own, Mapping):
            raise ConfigError(f"{where}: 'own' must hold names of models, and settings for each.")
        scales = {
            str(name): Scale.of_section(
                {} if scale is None else scale, device=models.device, where=f"{where}: own: {name}"
            )
            for name, scale in own.items()
        }
        return replace(models, own=scales)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request that does not say it gets; `fallback`: seasonal_naive, linear or none."""

    fallback: str = FALLBACK

    def __post_init__(self) -> None:
        known = (*FALLBACKS, "none")
        if self.fallback not in known:
            raise ConfigError(f"defaults: 'fallback' must be one of {', '.join(known)}.")


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests share a call of the model; `max_windows` is the largest batch."""

    max_windows: int = 64

    def __post_init__(self) -> None:
        _at_least_one("batching", "max_windows", self.max_windows)


@dataclass(frozen=True, slots=True)
class Fitting:
    """`at_once`: series that ets, theta and sarimax are fitted to at a time; 0 is half of the cores.

    Each takes a core and a process of 0.2 to 0.6 GiB.
    """

    at_once: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.at_once <= AT_MOST:
            raise ConfigError(
                f"fits: 'at_once' must be 0 to {AT_MOST}, the cores of this machine, got "
                f"{self.at_once}."
            )


@dataclass(frozen=True, slots=True)
class Datasets:
    """`folder`: where the files lie that an operator may name in place of a table; empty for none."""

    folder: str = ""


@dataclass(frozen=True, slots=True)
class Nixtla:
    """`models`: what the names of the Nixtla client mean here, with *; empty is the default model."""

    models: Mapping[str, str] = field(default_factory=lambda: {"timegpt-*": ""})

    @staticmethod
    def of_compat(section: Mapping[str, Any], *, where: str) -> Nixtla:
        """The section `nixtla` of the section `compat`."""
        if unknown := [name for name in section if name != "nixtla"]:
            raise unknown_key(str(unknown[0]), ["nixtla"], where=where)
        own = section.get("nixtla", {})
        if not isinstance(own, Mapping):
            raise ConfigError(f"{where}: 'nixtla' must hold keys and values.")
        if unknown := [name for name in own if name != "models"]:
            raise unknown_key(str(unknown[0]), ["models"], where=f"{where}: nixtla")
        models = own.get("models", Nixtla().models)
        if not isinstance(models, Mapping) or not all(
            isinstance(text, str) for pair in models.items() for text in pair
        ):
            raise ConfigError(f"{where}: nixtla: 'models' must hold names, and models for them.")
        rest = {name: to for name, to in Nixtla().models.items() if name not in models}
        return Nixtla({**models, **rest})  # the first that fits counts


@dataclass(frozen=True, slots=True)
class Work:
    """How this service executes jobs and the runs of schedules.

    `at_once`: jobs that are worked on, each by a process of its own; 0 leaves jobs and schedules
    to `tsformer schedule run`. `look_s`: how often it looks for what is to be done.
    """

    at_once: int = 1
    look_s: float = 1.0

    def __post_init__(self) -> None:
        if self.at_once < 0:
            raise ConfigError(f"jobs: 'at_once' must be 0 or more, got {self.at_once}.")
        _above_zero("jobs", "look_s", self.look_s)


OTHERS = ("models", "compat")  # sections that hold names of the operator's


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the application."""

    server: Server = field(default_factory=Server)
    auth: Auth = field(default_factory=Auth)
    models: Models = field(default_factory=Models)
    defaults: Defaults = field(default_factory=Defaults)
    batching: Batching = field(default_factory=Batching)
    limits: Limits = field(default_factory=Limits)
    fits: Fitting = field(default_factory=Fitting)
    datasets: Datasets = field(default_factory=Datasets)
    jobs: Work = field(default_factory=Work)
    nixtla: Nixtla = field(default_factory=Nixtla)

    @staticmethod
    def read(mapping: Mapping[str, Any], *, where: str = "serve.yaml") -> Settings:
        """The settings that `mapping` describes; ConfigError names an unknown key."""
        sections = {
            "server": Server,
            "auth": Auth,
            "defaults": Defaults,
            "batching": Batching,
            "limits": Limits,
            "fits": Fitting,
            "datasets": Datasets,
            "jobs": Work,
        }
        for name, section in mapping.items():
            if name not in (*sections, *OTHERS):
                raise unknown_key(str(name), [*sections, *OTHERS], where=where)
            if not isinstance(section, Mapping):
                raise ConfigError(f"{where}: '{name}' must hold keys and values.")
        compat = Nixtla.of_compat(mapping.get("compat", {}), where=f"{where}: compat")
        models = Models.of_section(mapping.get("models", {}), where=f"{where}: models")
        return Settings(
            **{
                name: settings.from_mapping(sections[name], section, where=f"{where}: {name}")
                for name, section in mapping.items()
                if name in sections
            },
            models=models,
            nixtla=compat,
        )

    @staticmethod
    def of(environment: Mapping[str, str]) -> Settings | None:
        """Those of the service that started this process; None where none did."""
        text = environment.get(VARIABLE)
        if text is None:
            return None
        try:
            mapping = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{VARIABLE}: expected settings as JSON: {error}.") from error
        if not isinstance(mapping, dict):
            raise ConfigError(f"{VARIABLE}: expected sections of settings, got {mapping!r}.")
        return Settings.read(mapping, where=VARIABLE)

    def variables(self) -> dict[str, str]:
        """What the environment of a process must have for `of` to find these."""
        told = asdict(self)
        told["compat"] = {"nixtla": told.pop("nixtla")}
        return {VARIABLE: json.dumps(told)}


def _at_least_one(section: str, name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{section}: '{name}' must be at least 1, got {value}.")


def _one_of(section: str, name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{section}: '{name}' must be one of {', '.join(known)}, got '{value}'.")


def _above_zero(section: str, name: str, seconds: float) -> None:
    if not seconds > 0:  # nor NaN
        raise ConfigError(f"{section}: '{name}' must be more than 0 seconds, got {seconds:g}.")
