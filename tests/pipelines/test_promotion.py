"""From scores to a champion: whom the alias moves to, what the version's page says, who loses a race."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from pipelines.backtest import backtest
from pipelines.canary import ODD, canary
from pipelines.comparison import Comparison, Entrant
from pipelines.config_files import config_path
from pipelines.datasets import FOLDER
from pipelines.experiment import Experiment
from pipelines.forecaster import Forecaster
from pipelines.leaks import leaks
from pipelines.material import Material
from pipelines.promotion import GATE_TAG, Incumbent, Verdict, incumbent, judge, settle
from pipelines.published import data_card
from pipelines.registry import Registry
from pipelines.rivals import missing_rivals, rivals_note, with_rivals
from pipelines.tracking import connect
from pipelines.training import fit_all
from pipelines.versions import ModelVersion
from tests.panels import experiment_on, hourly, waves
from tests.pipelines.homes import new_home
from tests.pipelines.registries import new_run
from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError, ConflictError
from tsformer.model import Model

WINDOW = {"context": 72, "horizon": 24}
LEVELS = (0.1, 0.5, 0.9)
QUICK = {"epochs": 1, "windows_per_epoch": 32}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(new_home(tmp_path / "home"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def asked(folder: Path, **sections: Any) -> Experiment:
    content = {"name": "sales", "backtest": {"stride": 6}, "window": WINDOW, **sections}
    return with_rivals(experiment_on(folder, hourly(waves(3, 700)), **content))


def compare(
    experiment: Experiment, registry: Registry, *, known: Incumbent | None = None
) -> tuple[Comparison, Incumbent]:
    """Fits and scores, the champion beside the rest, as `tsformer train` does."""
    material = Material.of(experiment)
    known = known or incumbent(experiment, material, registry=registry)
    fitted = fit_all(experiment, material, device="cpu")
    entrants = [Entrant(name, entry.forecaster) for name, entry in fitted.items()]
    entrants += [known.entrant] if known.entrant else []
    scores = backtest({e.name: e.forecaster for e in entrants}, material, experiment.backtest)
    return Comparison(experiment, material, tuple(entrants), scores), known


def train(
    experiment: Experiment, registry: Registry, *, known: Incumbent | None = None
) -> tuple[Verdict, dict[str, ModelVersion], Incumbent]:
    """Fits, scores, judges and publishes; nothing is settled yet."""
    comparison, known = compare(experiment, registry, known=known)
    versions = {}
    for entrant in comparison.entrants:
        if entrant.version is None:
            saved = registry.home.folder / new_run(registry.home)
            digest = entrant.forecaster.save(saved)
            card = {**entrant.forecaster.card, "data": data_card(experiment.data)}
            versions[entrant.name] = registry.publish(
                experiment.name, saved, digest=digest, run_id=saved.name, card=card
            )
    return judge(comparison, known), versions, known


def gate_tag(registry: Registry, version: ModelVersion) -> str | None:
    return connect(registry.home).get_run(version.run_id).data.tags.get(GATE_TAG)


def test_the_line_becomes_champion_where_the_model_is_worse(
    folder: Path, registry: Registry
) -> None:
    """Who trains a poor network is served by the line, and finds the reason on the version."""
    verdict, versions, known = train(asked(folder, model="last_value"), registry)
    assert known == Incumbent()
    champion = settle(verdict, versions, registry=registry)
    assert champion == registry.describe("sales") == registry.describe(str(versions["ridge"]))
    refused = registry.describe(str(versions["last_value"]))
    assert refused.description.startswith("The gate refused it:")
    assert "- against: By wql it has" in refused.description
    assert "- against:" not in champion.description
    assert "ridge" in refused.description
    assert champion.description.startswith("It passed the gate:")
    beside = registry.describe(str(versions["seasonal_naive"])).description
    assert beside.startswith("Not promoted: the gate was not asked about it.")
    assert f"ridge ({versions['ridge']}) passed the gate" in beside
    assert gate_tag(registry, versions["ridge"]) == "promoted"
    assert str(gate_tag(registry, versions["last_value"])).startswith("refused: naive, line")
    assert gate_tag(registry, versions["seasonal_naive"]) is None
    assert "ridge is the champion now." in verdict.told()
    assert "last_value was refused by the gate:" in verdict.told()


def test_what_is_not_to_be_promoted_passes_and_is_no_champion(
    folder: Path, registry: Registry
) -> None:
    """Who wants to look at a candidate first finds that it passed, and nobody served by it."""
    made, versions, _ = train(asked(folder), registry)
    verdict = replace(made, promotes=False)
    assert settle(verdict, versions, registry=registry) is None
    assert registry.champion("sales") is None
    assert gate_tag(registry, versions["ridge"]) == "passed"
    assert registry.describe(str(versions["ridge"])).description.startswith("It passed the gate:")
    assert verdict.told().startswith("Nobody is champion. ridge could be, but")
    assert registry.promote(str(versions["ridge"])).version == versions["ridge"].version


def test_the_same_again_changes_nothing(folder: Path, registry: Registry) -> None:
    """A schedule on unchanged data must not give users a new version every night."""
    experiment = asked(folder)
    verdict, versions, _ = train(experiment, registry)
    first = settle(verdict, versions, registry=registry)
    assert first is not None
    verdict, versions, known = train(experiment, registry)
    assert settle(verdict, versions, registry=registry) is None
    assert registry.describe("sales").version == first.version
    assert known.entrant is not None
    assert f"The champion stays: {first} ridge." in verdict.told()
    assert "the same" in registry.describe(str(versions["ridge"])).description
    with pytest.raises(ConflictError, match=r"the same\. To promote it.*--override"):
        registry.promote(str(versions["ridge"]))


def test_a_better_model_takes_the_place_and_the_old_one_is_kept_for_rollback(
    folder: Path, registry: Registry
) -> None:
    """What was promoted at night must be undone with one command in the morning."""
    verdict, versions, _ = train(asked(folder, model="last_value"), registry)
    weak = registry.promote(str(versions["last_value"]), reason="to begin with something")
    verdict, versions, known = train(asked(folder), registry)
    assert known.entrant is not None
    champion = settle(verdict, versions, registry=registry)
    assert champion is not None
    assert champion.version == versions["ridge"].version
    assert f"{weak} last_value, the champion," in champion.description
    assert registry.rollback("sales").version == weak.version


def test_a_champion_that_changed_meanwhile_is_not_overwritten(
    folder: Path, registry: Registry
) -> None:
    """Two trainings end at once: the second verdict was made on a champion that is gone."""
    verdict, versions, _ = train(asked(folder), registry)
    other = registry.promote(str(versions["seasonal_naive"]))
    with pytest.raises(ConflictError, match="moved"):
        settle(verdict, versions, registry=registry)
    assert registry.describe("sales").version == other.version


def test_a_verdict_that_was_settled_is_not_settled_again(folder: Path, registry: Registry) -> None:
    """A run that was killed at its very end is done again: same versions, no second move."""
    experiment = asked(folder)
    verdict, versions, _ = train(experiment, registry)
    champion = settle(verdict, versions, registry=registry)
    known = incumbent(experiment, Material.of(experiment), registry=registry)
    again = replace(verdict, incumbent=known, winner=None)
    assert settle(again, versions, registry=registry) == known.entrant.version  # type: ignore[union-attr]
    assert registry.champion("sales").rev == 1  # type: ignore[union-attr]
    assert registry.describe("sales") == champion


def test_a_champion_that_cannot_be_compared_stays(folder: Path, registry: Registry) -> None:
    """Another horizon on the same table: nobody is replaced by one never held beside it."""
    verdict, versions, _ = train(asked(folder), registry)
    champion = settle(verdict, versions, registry=registry)
    shorter = asked(folder, window={"context": 72, "horizon": 12})
    verdict, versions, known = train(shorter, registry)
    assert known.entrant is None
    assert "has horizon 24, the experiment 12" in known.obstacle
    assert verdict.decisions["ridge"].failed == ("champion",)
    assert "--override" in verdict.told()
    assert settle(verdict, versions, registry=registry) is None
    assert registry.describe("sales") == champion


def test_a_champion_of_another_dataset_stays(registry: Registry) -> None:
    """A team that takes a name which is taken would be served in place of the other, by its own data."""
    places = [registry.home.folder / FOLDER / tenant / "load" for tenant in ("ann", "bob")]
    for place in places:
        place.mkdir(parents=True)
    verdict, versions, _ = train(asked(places[0]), registry)
    champion = settle(verdict, versions, registry=registry)
    verdict, versions, known = train(asked(places[1]), registry)
    assert known.entrant is None
    assert "was trained on another dataset" in known.obstacle
    assert settle(verdict, versions, registry=registry) is None
    assert registry.describe("sales") == champion
    same = asked(places[0])
    assert incumbent(same, Material.of(same), registry=registry).entrant is not None
    other = replace(same, data=replace(same.data, targets=("z",)))
    assert "other targets" in incumbent(other, Material.of(same), registry=registry).obstacle


def test_a_champion_that_nobody_can_load_is_passed_over(folder: Path, registry: Registry) -> None:
    """One flipped byte: it serves nobody, and must not block the next one for ever."""
    experiment = asked(folder)
    verdict, versions, _ = train(experiment, registry)
    champion = settle(verdict, versions, registry=registry)
    shutil.rmtree(registry.home.models)
    for file in registry.home.folder.rglob("weights.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    known = incumbent(experiment, Material.of(experiment), registry=registry)
    assert known.entrant is None
    assert "cannot be loaded" in known.note
    verdict, versions, _ = train(experiment, registry, known=known)
    newer = settle(verdict, versions, registry=registry)
    assert champion is not None
    assert newer is not None
    assert newer.version != champion.version


def test_the_second_chance_is_for_those_that_failed_by_themselves(
    folder: Path, registry: Registry
) -> None:
    """The line is tried where the model is unfit, and not as a second ticket in the lottery."""
    verdict, versions, _ = train(asked(folder), registry)
    settle(verdict, versions, registry=registry)
    verdict = judge(*compare(asked(folder, baselines=["nlinear"], training=QUICK), registry))
    assert [*verdict.decisions] == ["ridge"]
    verdict = judge(*compare(asked(folder, model="last_value"), registry))
    assert [*verdict.decisions] == ["last_value", "ridge"]
    assert verdict.winner is None
    assert verdict.decisions["ridge"].failed == ("champion",)


# --- the rivals that take part always -------------------------------------------------------


def test_an_experiment_without_rivals_gets_them(tmp_path: Path) -> None:
    """A transformer that was never held against the line must not reach a user."""
    lonely = experiment_on(tmp_path, hourly(waves(1, 300)), model="patchtst", baselines=[])
    assert [spec.kind for spec in missing_rivals(lonely)] == ["ridge", "seasonal_naive"]
    whole = with_rivals(lonely)
    assert [spec.kind for spec in whole.specs] == ["patchtst", "ridge", "seasonal_naive"]
    assert with_rivals(whole) == whole
    assert rivals_note(lonely).startswith("ridge and seasonal_naive take part too")
    assert rivals_note(whole) == ""
    linear = replace(lonely, model=whole.baselines[0])
    assert rivals_note(linear).startswith("seasonal_naive takes part too")


def test_every_shipped_experiment_takes_its_rivals() -> None:
    """Also with covariates and with series that share a window: the line reads what it can."""
    for path in sorted(config_path("").rglob("*.yaml")):
        if path.parent.name not in ("configs", "data"):
            with_rivals(Experiment.read(path))


def test_levels_that_a_rival_cannot_give_are_refused_before_any_fit(tmp_path: Path) -> None:
    """The line's intervals reach from 1 % to 99 %; the backtest of all asked for more."""
    levels = [0.001, 0.1, 0.5, 0.9, 0.999]
    lonely = experiment_on(
        tmp_path, hourly(waves(1, 300)), model="patchtst", baselines=[],
        window={**WINDOW, "levels": levels}, backtest={"levels": levels},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="quantiles of ridge"):
        with_rivals(lonely)


