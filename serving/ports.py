"""The ports of the service: the one that callers are told, and of several ingresses one of each alone.

Several ingresses all listen on the port that is told, and the system spreads connections over them; one
that dies is out of it at once. What each counts by itself, its metrics, is asked for at its own. That is
no other service's, so two cannot share the port that is told and not know it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from errno import EADDRNOTAVAIL

from tsformer.errors import ConfigError

LAST = 65_535
REMEDY = "choose another: --port. Several ingresses (server.replicas) take those after it, too."
SHARED = "TSFORMER_SHARED_PORT"  # read by an ingress; empty where it is the only one


def own_ports(told: int, ingresses: int) -> range:
    """Where each ingress listens alone: the only one at the port that is told, others after it."""
    return range(told, told + 1) if ingresses == 1 else range(told + 1, told + 1 + ingresses)


def check_free(host: str, ports: Iterable[int]) -> None:
    """Raises ConfigError where one of the ports is not free, or is none."""
    for port in ports:
        if not 0 < port <= LAST:
            raise ConfigError(f"There is no port {port}: {REMEDY}")
        with _socket(host) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if isinstance(error, socket.gaierror) or error.errno == EADDRNOTAVAIL:
                    raise ConfigError(
                        f"{host} is no address of this machine ({error.strerror}). Choose another: --host."
                    ) from error
                raise ConfigError(
                    f"Port {port} of {host} cannot be had ({error.strerror}). End what listens there, "
                    f"or {REMEDY}"
                ) from error


def shared(host: str, port: int) -> socket.socket:
    """A socket at a port that other processes of this user may have too."""
    found = _socket(host)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((host, port))
    return found


def _socket(host: str) -> socket.socket:
    """One that may have a port at which connections still end."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return found
