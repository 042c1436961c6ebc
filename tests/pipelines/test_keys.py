"""Keys as an operator makes, lists and ends them; what a thief of the database would find."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.audit import Actor, entries
from pipelines.keys import FORM, Key, add_key, all_keys, digest_of, revoke_key
from pipelines.store import Store
from pipelines.store_tables import ACCESS_KEY
from tests.pipelines.postgres import new_database
from tests.pipelines.typed import typed
from tsformer.errors import ConfigError, NotFoundError

ANN = Actor("ann")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "sqlite":
        return Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}")
    return Store.at(new_database())


@pytest.fixture
def tsformer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command; gives its exit status, its output and what it said beside that."""
    monkeypatch.setenv("TSFORMER_HOME", str(tmp_path))

    def run(*arguments: str) -> tuple[int, str, str]:
        status, out, err = typed(arguments, monkeypatch, capsys)
        return status, out, " ".join(err.split())

    return run


def test_a_key_opens_by_its_hash_and_is_kept_nowhere(store: Store) -> None:
    """S3: whoever reads the database, or a backup of it, must not be able to call the service."""
    text, made = add_key(store, "forecaster", tenant="ads", lives_s=60, who=ANN)
    found = FORM.fullmatch(text)
    assert found is not None
    (kept,) = all_keys(store).valid
    assert kept == made
    assert (kept.prefix, kept.sha256) == (found[1], digest_of(text))
    with store.read() as connection:
        written = [*connection.execute(ACCESS_KEY.select()), *entries(connection)]
    assert text.rpartition(made.prefix)[2] not in str(written)


def test_a_key_ends_by_time_or_by_hand(store: Store) -> None:
    """A leaked key must not open anything for ever, and revoking it twice must not fail."""
    _, key = add_key(store, "reader", tenant="ads", lives_s=60, who=ANN)
    assert key.state(key.expires_ms - 1) == "valid"
    assert key.state(key.expires_ms) == "expired"
    assert revoke_key(store, key.prefix, who=ANN).revoked_ms is None
    assert revoke_key(store, key.prefix, who=ANN).revoked_ms is not None
    (revoked,) = all_keys(store).keys
    assert revoked.state(key.created_ms) == "revoked"
    assert all_keys(store).valid == ()


def test_who_made_and_ended_a_key_is_on_record(store: Store) -> None:
    """S5: after an incident it must be known who handed out which key; once for each change."""
    _, key = add_key(store, "operator", tenant="ads", lives_s=60, who=ANN)
    for _ in range(2):
        revoke_key(store, key.prefix, who=Actor("bob"))
    with store.read() as connection:
        rows = [
            (row.who, row.what, row.subject, row.after or row.before) for row in entries(connection)
        ]
    assert rows == [
        ("ann", "add key", key.prefix, "operator of ads"),
        ("bob", "revoke key", key.prefix, "operator of ads"),
    ]


def test_keys_differ(tmp_path: Path) -> None:
    """Two customers with one key, or with one prefix, could not be told apart."""
    store = Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}")
    made: list[tuple[str, Key]] = [
        add_key(store, "reader", tenant="t", lives_s=9, who=ANN) for _ in range(20)
    ]
    assert len({text[-43:] for text, _ in made}) == len({key.prefix for _, key in made}) == 20


@pytest.mark.parametrize(
    ("role", "tenant", "lives_s"),
    [
        ("admin", "t", 9),
        ("promote:m", "t", 9),
        ("", "t", 9),
        ("reader", "", 9),
        ("reader", "a/b", 9),
        ("reader", "t", 0),
    ],
)
def test_a_key_that_means_nothing_is_refused(
    tmp_path: Path, role: str, tenant: str, lives_s: int
) -> None:
    """A misspelt role must not become a key that opens nothing, or everything."""
    store = Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}")
    with pytest.raises(ConfigError, match="--"):
        add_key(store, role, tenant=tenant, lives_s=lives_s, who=ANN)
    assert all_keys(store).keys == ()


def test_a_key_that_is_not_there_cannot_be_revoked(tmp_path: Path) -> None:
    """A misspelt prefix must not look as if the leaked key were closed."""
    with pytest.raises(NotFoundError, match="no key 'abc'"):
        revoke_key(Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}"), "abc", who=ANN)


def test_a_key_is_revoked_in_full_too_and_told_by_its_prefix(tmp_path: Path) -> None:
    """Whoever finds a leaked key has all of it, and must not put it into one more log."""
    store = Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}")
    text, key = add_key(store, "reader", tenant="ads", lives_s=60, who=ANN)
    assert revoke_key(store, text, who=ANN).prefix == key.prefix
    assert all_keys(store).valid == ()
    for unknown in (f"tsf_abcdefgh_{'A' * 43}", f"tsf_abcdefgh_{'A' * 42}"):
        with pytest.raises(NotFoundError) as caught:
            revoke_key(store, unknown, who=ANN)
        assert "AA" not in str(caught.value)


def test_what_an_operator_types(tsformer: Command) -> None:
    """The key alone goes to the output, so that a script can keep it; the rest is for people."""
    assert "no key yet" in tsformer("keys", "list")[1]
    status, out, err = tsformer("keys", "add", "--role", "reader", "--tenant", "ads")
    found = FORM.fullmatch(out.strip())
    assert status == 0
    assert found is not None
    assert "not shown again" in err
    listed = tsformer("keys", "list")[1]
    assert re.search(rf"{found[1]} .* reader .* ads .* valid", listed)
    assert out.strip() not in listed
    assert tsformer("keys", "revoke", found[1])[1] == f"{found[1]} is revoked.\n"
    assert tsformer("keys", "revoke", found[1])[1] == f"{found[1]} was already revoked.\n"
    assert "revoked" in tsformer("keys", "list")[1]
    assert "add key" in tsformer("registry", "audit")[1]
    status, _, err = tsformer("keys", "add", "--role", "reader", "--expires", "soon")
    assert status == 2
    assert "--expires must be a time" in err
