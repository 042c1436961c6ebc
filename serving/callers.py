"""Who asks, and what a route needs: every route declares `dependencies=[needs("forecaster")]`.

The order is: headers (`serving.access`), the key, the limits of the key, and only then the body.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.params import Depends as Dependency
from fastapi.routing import iter_route_contexts

from pipelines.keys import ROLES, TENANT, Role
from serving.accept import INVOCATIONS
from serving.hosts import address_of, is_local
from serving.problems import Problem
from serving.service import Service, service_of
from tsformer.errors import ConfigError

# `open`: anyone. `local`: anyone on this machine, elsewhere a reader.
Access = Literal["open", "local", Role]
BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
BASIC = re.compile(r"basic +([A-Za-z0-9+/=]{1,400})", re.IGNORECASE)
BASIC_ROUTES = (INVOCATIONS, "/ping", "/version")  # of a client that knows keys in addresses alone
CHALLENGE = {"WWW-Authenticate": "Bearer"}
MAKE_ONE = "Make a key: tsformer keys add --role forecaster."
REFUSED = {
    "unknown": "The key is not known. tsformer keys list shows those that are.",
    "expired": f"The key has expired. {MAKE_ONE}",
    "revoked": f"The key was revoked. {MAKE_ONE}",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the prefix of the key, empty where the service is open, its role and tenant."""

    prefix: str
    role: Role
    tenant: str


OPEN = Caller("", "operator", TENANT)  # no key was ever made, and the request is from this machine
ANONYMOUS = Caller("", "forecaster", TENANT)  # auth.anonymous_invocations


def needs(access: Access) -> Any:
    """The declaration of a route: what a caller needs to be."""
    return Depends(Gate(access))


def caller_of(request: Request) -> Caller:
    """Who asks, on a route that needs a role."""
    caller: Caller = request.state.caller
    return caller


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets a request in whose caller is enough for `access`."""

    access: Access

    async def __call__(self, request: Request) -> None:
        if self.access == "open" or (self.access == "local" and is_local(request)):
            return
        service = service_of(request)
        caller = _caller(request, service)
        _check_role(caller, "reader" if self.access == "local" else self.access)
        request.state.caller = caller
        if request.method != "GET" and caller != OPEN:
            request.state.until_answered.enter_context(service.rate.turn(caller.prefix))


def _check_role(caller: Caller, needed: Role) -> None:
    if ROLES.index(caller.role) < ROLES.index(needed):
        detail = f"This needs a key with the role {needed}; this one has {caller.role}."
        raise Problem("forbidden", detail, members={"role": needed})


def _caller(request: Request, service: Service) -> Caller:
    """Who holds the key that was sent; the problem `unauthenticated` where nobody does."""
    if service.keys.empty and is_local(request):
        return OPEN
    sent = _key_in(request)
    anonymous = service.settings.auth.anonymous_invocations and request.url.path == INVOCATIONS
    if anonymous and "authorization" not in request.headers:
        return ANONYMOUS
    if sent is None:
        detail = f"Send a key: Authorization: Bearer KEY. {MAKE_ONE}"
        raise Problem("unauthenticated", detail, headers=CHALLENGE)
    address = address_of(request)
    if not service.keys.knows(sent):  # else who guesses would lock out who shares an address
        service.failures.check(address)
    key, state = service.keys.state(sent)
    if key is None or state != "valid":
        service.failures.add(address)
        raise Problem("unauthenticated", REFUSED[state], headers=CHALLENGE)
    return Caller(key.prefix, key.role, key.tenant)


def _key_in(request: Request) -> str | None:
    """The key that was sent: as a bearer's, and on some routes as the password of HTTP Basic."""
    sent = request.headers.get("authorization", "").strip()
    if bearer := BEARER.fullmatch(sent):
        return bearer[1]
    basic = BASIC.fullmatch(sent) if request.url.path in BASIC_ROUTES else None
    if basic is None:
        return None
    try:
        return base64.b64decode(basic[1], validate=True).decode().partition(":")[2]
    except ValueError:
        return None


def check_routes(app: FastAPI) -> None:
    """Raises ConfigError for a route that does not say who may call it, or reads its body first."""
    for route in iter_route_contexts(app.routes):
        if len(gates_of(route)) != 1:
            raise ConfigError(
                f"The route {route.path} must declare once who may call it, such as "
                "dependencies=[needs('reader')]."
            )
        if route.body_field is not None:
            raise ConfigError(
                f"The route {route.path} declares its body, which is read before the key is "
                "checked; take the request and read it with serving.body."
            )


def gates_of(route: Any) -> list[Gate]:
    """What the route needs."""
    found: list[Dependency] = getattr(route, "dependencies", None) or []
    return [each.dependency for each in found if isinstance(each.dependency, Gate)]
