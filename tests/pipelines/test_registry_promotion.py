"""Who is champion: moves by compare-and-set, back once, by hand in MLflow, and past the gate."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines import audit
from pipelines.audit import Actor, Entry
from pipelines.entries import DIGEST_TAG, MODEL_TAG
from pipelines.home import Home
from pipelines.registry import Registry
from pipelines.tracking import connect, track
from tests.figures import Told
from tests.pipelines.homes import new_home
from tests.pipelines.registries import publish, published, sealed
from tsformer.errors import (
    ArtifactError,
    ConfigError,
    ConflictError,
    NotFoundError,
    UnavailableError,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return new_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def registry(home: Home) -> Registry:
    return Registry(home)


@pytest.fixture
def client(home: Home) -> MlflowClient:
    return connect(home)


@pytest.fixture
def name(request: pytest.FixtureRequest, registry: Registry, tmp_path: Path) -> str:
    """A model with three versions in the shared registry."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[5:60].strip("-")
    published(registry, name, tmp_path, versions=3)
    return name


def moves(registry: Registry, name: str) -> list[tuple[str, str | None, str | None]]:
    return [(e.what, e.before, e.after) for e in rows(registry, name)]


def rows(registry: Registry, name: str) -> list[Entry]:
    """The audit of one model."""
    with registry.store.read() as connection:
        chain = audit.entries(connection)
    assert audit.faults(chain) == ()
    return [entry for entry in chain if re.match(rf"{name}[@/]", entry.subject)]


def stored(client: MlflowClient, name: str, version: str) -> Path:
    """Where MLflow keeps the sealed files of a version."""
    location = client.get_model_version(name, version).source
    return Path(location.removeprefix("file://")) / "artifacts" / "forecaster"


# --- promote --------------------------------------------------------------------------------


def test_a_decision_on_an_outdated_champion_is_refused(registry: Registry, name: str) -> None:
    """The gate compared with a champion that is not one any more."""
    assert registry.champion(name) is None
    registry.promote(f"{name}/1", seen=0)
    seen = registry.champion(name)
    assert seen is not None
    assert (seen.version, seen.previous, seen.rev) == ("1", None, 1)
    registry.promote(f"{name}/2", seen=seen.rev)
    with pytest.raises(ConflictError, match="has moved since"):
        registry.promote(f"{name}/3", seen=seen.rev)
    with pytest.raises(ConflictError):
        registry.promote(f"{name}/3", seen=0)
    assert registry.describe(name).version == "2"
    assert moves(registry, name) == [("promote", None, "1"), ("promote", "1", "2")]


def test_promoting_the_champion_again_changes_nothing(registry: Registry, name: str) -> None:
    """A repeated call would make the champion its own predecessor, and rollback impossible."""
    registry.promote(f"{name}/1")
    registry.promote(f"{name}/2")
    before = registry.champion(name)
    registry.promote(f"{name}/2")
    assert registry.champion(name) == before
    assert len(moves(registry, name)) == 2


def test_an_alias_that_was_deleted_in_mlflow_comes_back(
    registry: Registry, client: MlflowClient, name: str
) -> None:
    registry.promote(f"{name}/1")
    client.delete_registered_model_alias(name, "champion")
    with pytest.raises(NotFoundError):
        registry.describe(name)
    registry.promote(f"{name}/1")
    assert registry.describe(name).version == "1"


def test_each_alias_stands_for_itself(registry: Registry, name: str) -> None:
    registry.promote(f"{name}/1")
    registry.promote(f"{name}/2", alias="candidate")
    registry.promote(f"{name}/3", alias="candidate")
    candidate = registry.champion(name, alias="candidate")
    assert candidate is not None
    assert (candidate.version, candidate.previous, candidate.rev) == ("3", "2", 2)
    assert registry.describe(name).version == "1"


def test_a_move_says_who_and_why(registry: Registry, name: str) -> None:
    key = Actor("tsf_a1b2c3d4", role="operator", request_id="req_1")
    registry.promote(f"{name}/1", who=key, reason="better on Mondays")
    registry.promote(f"{name}/2")
    first, second = rows(registry, name)
    assert (first.who, first.role, first.request_id) == ("tsf_a1b2c3d4", "operator", "req_1")
    assert (first.subject, first.reason) == (f"{name}@champion", "better on Mondays")
    assert second.who == Actor.here().name


# --- the gate -------------------------------------------------------------------------------


