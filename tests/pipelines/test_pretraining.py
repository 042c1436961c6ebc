"""Pretraining as a command: an encoder in the registry that models begin with and nobody asks."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import torch
import yaml
from rich.console import Console

from pipelines.cli import main
from pipelines.commands import load
from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.material import Material
from pipelines.pretrain_command import Outcome, pretrain_and_register
from pipelines.pretraining import KeptEncoder, Origin, pretrain_encoder, pretrainable
from pipelines.registry import Registry
from pipelines.start import Pretraining
from pipelines.storage import Place
from pipelines.tracking import connect
from serving.settings import Settings
from tests.panels import hourly, waves
from tests.pipelines.homes import new_home
from tests.pipelines.warm import QUIET, SPEC, WINDOW, experiment, pretrained
from tests.serving.running import application, forecaster, publish, series, table
from tsformer.errors import ArtifactError, ConfigError, IncompatibleError
from tsformer.masking import PatchMasking, RunMasking
from tsformer.models.patchtst import PatchEncoder
from tsformer.pretrain import Pretrained


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return new_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return experiment(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def outcome(home: Home, made: Experiment) -> Outcome:
    return pretrained(home, made)


def same(one: PatchEncoder, other: PatchEncoder) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def encoder(made: Experiment) -> Pretrained:
    return pretrain_encoder(made, Material.of(made), device="cpu")


# --- what comes of it -----------------------------------------------------------------------


def test_an_encoder_is_a_version_under_a_name_of_its_own(outcome: Outcome, home: Home) -> None:
    """Whoever trains from it must see what it is, how well it went, and which is the newest."""
    version = Registry(home).describe("waves-encoder@candidate")
    assert str(version) == str(outcome.version) == "waves-encoder/1"
    assert version.kind == "encoder"
    assert (version.card["model"], version.card["context"]) == ("patchtst", 72)
    assert version.card["masking"] == "PatchMasking(ratio=0.4)"
    metrics = version.card["metrics"]
    assert metrics["masked_error"] == outcome.found.fit.validation_loss
    assert metrics["mean_fill"] == outcome.found.mean_fill
    assert "pretrained on table for 2 steps" in version.description
    assert "Take more steps" in version.description  # two steps learn nothing, and it says so


def test_the_run_shows_how_it_went(outcome: Outcome, home: Home) -> None:
    """An encoder whose error nobody can look up is believed or thrown away by its name."""
    client = connect(home)
    run = client.get_run(outcome.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["kind"] == "pretraining"
    assert run.data.tags["masking"] == "patches"
    assert run.data.tags["left_plateau"] == "false"
    assert run.data.metrics["mean_fill"] == outcome.found.mean_fill
    curve = client.get_metric_history(outcome.run_id, "validation_loss")
    assert [point.value for point in curve] == [
        row.validation_loss for row in outcome.found.fit.history
    ]
    assert run.inputs.dataset_inputs[0].dataset.name == "table"
    assert run.data.params["model.patch"] == "6"


def test_what_is_fetched_is_what_was_learnt(outcome: Outcome, home: Home, made: Experiment) -> None:
    """And it says which rows it has seen, under the same digest."""
    fetched = Registry(home).fetch("waves-encoder@candidate")
    kept = KeptEncoder.load(fetched.directory, digest=fetched.version.digest)
    assert same(kept.encoder, outcome.found.encoder)
    recipe = Material.of(made).recipe
    assert kept.origin == Origin("h", recipe.trained_until, recipe.fitted_until)


def test_checkpoints_go_when_the_version_is_there(outcome: Outcome, home: Home) -> None:
    """Each is as large as three copies of the model."""
    assert Place.of(home).names() == []
    assert not (home.folder / "checkpoints" / outcome.run_id).exists()


def test_the_test_part_is_never_looked_at(made: Experiment, tmp_path: Path) -> None:
    """An encoder that has seen the test part makes every score of its children a lie."""
    rows = pl.read_parquet(made.data.source)
    changed = rows.with_columns(
        pl.when(pl.int_range(pl.len()).over("unique_id") >= 320)
        .then(-1e3)
        .otherwise(pl.col("y"))
        .alias("y")
    )
    changed.write_parquet(tmp_path / "changed.parquet")
    other = replace(made, data=replace(made.data, source=str(tmp_path / "changed.parquet")))
    assert same(encoder(made).encoder, encoder(other).encoder)


def test_the_command_says_how_to_train_from_it(
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The one line that a person needs next."""
    hourly(waves(2, 400)).write_csv(tmp_path / "shops.csv")
    sections = {
        "data": {"source": "shops.csv", "id": "unique_id", "targets": ["y"]},
        "model": SPEC,
        "window": WINDOW,
        "training": {"epochs": 1, "windows_per_epoch": 64},
    }
    (tmp_path / "shops.yaml").write_text(yaml.safe_dump(sections))
    monkeypatch.setenv("TSFORMER_HOME", str(home.folder))
    monkeypatch.setattr("sys.argv", ["tsformer", "pretrain", str(tmp_path / "shops.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert "encoder: epoch 1/1" in printed
    assert "Registered as shops-encoder/1" in printed
    assert "from: models:/shops-encoder@candidate" in printed


# --- what is hidden, and what cannot be pretrained ------------------------------------------


def test_the_experiment_says_what_is_hidden(made: Experiment) -> None:
    """The two tasks make different encoders: a section that is not heard would go unnoticed."""
    assert Pretraining().hides == PatchMasking(0.4)
    assert Pretraining("runs").hides == RunMasking(0.15)
    assert Pretraining("patches", 0.5).hides == PatchMasking(0.5)
    runs = replace(made, pretraining=Pretraining("runs"))
    assert not same(encoder(made).encoder, encoder(runs).encoder)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"model": "nlinear"}, "'nlinear' has no encoder.*Take patchtst"),
        ({"model": {**SPEC, "stride": 3}}, "Set stride: 6 and padding: none"),
        ({"model": {**SPEC, "padding": "end"}}, "Set stride: 6 and padding: none"),
        ({"from": "models:/waves@champion"}, "leave 'from' out"),
        ({"name": "x" * 60}, "1 to 64 letters"),
    ],
)
def test_what_cannot_be_pretrained_is_refused_before_any_work(
    tmp_path: Path, sections: dict[str, Any], named: str
) -> None:
    """An hour of pretraining is lost if the name or the model is found wrong at its end."""
    with pytest.raises(ConfigError, match=named):
        pretrainable(experiment(tmp_path, **sections))


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"masking": "words"}, "'masking' must be patches or runs, got 'words'"),
        ({"share": 1.5}, "'share' 1.5: ratio is the share that is hidden"),
        ({"maskin": "runs"}, "Did you mean 'masking'"),
    ],
)
def test_a_wrong_section_is_named(tmp_path: Path, section: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        experiment(tmp_path, pretraining=section)


# --- interrupted ----------------------------------------------------------------------------


class PowerCutError(Exception):
    """The machine goes down."""


class Unplugged(Console):
    """A terminal that keeps what it shows, and goes down with the line that has `last` in it."""

    def __init__(self, last: str) -> None:
        super().__init__(file=StringIO(), width=400)
        self.last = last

    @property
    def shown(self) -> str:
        assert isinstance(self.file, StringIO)
        return self.file.getvalue()

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if self.last in self.shown:
            raise PowerCutError


def test_an_interrupted_pretraining_ends_with_the_same_encoder(
    home: Home, made: Experiment
) -> None:
    """It is the longest fit of all; nobody should pay for it twice, or get another encoder."""
    other = replace(made, training=replace(made.training, seed=5))
    console = Unplugged("epoch 1/2")
    with pytest.raises(PowerCutError):
        pretrain_and_register(other, home=home, console=console, device="cpu")
    told = re.search("If it is interrupted: tsformer pretrain FILE --resume (.*)", console.shown)
    assert told is not None
    with pytest.raises(ConfigError, match="begun with other settings"):
        pretrain_and_register(made, home=home, console=QUIET, resumed=told[1])
    again = Unplugged("never")
    resumed = pretrain_and_register(other, home=home, console=again, device="cpu", resumed=told[1])
    assert "epoch 1/2" not in again.shown
    assert resumed.run_id == told[1]
    assert same(resumed.found.encoder, encoder(other).encoder)
    assert Registry(home).describe("waves-encoder@candidate") == resumed.version


# --- no forecaster --------------------------------------------------------------------------


def test_an_encoder_asked_for_a_forecast_says_what_it_is(outcome: Outcome, home: Home) -> None:
    """A traceback about missing keys would be all that the person at the terminal gets."""
    with pytest.raises(IncompatibleError, match=r"pretrained encoder.*no forecasts.*`from`"):
        load(Registry(home), str(outcome.version))


def test_an_altered_encoder_is_refused_before_it_is_parsed(
    outcome: Outcome, home: Home, tmp_path: Path
) -> None:
    """What is parsed first can attack its parser."""
    fetched = Registry(home).fetch(str(outcome.version))
    folder = tmp_path / "altered"
    folder.mkdir()
    for file in fetched.directory.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    origin = (folder / "origin.json").read_bytes()
    (folder / "origin.json").write_bytes(b"\xff" * len(origin))
    with pytest.raises(ArtifactError, match=r"origin\.json was altered"):
        KeptEncoder.load(folder, digest=fetched.version.digest)


def test_the_service_knows_that_it_is_no_forecaster(
    outcome: Outcome, home: Home, tmp_path: Path
) -> None:
    """Beside one model an encoder must neither take its place as default nor break the lists."""
    publish(home, "small", forecaster(seed=1), tmp_path / "small")
    app = application(home, Settings())
    name = outcome.version.name

    async def asked() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        body = {"data": table(series()), "freq": "h", "h": 3}
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        async with app.router.lifespan_context(app), client, asyncio.timeout(60):
            while (await client.get("/health/ready")).status_code != 200:
                await asyncio.sleep(0.02)
            return [
                await client.get("/v1/models"),
                await client.get(f"/v1/models/{name}/versions/1"),
                await client.post("/v1/forecasts", json={"model": f"{name}/1", **body}),
                await client.post("/v1/forecasts", json=body),
            ]

    listed, card, refused, answered = asyncio.run(asked())
    own = [item["name"] for item in listed.json()["items"] if not item["built_in"]]
    assert own == ["small"]
    assert (card.status_code, refused.status_code) == (404, 422)
    assert "pretrained encoder" in card.json()["detail"]
    assert "pretrained encoder" in refused.json()["detail"]
    assert answered.json()["model"]["name"] == "small"
