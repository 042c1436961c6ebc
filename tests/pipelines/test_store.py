"""What was written is there, for every process, on both databases; what fails says so."""

from __future__ import annotations

import socket
import sqlite3
import stat
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from pipelines.home import Home
from pipelines.store import Store, now_ms
from pipelines.store_tables import ACTUAL, CHAMPION, METADATA
from tests.figures import Told
from tests.pipelines.postgres import new_database
from tests.pipelines.processes import CONTEXT, kill, start, write_for_ever
from tsformer.errors import ConfigError, UnavailableError


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tsformer.db'}"
    return new_database()


def test_the_migration_makes_the_tables_that_the_code_names(url: str) -> None:
    """Else a fresh installation would lack a column that the code reads."""
    with Store.at(url).read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_many_processes_may_be_the_first(url: str) -> None:
    """Three schedulers started together on an empty database must not break each other's schema."""
    started = [start(Store.at, url) for _ in range(4)]
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4


def test_who_comes_second_waits_for_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two schedulers that start together on a slow machine: one must not end as 'locked'."""
    monkeypatch.setattr("pipelines.store.BUSY_MS", 20)
    first = sqlite3.connect(tmp_path / "tsformer.db", check_same_thread=False)
    first.execute("PRAGMA journal_mode=WAL")
    first.execute("BEGIN IMMEDIATE")
    ending = threading.Timer(0.5, first.rollback)
    ending.start()
    with Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}").read() as connection:
        assert connection.execute(sa.select(ACTUAL)).all() == []
    ending.join()
    first.close()


def test_the_clock_is_that_of_the_database_in_milliseconds(url: str) -> None:
    """Leases taken by one unit and read in another would never expire, or at once."""
    with Store.at(url).read() as connection:
        assert abs(now_ms(connection) - time.time() * 1000) < 2000


def test_a_transaction_is_whole_or_not_there(url: str) -> None:
    """A failure in the middle must not leave half of what belonged together."""
    store = Store.at(url)
    row = {"model": "m", "version": "1", "since_ms": 0}

    def fail() -> None:
        with store.begin() as connection:
            connection.execute(CHAMPION.insert().values(row))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with store.read() as connection:
        assert connection.execute(sa.select(CHAMPION)).all() == []


def test_writers_take_turns(url: str) -> None:
    """Two processes that count up one number must not lose a step (SQLite: BEGIN IMMEDIATE)."""
    store = Store.at(url)
    with store.begin() as connection:
        connection.execute(CHAMPION.insert().values(model="m", version="1", rev=0, since_ms=0))

    def count() -> None:
        for _ in range(20):
            with store.begin() as connection:
                query = sa.select(CHAMPION.c.rev).with_for_update()
                rev = connection.execute(query).scalar_one()
                connection.execute(CHAMPION.update().values(rev=rev + 1))

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as connection:
        assert connection.execute(sa.select(CHAMPION.c.rev)).scalar_one() == 40


def test_older_code_refuses_a_newer_schema(url: str) -> None:
    """An old process that writes rows into tables that it does not know would spoil them."""
    with Store.at(url).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UnavailableError, match=r"newer tsformer \(schema 9999"):
        Store.at(url)


def test_the_file_is_for_its_owner_and_survives_a_power_cut(tmp_path: Path) -> None:
    """Other users of the machine must not read it; FULL makes a commit wait for the disk."""
    home = Home.of({"TSFORMER_HOME": str(tmp_path / "home")})
    store = Store.of(home)
    file = tmp_path / "home" / "tsformer.db"
    with store.begin() as connection:
        settings = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
        assert settings == ["wal", 2, 4000]
        modes = {stat.S_IMODE(path.stat().st_mode) for path in file.parent.glob("tsformer.db*")}
    assert modes == {0o600}


def test_the_environment_names_another_store(tmp_path: Path) -> None:
    """A team's PostgreSQL must be used by every command, without an option for each."""
    named = {"TSFORMER_HOME": str(tmp_path), "TSFORMER_STORE": "postgresql://ann@db/team"}
    assert Home.of(named).store == "postgresql://ann@db/team"