def test_what_the_gate_refused_needs_an_override_with_a_reason(
    registry: Registry, name: str, record_property: Told
) -> None:
    """D6: a worse model is never promoted silently; an override is on record."""
    version = registry.describe(f"{name}/2")
    registry.annotate(version, "Worse than seasonal naive by 3 %.", passed=False)
    with pytest.raises(ConflictError, match=r"Worse than seasonal naive by 3 %\. To promote"):
        registry.promote(f"{name}/2")
    with pytest.raises(ConfigError, match="--reason"):
        registry.promote(f"{name}/2", override=True)
    registry.promote(f"{name}/2", alias="candidate")
    assert registry.champion(name) is None
    registry.promote(f"{name}/2", override=True, reason="the others leak")
    row = rows(registry, name)[-1]
    assert (row.what, row.after, row.reason) == ("override", "2", "the others leak")
    record_property("D6", "refused without an override and a reason; with both, a row of the audit")
    registry.annotate(version, "Judged again.", passed=True)
    assert registry.describe(f"{name}/2").gate == "passed"


def test_a_page_says_why_and_links_to_the_run_and_the_parent(
    home: Home, registry: Registry, client: MlflowClient, name: str, tmp_path: Path
) -> None:
    content = sealed(tmp_path / "model", season=7)
    with track(home, experiment="flights", name="warm start") as run:
        version = registry.publish(
            name, content.directory, digest=content.digest, run_id=run.id,
            card={**content.card, "parent": f"{name}/3"}, description="From version 3.",
        )  # fmt: skip
    assert version.description == "From version 3."
    registry.annotate(version, "Promoted: **MASE** 0.71 < 0.78.")
    assert registry.describe(str(version)).description == "Promoted: **MASE** 0.71 < 0.78."
    page = client.get_model_version(name, version.version).description
    experiment = client.get_run(run.id).info.experiment_id
    assert page.startswith("Promoted: **MASE** 0.71 < 0.78.\n\n---\n")
    assert f"[warm start](#/experiments/{experiment}/runs/{run.id})" in page
    assert f"[{name}/3](#/models/{name}/versions/3)" in page


# --- rollback -------------------------------------------------------------------------------


def test_a_rollback_goes_to_the_version_before_and_only_once(registry: Registry, name: str) -> None:
    """A repeated call, after a time-out, must not go back two versions."""
    for number in (1, 2, 3):
        registry.promote(f"{name}/{number}")
    assert registry.rollback(name, from_version="3", reason="late trains").version == "2"
    for from_version in ("3", "2", None):
        with pytest.raises(ConflictError):
            registry.rollback(name, from_version=from_version)
    assert registry.describe(name).version == "2"
    assert moves(registry, name)[-1] == ("rollback", "3", "2")
    registry.promote(f"{name}/3")
    assert registry.rollback(name).version == "2"


def test_there_is_nothing_before_the_first(registry: Registry, name: str) -> None:
    registry.promote(f"{name}/1")
    with pytest.raises(ConflictError, match="no version before"):
        registry.rollback(name)
    with pytest.raises(NotFoundError):
        registry.rollback("nobody")


def test_a_damaged_version_is_not_rolled_back_to(
    registry: Registry, client: MlflowClient, name: str
) -> None:
    registry.promote(f"{name}/1")
    registry.promote(f"{name}/2")
    stored(client, name, "1").joinpath("spec.json").write_text("{}")
    copy = registry.copies.path(registry.describe(f"{name}/1"))
    (copy / "spec.json").write_text("{}")
    with pytest.raises(ArtifactError):
        registry.rollback(name)
    assert registry.describe(name).version == "2"


# --- MLflow moved by hand -------------------------------------------------------------------


def test_an_alias_moved_by_hand_is_adopted_and_recorded(
    registry: Registry, client: MlflowClient, name: str
) -> None:
    """What a person sees in MLflow is what serves; the audit must know of it."""
    registry.promote(f"{name}/1")
    client.set_registered_model_alias(name, "champion", "3")
    adopted = registry.reconcile(name)
    assert adopted is not None
    assert (adopted.version, adopted.previous, adopted.rev) == ("3", "1", 2)
    assert registry.reconcile(name) == adopted
    row = rows(registry, name)[-1]
    assert (row.what, row.role, row.before, row.after) == ("moved outside", "outside", "1", "3")
    assert registry.rollback(name).version == "1"


def test_a_promotion_takes_a_move_by_hand_into_account(
    registry: Registry, client: MlflowClient, name: str
) -> None:
    registry.promote(f"{name}/1")
    seen = registry.champion(name)
    client.set_registered_model_alias(name, "champion", "2")
    assert seen is not None
    with pytest.raises(ConflictError):
        registry.promote(f"{name}/3", seen=seen.rev)
    assert registry.describe(name).version == "2"
    registry.promote(f"{name}/3")
    assert moves(registry, name)[1:] == [("moved outside", "1", "2"), ("promote", "2", "3")]


