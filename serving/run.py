"""Starts the service on a local Ray, waits until it is ready, and leaves nothing behind.

One machine; loopback, or another address where there is a key. Ray's own ports want a token that
only this user can read, its dashboard and usage reports are off, and its files go to a private
folder that is removed at the end.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from pipelines.config_files import parsed
from pipelines.home import Home, configure
from pipelines.keys import all_keys
from pipelines.store import Store
from serving.hosts import bracketed, is_loopback
from serving.ports import SHARED, check_free, own_ports
from serving.problems import LOADING
from serving.settings import Settings
from tsformer.errors import ConfigError, UnavailableError, unknown_key
from tsformer.settings import check_setting

if TYPE_CHECKING:  # reads the environment as it is imported
    from ray.serve.handle import DeploymentHandle

LOG = logging.getLogger(__name__)
CONFIG = Path(__file__).parents[1] / "configs" / "serve.yaml"
OBJECT_STORE_BYTES = 200 * 1024 * 1024  # requests are far smaller; Ray would take 30 % of memory
READY_SECONDS = 120.0
LEAVE_SECONDS = 5.0
# Of Ray Serve's own config file, what this start does not ignore.
SECTIONS = ("http_options", "applications")
HTTP_OPTIONS = ("host", "port", "root_path", "request_timeout_s", "keep_alive_timeout_s")
LARGEST_MESSAGE = 40 * 1024 * 1024  # of gRPC: serving.remote says what is sent by it

# Read by Ray and Serve in every process.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 by default, which starves the service on a busy machine
    # A dead proxy is back in seconds.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    # The ingress replica listens itself. Through Serve's proxy a request costs four times the
    # processor time, and the proxy takes bodies of any size into memory before we see them.
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    "RAY_SERVE_PORT_QUARANTINE_S": "0",  # a new ingress replica takes the port of a dead one
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    # Requests do not change threads on their way, and go from process to process by gRPC.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(LARGEST_MESSAGE),
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.doors.middlewares",
    "OMP_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service listens."""

    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def url(self) -> str:
        return f"http://{bracketed(self.host)}:{self.port}"

    @property
    def everywhere(self) -> bool:
        """Whether it is every address of this machine, and so no name to call it by."""
        return self.host in ("0.0.0.0", "::")


def read_config(path: Path | None) -> dict[str, Any]:
    """The Ray Serve config at `path`; what it leaves out is as in configs/serve.yaml.

    A file without `applications` holds the settings alone: `server`, `models`, `limits` and so on.
    """
    where, shipped = str(path or CONFIG), _read(CONFIG)
    config = shipped if path is None else _read(path)
    if "applications" not in config:
        config = {"applications": [{"args": config}]}
    _check_keys(config, SECTIONS, where=where)
    http = _http(config.get("http_options"), where=f"{where}: http_options")
    application = _application(config["applications"], shipped["applications"][0], where=where)
    try:
        folder = Settings.read(application["args"], where=where).datasets.folder
        if folder and not Path(folder).is_dir():
            raise ConfigError(f"datasets: 'folder' is no folder of this machine: '{folder}'.")
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from error
    return {"http_options": {**shipped["http_options"], **http}, "applications": [application]}


