"""Keys: who may ask the service, and as what. Shown once; only prefix and SHA-256 are kept.

`tsf_<prefix>_<secret>`: the prefix names the key wherever people see it, the secret holds 256 bits,
so that its plain SHA-256 cannot be guessed back.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from dataclasses import dataclass
from typing import Literal, get_args

import sqlalchemy as sa

from pipelines.audit import Actor, Change, append
from pipelines.store import Store, now_ms
from pipelines.store_tables import ACCESS_KEY
from pipelines.versions import NAME
from tsformer.errors import ConfigError, NotFoundError

Role = Literal["reader", "forecaster", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may
TENANT = "default"
TENANT_MARK = ":"  # behind a tenant, where a name needs one; no name has it
LETTERS = string.ascii_lowercase + string.digits
PREFIX_LENGTH, SECRET_BYTES = 8, 32
FORM = re.compile(r"tsf_([a-z0-9]{8})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key; times are milliseconds since 1970 by the clock of the database."""

    prefix: str
    sha256: str
    role: Role
    tenant: str
    created_ms: int
    expires_ms: int
    revoked_ms: int | None

    def state(self, now: int) -> Literal["valid", "expired", "revoked"]:
        """Whether it opens anything at `now`."""
        if self.revoked_ms is not None:
            return "revoked"
        return "valid" if now < self.expires_ms else "expired"


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys that were ever made, and what time the database had as it was asked."""

    keys: tuple[Key, ...]
    now_ms: int

    @property
    def valid(self) -> tuple[Key, ...]:
        """Those that open something."""
        return tuple(key for key in self.keys if key.state(self.now_ms) == "valid")


def digest_of(text: str) -> str:
    """The SHA-256 of a key as it is sent."""
    return hashlib.sha256(text.encode()).hexdigest()


def add_key(store: Store, role: str, *, tenant: str, lives_s: int, who: Actor) -> tuple[str, Key]:
    """A new key in full, which is kept nowhere, and what is kept of it."""
    if role not in ROLES:
        raise ConfigError(f"--role must be one of {', '.join(ROLES)}, got '{role}'.")
    if not NAME.fullmatch(tenant):
        raise ConfigError(
            "--tenant must have 1 to 64 characters A-Z a-z 0-9 . _ - and begin and end with a "
            f"letter or digit, got '{tenant}'."
        )
    if lives_s < 1:
        raise ConfigError("--expires must be at least 1s.")
    prefix = "".join(secrets.choice(LETTERS) for _ in range(PREFIX_LENGTH))
    text = f"tsf_{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"
    with store.begin() as connection:
        now = now_ms(connection)
        key = Key(prefix, digest_of(text), role, tenant, now, now + 1000 * lives_s, None)
        row = {name: getattr(key, name) for name in ACCESS_KEY.c.keys()}  # noqa: SIM118
        connection.execute(ACCESS_KEY.insert().values(row))
        append(connection, Change("add key", prefix, after=f"{role} of {tenant}"), who)
    return text, key


def revoke_key(store: Store, name: str, *, who: Actor) -> Key:
    """Ends a key for good, by its prefix or in full; one that was revoked before stays as it is.

    Raises NotFoundError for none, which repeats no secret.
    """
    form = FORM.fullmatch(name)
    prefix = form[1] if form else name
    with store.begin() as connection:
        query = sa.select(ACCESS_KEY).where(ACCESS_KEY.c.prefix == prefix).with_for_update()
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise NotFoundError(f"There is no key '{prefix[:12]}'. tsformer keys list shows them.")
        key = Key(**row)
        if key.revoked_ms is None:
            revoked = ACCESS_KEY.update().where(ACCESS_KEY.c.prefix == prefix)
            connection.execute(revoked.values(revoked_ms=now_ms(connection)))
            before = f"{key.role} of {key.tenant}"
            append(connection, Change("revoke key", prefix, before=before), who)
    return key


def all_keys(store: Store) -> Keys:
    """Every key, oldest first."""
    with store.read() as connection:
        order = (ACCESS_KEY.c.created_ms, ACCESS_KEY.c.prefix)
        rows = connection.execute(sa.select(ACCESS_KEY).order_by(*order)).mappings()
        return Keys(tuple(Key(**row) for row in rows), now_ms(connection))
