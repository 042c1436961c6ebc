"""Versions are immutable, verified before they are read, and served when the registry is away."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.entries import CARD_TAG, DIGEST_TAG, KIND_TAG, MODEL_TAG
from pipelines.forecaster import Forecaster
from pipelines.home import IMPATIENT, Home
from pipelines.registry import Registry
from pipelines.tracking import connect, track
from pipelines.versions import Reference
from tests.pipelines.homes import new_home
from tests.pipelines.registries import Sealed, publish, sealed
from tsformer.artifact import verify
from tsformer.errors import ArtifactError, ConfigError, NotFoundError, UnavailableError


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
def name(request: pytest.FixtureRequest) -> str:
    """A model of the test's own in the shared registry."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[5:60].strip("-")


# --- references -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flights", Reference("flights", alias="champion")),
        ("flights@candidate", Reference("flights", alias="candidate")),
        ("flights/12", Reference("flights", alias=None, version="12")),
        ("a", Reference("a")),
        ("A.b_c-9", Reference("A.b_c-9")),
    ],
)
def test_a_reference_is_a_name_an_alias_or_a_version(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert Reference.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "-a", "a-", "a b", "a\nb", "../etc", "a@", "a/", "a/0", "a/01", "a/x", "a/1/2", "a@Champion",
        "a@x@y", "x" * 65, "a@" + "x" * 33, "a/-1", "a/1\n", "a\n", "é", "a' or '1'='1", "a/٣",
    ],
)  # fmt: skip
def test_any_other_reference_is_refused_by_its_part(text: str) -> None:
    """MLflow itself takes `a\\nb` and `../etc`, and a name ends up in paths and queries."""
    with pytest.raises(ConfigError, match="must"):
        Reference.parse(text)


# --- publish and describe -------------------------------------------------------------------


def test_a_published_version_says_what_it_is(registry: Registry, name: str, tmp_path: Path) -> None:
    content = sealed(tmp_path / "model")
    version = publish(registry, name, content)
    assert version == registry.describe(f"{name}/1")
    assert (version.kind, version.digest) == ("seasonal_naive", content.digest)
    assert version.card == content.card
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", version.created_at)
    assert name in registry.models()