def _read(path: Path) -> dict[str, Any]:
    config = parsed(path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected settings, such as 'models: {{replicas: 2}}'.")
    return config


def _http(section: object, *, where: str) -> dict[str, Any]:
    """What is said of how it listens."""
    http = _mapping(section, where=where)
    _check_keys(http, HTTP_OPTIONS, where=where)
    for name in ("host", "port"):
        if name in http:
            check_setting(Address, name, http[name], where=where)
    return http


def _application(entries: object, shipped: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The one application of `entries`; what it leaves out is as `shipped`."""
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise ConfigError(f"{where}: expected one entry under applications, as in {CONFIG}.")
    where = f"{where}: applications"
    _check_keys(entries[0], [*shipped], where=where)
    application = {**shipped, **entries[0]}
    for name in ("import_path", "route_prefix"):
        if application[name] != shipped[name]:
            raise ConfigError(
                f"{where}: '{name}' must be '{shipped[name]}', got {application[name]!r}. Leave it "
                "out, or start another application by `serve run`."
            )
    return {**application, "args": _mapping(application["args"], where=f"{where}: args")}


def _mapping(section: object, *, where: str) -> dict[str, Any]:
    """`section`, empty where nothing stands in it."""
    if section is None:
        return {}
    if not isinstance(section, dict):
        kind = type(section).__name__  # what it holds may be a secret
        raise ConfigError(f"{where}: expected keys and values, got {kind}.")
    return section


def _check_keys(mapping: Mapping[str, Any], known: Sequence[str], *, where: str) -> None:
    for key in mapping:
        if key not in known:
            raise unknown_key(str(key), known, where=where)


@contextmanager
def serving(config: Mapping[str, Any], address: Address, *, home: Home) -> Iterator[str]:
    """The service of a Ray Serve `config`, at the address that it yields; ended after."""
    check_keys(address, home)
    application = config["applications"][0]
    arguments = with_host(application["args"], address)
    doors = Settings.read(arguments).server.replicas
    own = own_ports(address.port, doors)
    check_free(address.host, {address.port, *own})
    with _owner_alone():
        home.folder.mkdir(parents=True, exist_ok=True)
        configure(os.environ, role="serving")
        os.environ |= ENVIRONMENT | {
            "RAY_AUTH_TOKEN_PATH": str(_token(home)),
            "TSFORMER_HOME": str(home.folder),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(own.start),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(own.stop),  # not included
            SHARED: str(address.port) if doors > 1 else "",
        }
        options = {**config["http_options"], "host": address.host}
        with _started({**application, "args": arguments}, options):
            yield address.url


@contextmanager
def _started(application: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[None]:
    """The application on a Ray of its own, as the environment says; both are ended after."""
    import ray  # reads the environment
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation
    from ray.serve.schema import LoggingConfig

    from serving.deployments import build, processes

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    settings = Settings.read(application["args"])
    started = processes(settings)  # before they are asked for; as many as processors by default
    os.environ |= {"RAY_worker_maximum_startup_concurrency": str(started)}
    scratch = tempfile.mkdtemp(prefix="tsformer-")  # short: Ray puts sockets there
    try:
        leave = signal.getsignal(signal.SIGTERM)
        ray.init(
            address="local",
            num_cpus=started,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level="warning",
            _temp_dir=scratch,
            _node_ip_address="127.0.0.1",
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, leave)  # Ray's own ends the process without a clean-up
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            # Serve starts its proxy in any case; it gets a port that nobody is told.
            http_options=HTTPOptions(**{**options, "port": 0}),
            logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
        )
        ingresses = _run(build(application["args"]), name=application["name"])
        try:
            yield
        finally:
            _leave(ingresses)
    finally:
        if ray.is_initialized():
            with redirect_stdout(io.StringIO()):  # Ray calls the end of its controller a failure
                serve.shutdown()
                ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _run(application: Any, *, name: str) -> DeploymentHandle:
    """The ingresses of the application, which is started."""
    from ray import serve

    try:
        return serve.run(application, name=name)
    except RuntimeError as error:  # Serve tells no more of what happened in another process
        raise UnavailableError(
            f"The service did not start: {error} Perhaps another one took its port meanwhile; if not, "
            "look for the cause in what stands above."
        ) from error


def _leave(ingresses: DeploymentHandle) -> None:
    """Has all ingresses listen no more, so that what they have is soon answered."""
    try:
        ingresses._init(_run_router_in_separate_loop=True)  # there is no other loop here
        ingresses.broadcast("leave").results(timeout_s=LEAVE_SECONDS)
    except Exception as error:  # who does not answer is ended all the same
        LOG.warning("an ingress was not told that the service ends: %r", error)


@contextmanager
def _owner_alone() -> Iterator[None]:
    """Files that are made meanwhile, by Ray too, are this user's alone."""
    umask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(umask)


def check_keys(address: Address, home: Home) -> None:
    """Raises ConfigError where others than this machine could ask and no key is valid."""
    if not is_loopback(address.host) and not all_keys(Store.of(home)).valid:
        raise ConfigError(
            f"Without a valid key the service listens on a loopback address only, not on "
            f"'{address.host}'. Make a key: tsformer keys add --role operator"
        )


def with_host(arguments: Mapping[str, Any], address: Address) -> dict[str, Any]:
    """The settings, with the address that is listened on among the names it may be called by."""
    server = arguments.get("server") or {}
    own = () if address.everywhere else (address.host,)
    names = [*(server.get("allowed_hosts") or ()), *own]
    return {**arguments, "server": {**server, "allowed_hosts": names}}


def await_ready(
    url: str, *, seconds: float = READY_SECONDS, report: Callable[[str], None] | None = None
) -> float:
    """Waits until the default model is loaded and has run once; gives the seconds it took.

    `report` hears why it is not, each time that changes. UnavailableError says so at the end.
    """
    started, reason = time.monotonic(), "It does not answer."
    while time.monotonic() - started < seconds:
        try:
            reply = httpx.get(f"{url}/health/ready", timeout=2)
        except httpx.TransportError:
            pass
        else:
            if reply.status_code == httpx.codes.OK:
                return time.monotonic() - started
            if (said := _reason(reply)) != reason:
                reason = said
                if report is not None and reason != LOADING:
                    report(reason)
        time.sleep(0.1)
    raise UnavailableError(
        f"The service at {url} has no model after {seconds:.0f} s. {reason} Train one (`tsformer "
        "train EXPERIMENT`, or `tsformer demo`), or name the default in the file of --config (models.default)."
    )


def _reason(reply: httpx.Response) -> str:
    """What the service says is missing; something else may listen there."""
    try:
        return str(reply.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"It answers {reply.status_code}."


def _token(home: Home) -> Path:
    """The file with the token of this home's Ray, made once and readable by its owner alone."""
    path = home.folder / "ray_token"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        path.chmod(0o600)
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path