# --- the canary -----------------------------------------------------------------------------


def forecaster_of(
    folder: Path, kind: str, **sections: Any
) -> tuple[Forecaster, Material, Experiment]:
    random = np.random.default_rng(0)
    table = hourly(waves(3, 500)).with_columns(
        price=pl.Series(random.normal(size=1500)), rain=pl.Series(random.normal(size=1500)),
        kind=pl.Series(random.choice(["a", "b"], 1500)),
    )  # fmt: skip
    if sections.get("data", {}).get("group") == "all":
        table = table.with_columns(pl.col("price", "rain", "kind").first().over("ds"))
    experiment = experiment_on(
        folder, table, model={"kind": kind}, baselines=[], training=QUICK,
        **{"window": {"context": 48, "horizon": 12}, **sections},
    )  # fmt: skip
    material = Material.of(experiment)
    return fit_all(experiment, material, device="cpu")[kind].forecaster, material, experiment


COVARIATES = {"known": ["price", "kind"]}
LAGGED = {"context": 48, "horizon": 12, "lags": [168], "features": ["hour"]}
JOINT = {"group": "all", "known": ["price"], "past": ["rain"]}


@pytest.mark.parametrize(
    ("kind", "sections"),
    [
        ("ridge", {}),
        ("ridge", {"data": COVARIATES, "window": LAGGED}),
        ("ridge", {"window": {"context": 2, "horizon": 1}}),
        ("linear", {}),
        ("patchtst", {"window": {"context": 48, "horizon": 12, "levels": [0.1, 0.5, 0.9]}}),
        ("itransformer", {"data": JOINT}),
        ("seasonal_naive", {}),
    ],
)
def test_sound_models_answer_odd_inputs(
    tmp_path: Path, kind: str, sections: dict[str, Any]
) -> None:
    """A canary that dies of clean air would stop every promotion."""
    forecaster, material, _ = forecaster_of(tmp_path, kind, **sections)
    assert canary(forecaster, material, levels=LEVELS) == ()
    assert leaks(forecaster, material) == ()


