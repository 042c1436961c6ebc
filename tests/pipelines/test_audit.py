"""Every change is on record, and a record that was tampered with is found and named."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.audit import FIRST, Actor, Change, Entry, append, entries, faults
from pipelines.store import Store
from pipelines.store_tables import AUDIT
from tests.figures import Told
from tests.pipelines.postgres import new_database
from tests.pipelines.processes import start


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path / 'tsformer.db'}"
    if request.param == "postgresql":
        url = new_database()
    made = Store.at(url)
    yield made
    made.engine.dispose()


def filled(store: Store, *, changes: int) -> tuple[Entry, ...]:
    """A store with that many mixed changes."""
    for number in range(changes):
        change = Change(
            ("promote", "rollback", "pin", "import")[number % 4],
            f"m{number % 3}@champion",
            before=str(number) if number % 5 else None,
            after=str(number + 1),
            reason="Zürich \N{SNOWMAN}" if number % 2 else None,
        )
        with store.begin() as connection:
            append(connection, change, Actor("anna", request_id=f"req_{number}"))
    with store.read() as connection:
        return entries(connection)


def test_a_hundred_changes_are_a_hundred_rows(store: Store) -> None:
    """S5: who, role, what, before, after, why and request id, in one unbroken chain."""
    chain = filled(store, changes=100)
    assert [entry.seq for entry in chain] == list(range(1, 101))
    assert chain[0].previous_hash == FIRST
    assert faults(chain, noted=chain[40].hash) == ()
    row = chain[7]
    assert (row.who, row.role, row.what, row.subject) == (
        "anna",
        "operator",
        "import",
        "m1@champion",
    )
    assert (row.before, row.after, row.reason) == ("7", "8", "Zürich \N{SNOWMAN}")
    assert row.request_id == "req_7"


def test_an_edited_and_a_deleted_row_are_both_named(
    store: Store, record_property: Told, request: pytest.FixtureRequest
) -> None:
    """S5: whoever overrode the gate could remove the trace."""
    chain = filled(store, changes=100)
    with store.begin() as connection:
        connection.execute(AUDIT.update().where(AUDIT.c.seq == 12).values(who="nobody"))
        connection.execute(AUDIT.delete().where(AUDIT.c.seq == 20))
    with store.read() as connection:
        found = faults(entries(connection))
    where = request.node.callspec.params["store"]
    record_property(
        "S5", f"{where}: {len(chain)} changes, {len(chain)} rows; then {' '.join(found)}"
    )
    assert found == ("Row 12 was altered.", "Row 20 is missing.")


@pytest.mark.parametrize("column", [f.name for f in dataclasses.fields(Entry)])
def test_no_column_can_be_changed_unseen(tmp_path: Path, column: str) -> None:
    chain = list(filled(Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}"), changes=4))
    altered = {"seq": 9, "at_ms": 1}.get(column, "x")
    chain[1] = dataclasses.replace(chain[1], **{column: altered})
    assert faults(chain)


def test_a_row_with_a_hash_of_its_own_is_named_by_the_next(tmp_path: Path) -> None:
    """An attacker who knows the rule can compute the hash of a forged row."""
    chain = list(filled(Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}"), changes=6))
    forged = dataclasses.replace(chain[2], who="nobody")
    chain[2] = dataclasses.replace(forged, hash=forged.digest())
    assert faults(chain) == ("Row 3 was altered.",)


def test_a_cut_off_end_is_found_by_a_noted_hash(tmp_path: Path) -> None:
    chain = filled(Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}"), changes=6)
    assert faults(chain[:4]) == ()
    assert len(faults(chain[:4], noted=chain[-1].hash)) == 1


def test_a_change_that_fails_leaves_no_row(store: Store) -> None:
    """The audit would tell of a promotion that never was."""
    with pytest.raises(RuntimeError), store.begin() as connection:  # noqa: PT012
        append(connection, Change("promote", "m@champion"), Actor("anna"))
        raise RuntimeError
    with store.read() as connection:
        assert entries(connection) == ()


def append_many(url: str, name: str, changes: int) -> None:
    store = Store.at(url)
    for _ in range(changes):
        with store.begin() as connection:
            append(connection, Change("pin", "m/1"), Actor(name))


def test_processes_that_write_at_once_make_one_chain(store: Store) -> None:
    url = store.engine.url.render_as_string(hide_password=False)
    processes = [start(append_many, url, name, 20) for name in ("anna", "bert")]
    for process in processes:
        process.join(200)
    with store.read() as connection:
        chain = entries(connection)
    assert len(chain) == 40
    assert faults(chain) == ()
    assert {entry.who for entry in chain} == {"anna", "bert"}
