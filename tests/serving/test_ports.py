"""The ports of the service: one for all ingresses, one for each alone, none of another service."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from serving.ports import check_free, own_ports, shared
from tests.serving.processes import free_ports
from tsformer.errors import ConfigError

HOST = "127.0.0.1"


@pytest.fixture
def port() -> int:
    return free_ports(1)


@pytest.fixture
def pair(port: int) -> Iterator[list[socket.socket]]:
    """Two that listen at one port, as two ingresses do."""
    with ExitStack() as stack:
        found = [stack.enter_context(shared(HOST, port)) for _ in range(2)]
        for each in found:
            each.settimeout(0.2)
            each.listen(64)
        yield found


def arrived(listener: socket.socket) -> int:
    """How many connections wait at `listener`."""
    count = 0
    try:
        while True:
            listener.accept()[0].close()
            count += 1
    except TimeoutError:
        return count


def test_the_only_ingress_has_the_port_that_is_told_and_several_one_each_after_it() -> None:
    assert list(own_ports(8000, 1)) == [8000]
    assert list(own_ports(8000, 2)) == [8001, 8002]
    assert list(own_ports(8000, 3)) == [8001, 8002, 8003]


def test_connections_are_spread_over_those_that_share_a_port(
    pair: list[socket.socket], port: int
) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection((HOST, port), timeout=5))
        counts = [arrived(each) for each in pair]
    assert sum(counts) == 60
    assert min(counts) >= 5  # of 60 fair tosses fewer come up once in 10^12 tries


def test_one_that_is_gone_gets_no_connection(pair: list[socket.socket], port: int) -> None:
    pair[0].close()
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection((HOST, port), timeout=5))
        assert arrived(pair[1]) == 20


@pytest.mark.usefixtures("pair")
def test_a_second_service_is_refused_the_port_of_a_pair(port: int) -> None:
    with pytest.raises(ConfigError, match=f"Port {port} of {HOST} cannot be had .*--port"):
        check_free(HOST, [port])


def test_every_port_is_looked_at() -> None:
    first = free_ports(3)
    check_free(HOST, range(first, first + 3))
    with socket.socket() as taken:
        taken.bind((HOST, first + 2))
        taken.listen()
        with pytest.raises(ConfigError, match=f"Port {first + 2} "):
            check_free(HOST, range(first, first + 3))


@pytest.mark.parametrize("host", ["300.1.1.1", "192.0.2.1"])
def test_what_is_no_address_here_is_refused_by_its_own_remedy(host: str) -> None:
    with pytest.raises(ConfigError, match=f"{host} is no address of this machine .*--host"):
        check_free(host, [free_ports(1)])


@pytest.mark.parametrize("port", [-1, 0, 65_536])
def test_what_is_no_port_is_refused_in_words(port: int) -> None:
    with pytest.raises(ConfigError, match=f"no port {port}.*--port"):
        check_free(HOST, [port])