class Odd(Model):
    """Whatever a function makes of the last value."""

    def __init__(self, shape: Shape, forecast: Callable[[Batch], Tensor]) -> None:
        super().__init__(shape)
        self.make = forecast

    def forward(self, batch: Batch) -> Tensor:
        return self.make(batch)


def crossing(batch: Batch) -> Tensor:
    last = batch.past[:, -1:].expand(-1, 12, -1).unsqueeze(-1)
    return torch.cat([last + 1, last, last - 1], -1)


def undefined_where_flat(batch: Batch) -> Tensor:
    change = batch.past[:, -1:] - batch.past[:, -13:-12]
    return (change / change).unsqueeze(-1).expand(-1, 12, -1, 3)


def refusing(batch: Batch) -> Tensor:
    if not batch.observed.all():
        raise RuntimeError("no holes, please")
    return batch.past[:, -12:].unsqueeze(-1).expand(-1, -1, -1, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (crossing, "its answer to the newest window is not finite, or its quantiles cross"),
        (undefined_where_flat, "its answer to a constant series is not finite"),
        (refusing, "it fails on missing runs (RuntimeError: no holes, please)"),
    ],
)
def test_a_model_that_cannot_answer_is_found(
    tmp_path: Path, make: Callable[[Batch], Tensor], words: str
) -> None:
    """Somebody will send a flat line on the first day, and get an error or nonsense."""
    sound, material, _ = forecaster_of(tmp_path, "seasonal_naive")
    shape = replace(material.shape_for(sound.spec.capabilities, LEVELS))
    odd = Forecaster(Odd(shape, make), spec=sound.spec, recipe=sound.recipe, device="cpu")
    assert any(fault.startswith(words) for fault in canary(odd, material, levels=LEVELS))


