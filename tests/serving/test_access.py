"""Open to this machine alone: a foreign page or a front proxy must not reach an open service."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request

from pipelines.audit import Actor
from pipelines.home import Home
from pipelines.keys import add_key, revoke_key
from pipelines.store import Store
from serving.__main__ import access
from serving.hosts import check_host, is_loopback
from serving.problems import Problem
from serving.run import Address, check_keys, read_config, serving, with_host
from serving.settings import Settings
from tests.serving.processes import free_ports
from tests.serving.running import Running, series, table
from tsformer.errors import ConfigError


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("127.0.0.1:8000", True),
        ("127.8.8.8", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("::1", True),
        ("::1:8000", False),
        ("fd00::1", False),
        ("::", False),
        ("", False),
        ("example.com", False),
        ("127.0.0.1.example.com", False),
        ("localhost.example.com:80", False),
        ("192.168.0.1", False),
        ("0.0.0.0", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, own: bool) -> None:
    assert is_loopback(host) == own


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"X-Forwarded-For": "10.0.0.1"},
        {"Forwarded": "for=10.0.0.1"},
    ],
)
def test_foreign_callers_are_refused(service: Running, headers: dict[str, str]) -> None:
    reply = service.client.get("/v1/models", headers=headers)
    assert reply.status_code == 403
    assert reply.json()["type"] == "/problems/host-not-allowed"


def test_the_own_page_and_probes_are_served(service: Running) -> None:
    own = str(service.client.base_url).rstrip("/")
    assert service.client.get("/v1/models", headers={"Origin": own}).status_code == 200
    assert service.client.get("/health/live", headers={"Host": "probe"}).status_code == 200
    assert "access-control-allow-origin" not in service.client.get("/v1/models").headers


def test_another_address_is_refused_without_a_valid_key(tmp_path: Path) -> None:
    """S1: nobody may put an open service on the network by one wrong option."""
    home = Home.of({"TSFORMER_HOME": str(tmp_path)})
    with (
        pytest.raises(ConfigError, match="tsformer keys add"),
        serving(read_config(None), Address("0.0.0.0"), home=home),
    ):
        pass
    _, key = add_key(Store.of(home), "reader", tenant="t", lives_s=60, who=Actor("ann"))
    check_keys(Address("0.0.0.0"), home)
    revoke_key(Store.of(home), key.prefix, who=Actor("ann"))
    with pytest.raises(ConfigError, match="Without a valid key"):
        check_keys(Address("0.0.0.0"), home)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200),
        ("text/html, */*;q=0.1", 200),
        ("application/*", 200),
        ("", 200),
        ("text/csv", 406),
        ("application/json;q=0, */*", 406),
        ("application/vnd.apache.arrow.stream", 406),
    ],
)
def test_who_takes_no_json_is_told_so(service: Running, accept: str, status: int) -> None:
    reply = service.client.get("/v1/models", headers={"accept": accept})
    assert reply.status_code == status
    if status == 406:
        assert reply.json()["type"] == "/problems/not-acceptable"


def test_lines_of_one_header_are_one_list(service: Running) -> None:
    """RFC 9110, 5.3: a proxy may have split what a client wrote, or a library added to it."""
    lines = [("accept", "text/html"), ("accept", "application/json")]
    assert service.client.get("/v1/models", headers=lines).status_code == 200


@pytest.mark.parametrize("most", ["4294967296", "9" * 32])
def test_a_deadline_beyond_that_of_the_service_changes_nothing(service: Running, most: str) -> None:
    """It can only be shortened, and was refused as no whole number."""
    body = {"data": table(series()), "freq": "h"}
    reply = service.post("/v1/forecasts", body, **{"X-Request-Timeout-Ms": most})
    assert reply.status_code == 200, reply.text


def test_a_bad_deadline_is_refused_before_the_body_is_read(service: Running) -> None:
    """The type of the body is wrong too, and would be named if it had been looked at."""
    for path in ("/v1/forecasts", "/v1/compare"):
        headers = {"x-request-timeout-ms": "soon", "content-type": "text/csv"}
        reply = service.client.post(path, content=b"x", headers=headers)
        assert reply.json()["type"] == "/problems/malformed-header"


def test_the_address_that_is_listened_on_may_be_called() -> None:
    """Else a service on one address of a network would refuse all who call it by that address."""
    args = {"server": {"allowed_hosts": ["forecast.example.org"]}, "limits": {"horizon": 9}}
    settings = Settings.read(with_host(args, Address("192.0.2.1")))
    assert settings.server.allowed_hosts == ("forecast.example.org", "192.0.2.1")
    assert settings.limits.horizon == 9
    assert Settings.read(with_host({}, Address("0.0.0.0"))).server.allowed_hosts == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::", "fd00::1"])
def test_the_url_of_every_address_can_be_asked(host: str) -> None:
    """The service asks itself whether it is ready, and ended where an address was of IPv6."""
    url = httpx.URL(Address(host, 8001).url)
    assert (url.host, url.port) == (host, 8001)


def test_an_address_of_ipv6_may_be_called() -> None:
    """Where a browser writes it in brackets, and an operator in the list of names does not."""
    named = {"server": {"allowed_hosts": ["fd00::2", "[fd00::3]", "a.example"]}}
    allowed = Settings.read(with_host(named, Address("FD00::1"))).server.allowed_hosts
    for host in ("[fd00::1]:8000", "[fd00::1]", "[fd00::2]:8000", "[fd00::3]", "a.example:80"):
        check_host(called(host), allowed=allowed, is_open=False)
        check_host(called(host, origin=f"https://{host}"), allowed=allowed, is_open=False)
    for host in ("[fd00::4]:8000", "fd00::1:8000", "fd00", "[fd00::1].example"):
        with pytest.raises(Problem, match="host-not-allowed"):
            check_host(called(host), allowed=allowed, is_open=False)


def called(host: str, **headers: str) -> Request:
    """A request for the models, by the name `host`."""
    given = {"host": host, **headers}
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    return Request({"type": "http", "path": "/v1/models", "headers": raw})


def test_who_starts_it_reads_who_may_ask(tmp_path: Path) -> None:
    """An operator must not learn from an incident that the service was open."""
    home = Home.of({"TSFORMER_HOME": str(tmp_path)})
    assert "this machine alone" in access(home)
    assert "tsformer keys add" in access(home)
    add_key(Store.of(home), "reader", tenant="t", lives_s=60, who=Actor("ann"))
    assert "those who send a key" in access(home)
    broken = tmp_path / "notes.db"
    broken.write_text("These are notes. " * 100, encoding="ascii")
    assert "closed" in access(replace(home, named_store=f"sqlite:///{broken}"))


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "service.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    "text",
    [
        "models: {replicas: 3}",
        "applications: [{name: tsformer, args: {models: {replicas: 3}}}]",
        "http_options: {port: 8000}\napplications: [{name: tsformer, args: {models: {replicas: 3}}}]",
    ],
)
def test_a_file_of_settings_says_only_what_is_not_as_shipped(tmp_path: Path, text: str) -> None:
    """Who wants one more replica should not have to know what a Ray Serve config is."""
    config = read_config(written(tmp_path, text))
    assert config["http_options"]["host"] == "127.0.0.1"
    (application,) = config["applications"]
    assert Settings.read(application["args"]).models.shared.replicas == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models: {replica: 3}", "service.yaml: models.*replica.*replicas"),
        ("model: {}", "service.yaml.*'model'.*models"),
        ("- models", "service.yaml: expected settings"),
        ("applications: []", "service.yaml: expected one entry"),
        ("a: [", "service.yaml, line 1: not YAML"),
        ("1: {}", "service.yaml: unknown key '1'"),
        (
            "http_options: 8000\napplications: [{args: {}}]",
            "http_options: expected keys and values",
        ),
        (
            "http_options: {prt: 9}\napplications: [{args: {}}]",
            "http_options: unknown key 'prt'. Did you mean 'port'",
        ),
        ("http_options: {port: x}\napplications: [{}]", "'port' must be a whole number, got 'x'"),
        ("http_options: {host:}\napplications: [{}]", "'host' must be text, got None"),
        (
            "http_option: {port: 9}\napplications: [{args: {}}]",
            "service.yaml: unknown key 'http_option'. Did you mean 'http_options'",
        ),
        (
            "logging_config: {log_level: DEBUG}\napplications: [{}]",
            "'logging_config'.* applications, http_options",
        ),
        ("applications: [{import_pat: x}]", "applications: .*'import_pat'.*'import_path'"),
        ("applications: [{runtime_env: {}}]", "applications: .*'runtime_env'"),
        ("applications: [{import_path: a:b}]", "'import_path' must be 'serving.*got 'a:b'"),
        ("applications: [{route_prefix: /a}]", "'route_prefix' must be '/', got '/a'"),
        ("applications: [{args: [models]}]", "applications: args: expected keys and values"),
        ("applications: {args: {}}", "service.yaml: expected one entry"),
        ("applications: 3", "service.yaml: expected one entry"),
        ("server: {replicas: 0}", "service.yaml: server: 'replicas' must be at least 1, got 0"),
        (
            "server: {replicas: 1}\nserver: {replicas: 2}",
            "service.yaml: .*line 2: this key .* already",
        ),
        ("server: {allowed_hosts: ['http://x/']}", "'allowed_hosts' are names .*got 'http://x/'"),
        (
            "datasets: {folder: /no/such}",
            "service.yaml: datasets: 'folder' is no folder .*/no/such",
        ),
        ("defaults: {fallback: x}", "service.yaml: defaults: 'fallback' must be one of"),
        (
            "http_options: {ssl_keyfile: a}\napplications: [{}]",
            "http_options: unknown key 'ssl_keyfile'",
        ),
    ],
)
def test_a_file_that_is_none_is_told_by_its_name(tmp_path: Path, text: str, told: str) -> None:
    """At night nobody guesses which of several files is meant."""
    with pytest.raises(ConfigError, match=told):
        read_config(written(tmp_path, text))


@pytest.mark.parametrize("text", ["applications: [{name: tsformer, args: }]", "applications: [{}]"])
def test_a_model_can_be_named_where_the_file_has_no_settings(tmp_path: Path, text: str) -> None:
    """Whoever puts comments before all lines under `args` must still be able to say --model."""
    command = [sys.executable, "-m", "serving", "--config", str(written(tmp_path, text))]
    told = subprocess.run(
        [*command, "--model", "x", "--host", "0.0.0.0"],
        env={**os.environ, "TSFORMER_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 1
    assert told.stderr.startswith("Error: Without a valid key")  # it came as far as that


def test_a_start_that_fails_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    """Else all that the caller writes from then on can be read by nobody else."""
    file = tmp_path / "file"
    file.touch()
    home, address = Home.of({"TSFORMER_HOME": str(file)}), Address(port=free_ports(1))
    before = os.umask(0o022)
    try:
        with pytest.raises(FileExistsError), serving(read_config(None), address, home=home):
            pass
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_port_that_is_taken_is_named_at_once(tmp_path: Path) -> None:
    """Ray would try for three quarters of a minute, and then speak of a deployment."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config, home = read_config(None), Home.of({"TSFORMER_HOME": str(tmp_path)})
        with (
            pytest.raises(ConfigError, match=f"Port {port} .*--port"),
            serving(config, Address(port=port), home=home),
        ):
            pass
