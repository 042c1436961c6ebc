"""What an operator types about versions, and reads: promote, rollback, import, pin, clean, audit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.home import Home
from pipelines.registry import Registry
from pipelines.store_tables import AUDIT
from tests.pipelines.homes import new_home
from tests.pipelines.registries import published
from tests.pipelines.typed import typed

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = new_home(tmp_path / "home")
    published(Registry(made), "sales", tmp_path, versions=3)
    return made


@pytest.fixture
def tsformer(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command; gives its exit status and all it printed, in one line."""
    monkeypatch.setenv("TSFORMER_HOME", str(home.folder))

    def run(*arguments: str) -> tuple[int, str]:
        status, out, err = typed(arguments, monkeypatch, capsys)
        return status, " ".join((out + err).split())

    return run


def test_a_promotion_is_taken_back_once(tsformer: Command) -> None:
    assert tsformer("promote", "sales/1") == (
        0,
        "sales@champion is version 1 (seasonal_naive) now.",
    )
    tsformer("promote", "sales/2", "--reason", "better on Mondays")
    done = tsformer("rollback", "sales", "--from", "2", "--reason", "late trains")
    assert done == (0, "sales@champion is back on version 1 (seasonal_naive).")
    status, printed = tsformer("rollback", "sales", "--from", "2")
    assert status == 2
    assert "no version before" in printed


def test_a_damaged_version_is_found_before_it_is_needed(home: Home, tsformer: Command) -> None:
    """After a restore, or once a week by cron: the status says whether somebody must look."""
    sound = "3 versions are as they were published; 0 faults."
    assert tsformer("registry", "verify") == (0, sound)
    weights = next((home.folder / "artifacts").rglob("weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    status, printed = tsformer("registry", "verify")
    assert status == 1
    assert "the manifest says" in printed
    assert "2 versions are as they were published; 1 faults." in printed


def test_an_override_is_on_record(home: Home, tsformer: Command) -> None:
    """An operator may know better than the gate, but not in silence."""
    Registry(home).annotate("sales/2", "Worse than the line.", passed=False)
    status, printed = tsformer("promote", "sales/2")
    assert status == 2
    assert "tsformer promote sales/2 --override --reason" in printed
    assert tsformer("promote", "sales/2", "--override")[0] == 2
    assert tsformer("promote", "sales/2", "--override", "--reason", "the line leaks")[0] == 0
    status, printed = tsformer("registry", "audit")
    assert status == 0
    assert "(operator) override sales@champion - -> 2: the line leaks" in printed
    assert "1 rows, none altered or missing." in printed


def test_a_tampered_audit_fails(home: Home, tsformer: Command) -> None:
    tsformer("promote", "sales/1")
    tsformer("promote", "sales/2")
    with Registry(home).store.begin() as connection:
        connection.execute(AUDIT.update().where(AUDIT.c.seq == 1).values(after="3"))
    status, printed = tsformer("registry", "audit", "--last", "1")
    assert status == 1
    assert "Row 1 was altered." in printed
    assert "none altered" not in printed


def test_a_clean_up_says_what_goes_and_what_stays(tsformer: Command) -> None:
    tsformer("promote", "sales/1")
    assert tsformer("registry", "pin", "sales/2") == (0, "sales/2 is pinned.")
    would = tsformer("registry", "clean", "--keep", "0", "--dry-run")
    assert "sales/3 (seasonal_naive) would be removed." in would[1]
    done = tsformer("registry", "clean", "sales", "--keep", "0")
    assert done[0] == 0
    assert "sales/3 (seasonal_naive) was removed." in done[1]
    assert "sales/2 stays: pinned." in done[1]
    assert "sales/1 stays: @champion." in done[1]
    tsformer("registry", "unpin", "sales/2")
    assert (
        "sales/2 (seasonal_naive) was removed." in tsformer("registry", "clean", "--keep", "0")[1]
    )
    assert tsformer("registry", "clean", "nobody")[0] == 2


def test_a_home_from_before_the_store_is_taken_over(home: Home, tsformer: Command) -> None:
    """Its versions are in MLflow alone, and its champion must be able to serve on."""
    tsformer("promote", "sales/2")
    (home.folder / "tsformer.db").unlink()
    status, printed = tsformer("promote", "sales@champion")
    assert status == 2
    assert "tsformer registry import sales/2" in printed
    status, printed = tsformer("registry", "import", "sales/2")
    assert status == 0
    assert "can be served and promoted" in printed
    assert tsformer("promote", "sales@champion")[0] == 0
    champion = Registry(home).champion("sales")
    assert champion is not None
    assert champion.version == "2"