def test_the_odd_inputs_are_odd() -> None:
    """The canary must meet what it is said to meet."""
    values = np.sin(np.arange(48.0))
    assert np.ptp(ODD["a constant series"](values)) == 0
    assert ODD["a huge offset"](values).min() > 1e5
    missing = np.isnan(ODD["missing runs"](values))
    assert missing[-6:-1].all()
    assert 0.4 < missing.mean() < 0.6
    assert ODD["a constant series"](np.full(4, np.nan)).tolist() == [0.0] * 4


# --- leaks ----------------------------------------------------------------------------------


def leaky(folder: Path, *, known: np.ndarray | None = None, past: np.ndarray | None = None) -> Any:
    """What is found of a column that a model reads."""
    y = np.concatenate([*waves(2, 500).values()])
    table = hourly(waves(2, 500))
    table = table.with_columns(x=pl.Series(y if known is None and past is None else known if past is None else past))  # fmt: skip
    use = {"known": ["x"]} if past is None else {"past": ["x"]}
    experiment = experiment_on(
        folder, table, model="itransformer", baselines=[], training=QUICK,
        window={"context": 48, "horizon": 12}, data=use,
    )  # fmt: skip
    material = Material.of(experiment)
    return leaks(fit_all(experiment, material, device="cpu")["itransformer"].forecaster, material)