def test_an_alias_on_a_damaged_version_is_not_adopted(
    registry: Registry, client: MlflowClient, name: str
) -> None:
    registry.promote(f"{name}/1")
    stored(client, name, "2").joinpath("spec.json").write_text("{}")
    client.set_registered_model_alias(name, "champion", "2")
    with pytest.raises(ArtifactError):
        registry.reconcile(name)
    now = registry.champion(name)
    assert now is not None
    assert now.version == "1"
    registry.promote(f"{name}/3")
    assert registry.describe(name).version == "3"


# --- what the store vouches for -------------------------------------------------------------


def test_a_version_of_another_store_is_refused_until_it_is_imported(
    home: Home, registry: Registry, name: str, tmp_path: Path
) -> None:
    """Anyone who can write to MLflow could serve weights of their own."""
    registry.promote(f"{name}/1")
    other = Registry(Home(tmp_path / "elsewhere", home.uri))
    for attempt in (other.fetch, other.promote, other.reconcile):
        with pytest.raises(ArtifactError, match=rf"tsformer registry import {name}/1"):
            attempt(name)
    assert not (other.home.models / name).exists()
    imported = other.adopt(f"{name}/1", reason="checked by hand")
    assert other.adopt(f"{name}/1") == imported
    assert other.fetch(name).version.version == "1"
    adopted = other.reconcile(name)
    assert adopted is not None
    assert adopted.version == "1"
    assert [row.what for row in rows(other, name)] == ["import", "moved outside"]
    with pytest.raises(ArtifactError):
        other.fetch(f"{name}/2")


def test_an_older_release_published_several_versions_in_a_run(
    home: Home, client: MlflowClient, registry: Registry, name: str, tmp_path: Path
) -> None:
    """Their homes must have a way to the new one."""
    run_id = registry.describe(f"{name}/1").run_id
    entry = client.get_model_version(name, "1")
    client.create_model_version(
        name, source=entry.source, run_id=run_id, tags=entry.tags, model_id=entry.model_id
    )
    other = Registry(Home(tmp_path / "elsewhere", home.uri))
    for number in ("1", "4"):
        assert other.adopt(f"{name}/{number}").run_id == run_id
        assert other.fetch(f"{name}/{number}").fresh


def test_a_digest_that_was_altered_in_mlflow_is_refused(
    registry: Registry, client: MlflowClient, name: str
) -> None:
    """Files and MLflow's digest changed together: only the store can tell."""
    tags = client.get_model_version(name, "2").tags
    for tag in (DIGEST_TAG, MODEL_TAG):
        client.set_model_version_tag(name, "1", tag, tags[tag])
    with pytest.raises(ArtifactError, match="was published"):
        registry.fetch(f"{name}/1")
    with pytest.raises(ArtifactError, match="was published"):
        registry.adopt(f"{name}/1")
    with pytest.raises(ArtifactError):
        registry.promote(f"{name}/1")


def test_the_last_good_copy_serves_while_the_store_is_away(
    home: Home, registry: Registry, name: str
) -> None:
    """Serving must not stop, and must not take anything that nobody can vouch for either."""
    registry.promote(f"{name}/1")
    assert registry.fetch(name).fresh
    away = Registry(Home(home.folder, home.uri, "postgresql://nobody@127.0.0.1:9/none"))
    last = away.fetch(name)
    assert (last.version.version, last.fresh) == ("1", False)
    registry.promote(f"{name}/2")
    assert away.fetch(name).version.version == "1"
    assert away.describe(name).version == "2"
    for attempt in (away.fetch, away.promote, away.reconcile):
        with pytest.raises(UnavailableError):
            attempt(f"{name}/3" if attempt != away.reconcile else name)
    with pytest.raises(UnavailableError):
        publish(away, name, sealed(home.folder / f"{name}-away", season=9))


def test_a_scheduled_job_promotes_its_model_and_nothing_else(registry: Registry, name: str) -> None:
    """A job that nobody watches must not be a way to other models, back, or past the gate."""
    own, other = (Actor.promoting(model, "schedule weekly") for model in (name, "another"))
    registry.promote(f"{name}/1", who=own, reason="It passed the gate.")
    assert rows(registry, name)[-1].role == f"promote:{name}"
    registry.annotate(registry.describe(f"{name}/2"), "The gate refused it: worse.", passed=False)
    for refused in (
        lambda: registry.promote(f"{name}/3", who=other),
        lambda: registry.promote(f"{name}/2", who=own, override=True, reason="I want it."),
        lambda: registry.rollback(name, who=own),
    ):
        with pytest.raises(ConfigError, match=r"may promote:.* and nothing else"):
            refused()
    champion = registry.champion(name)
    assert champion is not None
    assert champion.version == "1"
