"""Under which name the service is called, and from where: no page of another site, no detour.

Without keys the service is open, but only to this machine: a page that a browser was lured to (DNS
rebinding, forged forms) or a front proxy is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address

from starlette.requests import Request

from serving.problems import Problem

FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
STATUS_ROUTES = ("/health/", "/v2/health/", "/ping")  # asked by probes that know the address alone
ADDRESS_LENGTH = 45  # of IPv6
WITH_PORT = re.compile(r"(\[[^]]*\]|[^:]*):\d*")  # what has more colons is IPv6 without a port
WITH_KEYS = "Make a key to serve others: tsformer keys add --role operator."


def check_host(request: Request, *, allowed: Sequence[str], is_open: bool) -> None:
    """Raises `host-not-allowed` for a foreign `Host` or `Origin`, and where open, for a detour.

    `allowed` are names beside those of loopback; none of them counts where the service is open.
    """
    headers = request.headers
    names = () if is_open else tuple(bracketed(name).lower() for name in allowed)
    remedy = WITH_KEYS if is_open else "server.allowed_hosts lists the others."
    host = headers.get("host", "")
    status_route = request.url.path.startswith(STATUS_ROUTES)
    if not status_route and not is_loopback(host) and name_of(host) not in names:
        detail = f"Host must be a loopback address or localhost. {remedy}"
        raise Problem("host-not-allowed", detail)
    origin = headers.get("origin")
    if origin is not None:
        source = origin.partition("://")[2]
        if source != host and (not source or name_of(source) not in names):
            raise Problem("host-not-allowed", f"Origin must be the service itself. {remedy}")
    if is_open and is_forwarded(request):
        raise Problem("host-not-allowed", f"Forwarded requests need a key. {WITH_KEYS}")


def is_local(request: Request) -> bool:
    """Whether the request came from this machine straight to a loopback address of it."""
    return (
        request.client is not None
        and is_loopback_address(request.client.host)
        and is_loopback(request.headers.get("host", ""))
        and not is_forwarded(request)
    )


def address_of(request: Request) -> str:
    """Where a request comes from: as a front on this machine says, else who is connected."""
    peer = request.client.host if request.client is not None else ""
    lines = request.headers.getlist("x-forwarded-for")  # the last is the front's own
    said = ",".join(lines).rpartition(",")[2].strip()
    return said[:ADDRESS_LENGTH] if said and is_loopback_address(peer) else peer


def is_forwarded(request: Request) -> bool:
    """Whether a proxy says that it stands between."""
    return any(name in request.headers for name in FORWARDED)


def name_of(host: str) -> str:
    """`host` without its port, in small letters."""
    found = WITH_PORT.fullmatch(host)
    return (found[1] if found else host).lower()


def bracketed(host: str) -> str:
    """`host` as URLs and the header `Host` say it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def is_loopback(host: str) -> bool:
    """Whether `host` (with or without a port) names this machine by its loopback address."""
    name = name_of(host)
    return name == "localhost" or is_loopback_address(name.removeprefix("[").removesuffix("]"))


@lru_cache(maxsize=32)
def is_loopback_address(text: str) -> bool:
    """Whether `text` is an address of this machine that no other one reaches."""
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return False