def shifted(steps: int) -> np.ndarray:
    """The target `steps` steps before it happens."""
    return np.concatenate([np.roll(series, -steps) for series in waves(2, 500).values()])


def test_a_copy_of_the_target_is_found_in_any_unit(tmp_path: Path) -> None:
    """Sales in cents beside sales in euros: perfect in the backtest, unknown when it counts."""
    y = np.concatenate([*waves(2, 500).values()])
    (found,) = leaky(tmp_path, known=100 * y + 7)
    assert "'x', which it reads as known ahead, repeats the target" in found
    assert leaky(tmp_path, past=100 * y + 7) == ()  # what is known of the past may be the past


def test_a_past_column_that_knows_the_future_is_found(tmp_path: Path) -> None:
    """A column that was filled in when the day was over."""
    (found,) = leaky(tmp_path, past=shifted(5))
    assert "repeats the target 5 steps before it happens" in found
    assert leaky(tmp_path, past=shifted(-5)) == ()
    assert leaky(tmp_path, past=shifted(40)) == ()  # beyond the horizon: of no use, and no harm


def test_honest_columns_are_let_through(tmp_path: Path) -> None:
    """A good plan, a season, a price that drifts like the target: none of them is a leak."""
    random = np.random.default_rng(1)
    y = np.concatenate([*waves(2, 500).values()])
    plan = y + 0.05 * y.std() * random.normal(size=len(y))
    assert leaky(tmp_path, known=plan) == ()
    drift = np.cumsum(random.normal(size=len(y)))
    assert leaky(tmp_path, past=drift) == ()
    assert leaky(tmp_path, known=np.zeros(len(y))) == ()


def test_a_model_that_does_not_say_what_it_saw_is_not_trusted(tmp_path: Path) -> None:
    """Older artifacts say nothing: nobody knows that they are innocent."""
    forecaster, material, _ = forecaster_of(tmp_path, "seasonal_naive")
    forecaster.recipe = replace(forecaster.recipe, fitted_until=None)
    (found,) = leaks(forecaster, material)
    assert "does not say until when it was fitted" in found
