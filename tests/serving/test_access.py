"""Open to this machine alone: a foreign page or a front proxy must not reach an open service."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.audit import Actor
from pipelines.home import Home
from pipelines.keys import add_key, revoke_key
from pipelines.store import Store
from serving.__main__ import access
from serving.hosts import is_loopback
from serving.run import Address, check_keys, read_config, serving, with_host
from serving.settings import Settings
from tests.serving.running import Running
from tsformer.errors import ConfigError


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("127.0.0.1:8000", True),
        ("127.8.8.8", True),
        ("[::1]:8000", True),
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
    ],
)
def test_a_file_that_is_none_is_told_by_its_name(tmp_path: Path, text: str, told: str) -> None:
    """At night nobody guesses which of several files is meant."""
    with pytest.raises(ConfigError, match=told):
        read_config(written(tmp_path, text))


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