def test_a_database_away_is_one_sentence_without_the_password() -> None:
    """A traceback of a driver helps nobody, and a password in a log is a leak."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with pytest.raises(UnavailableError) as caught:
            Store.at(f"postgresql://ann:secret@127.0.0.1:{port}/team")
    assert "cannot be read or written" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["mysql://db/team", "tsformer.db", "sqlite:///:memory:", ""])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """A typing error must not make a database in memory that forgets everything."""
    with pytest.raises(ConfigError, match="TSFORMER_STORE must be"):
        Store.at(address)


def test_a_folder_where_the_file_should_be_is_one_sentence(tmp_path: Path) -> None:
    """A wrong mount must be named, not end in a traceback."""
    with pytest.raises(UnavailableError, match="cannot be written"):
        Store.at(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    """A wrong name in TSFORMER_STORE, or a damaged disk, is no defect of this code."""
    file = tmp_path / "notes.txt"
    file.write_text("These are notes. " * 100, encoding="ascii")
    with pytest.raises(UnavailableError, match=r"notes\.txt cannot be .* not a database"):
        Store.at(f"sqlite:///{file}")


def test_a_locked_file_is_named_after_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup that holds the lock must not hang the scheduler for ever (F22)."""
    monkeypatch.setattr("pipelines.store.BUSY_MS", 100)
    store = Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}")
    other = sqlite3.connect(tmp_path / "tsformer.db")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UnavailableError, match="locked"), store.begin():
        pass
    other.rollback()
    other.close()
    with store.begin() as connection:
        connection.execute(sa.select(ACTUAL)).all()


def kill_writers(url: str, rounds: int) -> set[tuple[str, int]]:
    """Two writers, killed `rounds` times: the rows that they had said were there."""
    acknowledged: set[tuple[str, int]] = set()
    for turn in range(rounds):
        pipes = {name: CONTEXT.Pipe(duplex=False) for name in ("one", "two")}
        writers = [
            start(write_for_ever, url, name, turn * 1_000_000, theirs)
            for name, (_, theirs) in pipes.items()
        ]
        for ours, theirs in pipes.values():
            theirs.close()
            assert ours.poll(30)
        time.sleep(0.003 * (turn % 10))
        for writer in writers:
            kill(writer)
        for name, (ours, _) in pipes.items():
            acknowledged |= {(name, number) for number in heard(ours)}
    return acknowledged


def heard(pipe: Connection) -> list[int]:
    """All that was said before the end."""
    numbers = []
    with suppress(EOFError):
        while True:
            numbers.append(pipe.recv())
    return numbers


def durable(url: str, rounds: int) -> str:
    """What was measured of that many kills of two writers."""
    Store.at(url)
    acknowledged = kill_writers(url, rounds)
    with Store.at(url).read() as connection:
        rows = connection.execute(sa.select(ACTUAL.c.unique_id, ACTUAL.c.ds_us)).all()
        if connection.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    found = [(name, int(number)) for name, number in rows]
    assert len(acknowledged) >= 2 * rounds
    assert len(found) == len(set(found))
    assert acknowledged <= set(found)
    kind = url.partition(":")[0]
    return f"{kind}: {2 * rounds} kills, {len(acknowledged)} acknowledged, 0 lost, 0 twice"


def test_what_was_acknowledged_outlives_a_kill(url: str, record_property: Told) -> None:
    """D1: a row that a user was told about is there after a kill -9 of its writer."""
    record_property("D1", durable(url, 5))


@pytest.mark.faults
def test_what_was_acknowledged_outlives_a_hundred_kills(url: str, record_property: Told) -> None:
    """D1 in full: 100 SIGKILLs of two writers, 0 lost, 0 twice."""
    record_property("D1", durable(url, 50))