def test_publishing_twice_in_one_run_makes_one_version(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    """A registration that is repeated after a crash must not leave a second version."""
    content = sealed(tmp_path / "model")
    with track(registry.home, experiment="flights", name="test") as run:
        first, second = (
            registry.publish(
                name, content.directory, digest=content.digest, run_id=run.id, card=content.card
            )
            for _ in range(2)
        )
    assert first == second
    assert [version.version for version in registry.versions(name)] == ["1"]


def test_versions_are_listed_newest_first_with_their_aliases(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    for season in (1, 2, 3):
        publish(registry, name, sealed(tmp_path / str(season), season=season))
    registry.promote(f"{name}/2")
    registry.promote(f"{name}/3", alias="candidate")
    listed = [(version.version, version.aliases) for version in registry.versions(name)]
    assert listed == [("3", ("candidate",)), ("2", ("champion",)), ("1", ())]


def test_an_altered_directory_is_not_published(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    content = sealed(tmp_path / "model")
    (content.directory / "recipe.json").write_text("{}")
    with pytest.raises(ArtifactError):
        publish(registry, name, content)
    assert name not in registry.models()


def test_an_unknown_name_alias_or_version_is_answered_with_the_known(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    publish(registry, name, sealed(tmp_path / "model"))
    registry.promote(f"{name}/1", alias="candidate")
    with pytest.raises(NotFoundError, match=r"no model 'nobody'\. There are .*" + name[:5]):
        registry.describe("nobody")
    with pytest.raises(NotFoundError, match="@candidate"):
        registry.describe(name)
    with pytest.raises(NotFoundError, match=r"no version 7\. It has 1"):
        registry.describe(f"{name}/7")


# --- promote --------------------------------------------------------------------------------


def test_an_alias_moves_and_the_version_it_leaves_stays(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    publish(registry, name, sealed(tmp_path / "1", season=1))
    publish(registry, name, sealed(tmp_path / "2", season=2))
    assert registry.promote(f"{name}/1").aliases == ("champion",)
    assert registry.promote(f"{name}/2").aliases == ("champion",)
    assert registry.describe(name).version == "2"
    assert registry.describe(f"{name}/1").aliases == ()


def test_a_damaged_version_is_never_promoted(
    registry: Registry, client: MlflowClient, name: str, tmp_path: Path
) -> None:
    publish(registry, name, sealed(tmp_path / "1", season=1))
    registry.promote(f"{name}/1")
    publish(registry, name, sealed(tmp_path / "2", season=2))
    stored(client, name, "2").joinpath("spec.json").write_text("{}")
    with pytest.raises(ArtifactError):
        registry.promote(f"{name}/2")
    assert registry.describe(name).version == "1"


# --- fetch ----------------------------------------------------------------------------------


def stored(client: MlflowClient, name: str, version: str) -> Path:
    """Where the registry keeps the sealed files of a version."""
    location = client.get_model_version(name, version).source
    return Path(location.removeprefix("file://")) / "artifacts" / "forecaster"


def test_what_is_fetched_is_what_was_published(
    registry: Registry, home: Home, name: str, tmp_path: Path
) -> None:
    content = sealed(tmp_path / "model")
    version = publish(registry, name, content)
    fetched = registry.fetch(f"{name}/1")
    assert fetched.fresh
    assert fetched.version == version
    assert fetched.directory == home.models / name / f"1-{content.digest[:12]}"
    verify(fetched.directory, content.digest)
    assert Forecaster.load(fetched.directory, digest=content.digest, device="cpu").card


def test_no_file_of_a_damaged_version_is_kept(
    registry: Registry, client: MlflowClient, home: Home, name: str, tmp_path: Path
) -> None:
    publish(registry, name, sealed(tmp_path / "model"))
    weights = stored(client, name, "1") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError):
        registry.fetch(f"{name}/1")
    assert not list((home.models / name).iterdir())


def test_a_damaged_copy_is_fetched_again(registry: Registry, name: str, tmp_path: Path) -> None:
    content = sealed(tmp_path / "model")
    publish(registry, name, content)
    copy = registry.fetch(f"{name}/1").directory
    (copy / "recipe.json").write_text("{}")
    (copy / "extra.pkl").write_bytes(b"\x80\x04.")
    assert registry.fetch(f"{name}/1").directory == copy
    verify(copy, content.digest)


def test_a_version_of_unknown_origin_is_refused(
    registry: Registry, client: MlflowClient, name: str, tmp_path: Path
) -> None:
    """With a database of one's own MLflow takes any source: a file, a service of the cloud."""
    content = sealed(tmp_path / "model")
    ours = publish(registry, name, content)
    entry = client.get_model_version(name, ours.version)
    for tags in ({}, {**entry.tags, DIGEST_TAG: "../../x"}, entry.tags):
        made = client.create_model_version(name, source="http://169.254.169.254/x", tags=tags)
        with pytest.raises(ArtifactError):
            registry.fetch(f"{name}/{made.version}")
    assert {KIND_TAG, CARD_TAG, MODEL_TAG} <= entry.tags.keys()


# --- when the registry is away --------------------------------------------------------------


def test_the_last_good_copy_serves_when_the_registry_is_away(
    registry: Registry, home: Home, name: str, tmp_path: Path
) -> None:
    publish(registry, name, sealed(tmp_path / "1", season=1))
    registry.promote(f"{name}/1")
    known = registry.fetch(name)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = Registry(Home(home.folder, f"http://127.0.0.1:{closed.getsockname()[1]}"))
        started = time.monotonic()
        last = away.fetch(name)
        assert time.monotonic() - started < 30  # 0.1 s
        assert (last.directory, last.version.version) == (known.directory, "1")
        assert not last.fresh
        with pytest.raises(UnavailableError, match="does not answer"):
            away.fetch(f"{name}@candidate")
        with pytest.raises(UnavailableError):
            away.promote(f"{name}/1")


def test_a_registry_that_hangs_holds_a_start_for_seconds_not_minutes(
    registry: Registry, home: Home, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With MLflow's defaults (7 retries of 120 s) a start would wait for a quarter of an hour."""
    for variable, value in IMPATIENT.items():
        monkeypatch.setenv(variable, value)
    publish(registry, name, sealed(tmp_path / "model"))
    registry.fetch(f"{name}/1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        away = Registry(Home(home.folder, f"http://127.0.0.1:{silent.getsockname()[1]}"))
        started = time.monotonic()
        assert not away.fetch(f"{name}/1").fresh
        assert time.monotonic() - started < 60  # 4 s


def test_a_damaged_copy_does_not_serve_when_the_registry_is_away(
    registry: Registry, home: Home, name: str, tmp_path: Path
) -> None:
    publish(registry, name, sealed(tmp_path / "model"))
    copy = registry.fetch(f"{name}/1").directory
    (copy / "recipe.json").write_text("{}")
    away = Registry(Home(home.folder, f"sqlite:///{tmp_path / 'missing.db'}"))
    with pytest.raises(UnavailableError, match="does not exist"):
        away.fetch(f"{name}/1")
    assert not (tmp_path / "missing.db").exists()


def test_the_last_answer_of_an_alias_follows_its_moves(
    registry: Registry, home: Home, name: str, tmp_path: Path
) -> None:
    away = Registry(Home(home.folder, f"sqlite:///{tmp_path / 'missing.db'}"))
    for number in ("1", "2"):
        publish(registry, name, sealed(tmp_path / number, season=int(number)))
        registry.promote(f"{name}/{number}")
        registry.fetch(name)
        assert away.fetch(name).version.version == number
    answer = home.models / name / "champion.json"
    answer.write_text(answer.read_text()[:-5])
    with pytest.raises(UnavailableError):
        away.fetch(name)


def test_files_that_are_gone_leave_the_last_good_copy(
    registry: Registry, client: MlflowClient, name: str, tmp_path: Path
) -> None:
    """The database answers, the storage of the artifacts does not."""
    publish(registry, name, sealed(tmp_path / "1", season=1))
    registry.promote(f"{name}/1")
    registry.fetch(name)
    publish(registry, name, sealed(tmp_path / "2", season=2))
    registry.promote(f"{name}/2")
    copy = registry.fetch(f"{name}/2").directory
    for folder in (copy, stored(client, name, "2")):
        folder.rename(tmp_path / folder.name)
    last = registry.fetch(name)
    assert (last.version.version, last.fresh) == ("1", False)


def test_a_card_survives_the_registry_unchanged(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    content = sealed(tmp_path / "model")
    card = {**content.card, "metrics": {"mase": 0.7}, "note": "Überraschung\n"}
    version = publish(registry, name, Sealed(content.directory, content.digest, card))
    assert json.loads(json.dumps(card)) == version.card == registry.describe(str(version)).card
