"""A service with keys, and one caller of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from pipelines.audit import Actor
from pipelines.home import Home
from pipelines.keys import FORM, Role, add_key, revoke_key
from pipelines.store import Store
from pipelines.store_tables import ACCESS_KEY
from tests.serving.running import Running

ANN = Actor("ann")
DAY_S = 86_400


@dataclass(frozen=True)
class Ring:
    """A key of each role, one that has expired, one that was revoked, and one that never was."""

    reader: str
    forecaster: str
    operator: str
    expired: str
    revoked: str

    def headers(self, who: str) -> dict[str, str]:
        """What the caller `who` sends: the name of a field, `bad`, or `no key`."""
        if who == "no key":
            return {}
        key = f"{self.reader[:-43]}{'A' * 43}" if who == "bad" else getattr(self, who)
        return {"Authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class Tenants:
    """One service of two tenants, each with a key of every role."""

    running: Running
    home: Home
    keys: Mapping[tuple[str, str], str]  # by tenant and role

    def ask(
        self, method: str, path: str, *, tenant: str = "ads", role: str = "operator", **asked: Any
    ) -> httpx.Response:
        """The answer to a request of one tenant."""
        headers = {"Authorization": f"Bearer {self.keys[tenant, role]}", **asked.pop("headers", {})}
        return self.running.client.request(method, path, headers=headers, **asked)


def new_key(home: Home, role: Role, *, tenant: str = "ads") -> str:
    """A key that is valid for a day."""
    return add_key(Store.of(home), role, tenant=tenant, lives_s=DAY_S, who=ANN)[0]


def new_ring(home: Home) -> Ring:
    """Keys in the store of `home`, whose service has none yet."""
    ring = Ring(
        new_key(home, "reader"),
        new_key(home, "forecaster"),
        new_key(home, "operator"),
        expired=new_key(home, "operator"),
        revoked=new_key(home, "operator"),
    )
    with Store.of(home).begin() as connection:
        expired = ACCESS_KEY.c.prefix == prefix_of(ring.expired)
        connection.execute(ACCESS_KEY.update().where(expired).values(expires_ms=1))
    revoke_key(Store.of(home), prefix_of(ring.revoked), who=ANN)
    return ring


def prefix_of(key: str) -> str:
    """The prefix of a key."""
    found = FORM.fullmatch(key)
    assert found is not None
    return found[1]
