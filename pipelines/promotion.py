"""What becomes of a comparison: the gate's verdict, on the version's page and in the alias.

`incumbent` before the scores are made, `judge` once they are, `settle` when the versions are
published. The experiment's model is the candidate; where it is not fit to be champion, the best
line is judged in its place, so that users get that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from pipelines.audit import Actor
from pipelines.canary import canary
from pipelines.case import LINES, Entry
from pipelines.commands import agrees, entrant
from pipelines.comparison import Comparison, Entrant
from pipelines.datasets import stored_as
from pipelines.experiment import Experiment
from pipelines.gate import Decision, Finding, decide
from pipelines.home import Home
from pipelines.leaks import leaks
from pipelines.material import Material
from pipelines.registry import Registry
from pipelines.sections import Data
from pipelines.versions import CHAMPION, ModelVersion
from tsformer.errors import ArtifactError, ConfigError, NotFoundError

GATE_TAG = "gate"  # of an MLflow run
REMEDY = (
    "(To replace it unseen: tsformer promote NAME/VERSION --override --reason WHY, or over HTTP PUT "
    "/v1/models/NAME/aliases/champion with 'override'. To keep both: give the experiment a 'name' "
    "of its own.)"
)
AGAINST_CHAMPION = {"champion", "slices"}  # rules that hold a candidate against the champion


@dataclass(frozen=True, slots=True)
class Incumbent:
    """The champion so far, or none.

    `rev` is the revision of the alias, on which the verdict is made. `entrant` is the champion
    where it can be compared; where it cannot, `obstacle` says why, and it stays. `note` says why
    one is passed over: nobody can be served by it.
    """

    rev: int = 0
    entrant: Entrant | None = None
    obstacle: str = ""
    note: str = ""


def incumbent(
    experiment: Experiment, material: Material, *, registry: Registry, device: str = "auto"
) -> Incumbent:
    """The champion of the experiment's model, to be scored beside what was fitted."""
    try:
        now = registry.reconcile(experiment.name, alias=CHAMPION)
        rev = now.rev if now else 0
        champion = entrant(registry, experiment.name, device=device)
    except NotFoundError:
        return Incumbent()
    except ArtifactError as error:
        moved = registry.champion(experiment.name)
        return Incumbent(moved.rev if moved else 0, note=f"The champion cannot be loaded. {error}")
    try:
        _is_of(experiment.data, champion, home=registry.home)
        agrees(str(champion.version), champion.forecaster, material)
        _has_windows(champion, material)
    except ConfigError as error:
        return Incumbent(rev, obstacle=f"{champion.name}, the champion, stays. {error} {REMEDY}")
    return Incumbent(rev, champion)


def _is_of(data: Data, champion: Entrant, *, home: Home) -> None:
    """Refuses a champion of other data: on a table that it was not made for, anything is better."""
    theirs = champion.version.card.get("data", {}) if champion.version else {}
    stored = [stored_as(source, home) for source in (data.source, str(theirs.get("source", "")))]
    ours, other = [None if each is None else each[:2] for each in stored]
    if ours and other and ours != other:
        raise ConfigError("It was trained on another dataset.")
    targets = [*theirs.get("targets", ())]
    if targets and data.targets and targets != [*data.targets]:
        raise ConfigError("It was trained on other targets.")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decisions by model, in the order in which they were made, and the `winner`, if any.

    It is the `champion` then, unless nobody wants what passes to be promoted.
    """

    incumbent: Incumbent
    decisions: Mapping[str, Decision]
    winner: str | None
    promotes: bool = True

    @property
    def champion(self) -> str | None:
        """The model that is to be champion; None where the alias stays."""
        return self.winner if self.promotes else None

    @property
    def candidate(self) -> str:
        """The experiment's own model."""
        return next(iter(self.decisions))

    def word(self, name: str) -> str:
        """The decision on a model as a tag; `passed` for one that is fit and not promoted."""
        decision = self.decisions[name]
        return decision.word if self.promotes or not decision.promoted else "passed"

    def told(self) -> str:
        """Who is champion now and why, for the terminal and for the run's page."""
        stays = self.incumbent.entrant.name if self.incumbent.entrant else "the old one"
        none = self.incumbent == Incumbent() or self.incumbent.note
        kept = "Nobody is champion." if none else f"The champion stays: {stays}."
        head = f"{self.champion} is the champion now." if self.champion else kept
        if self.winner and not self.promotes:
            head += f" {self.winner} could be, but is not to be promoted."
        said = {True: "passed the gate", False: "was refused by the gate"}
        parts = [f"{n} {said[d.promoted]}:\n{listed(d)}" for n, d in self.decisions.items()]
        return "\n".join([head, *parts])


def judge(comparison: Comparison, incumbent: Incumbent, *, promotes: bool = True) -> Verdict:
    """The gate's verdict on the experiment's model, and on the best line where that is not fit.

    A second chance is given only where the first failed by itself: whoever is merely no better
    than the champion leaves it, and the line is not tried by chance as well.
    """
    bench = _Bench(comparison, incumbent)
    names = [bench.candidate]
    decisions = {bench.candidate: bench.decision(bench.candidate)}
    line = bench.best_line()
    if line is not None and {*decisions[bench.candidate].failed} - AGAINST_CHAMPION:
        names.append(line)
        decisions[line] = bench.decision(line)
    winner = next((name for name in names if decisions[name].promoted), None)
    return Verdict(incumbent, decisions, winner, promotes)


def settled_before(verdict: Verdict, versions: Mapping[str, ModelVersion]) -> ModelVersion | None:
    """The champion, where it is one of the `versions`: an earlier attempt at the run promoted it.

    This verdict held it against itself; that of the earlier attempt counts.
    """
    old = verdict.incumbent.entrant
    return old.version if old and str(old.version) in map(str, versions.values()) else None


def settle(
    verdict: Verdict,
    versions: Mapping[str, ModelVersion],
    *,
    registry: Registry,
    who: Actor | None = None,
) -> ModelVersion | None:
    """Writes the verdict to all versions and the runs that it is on, and moves the alias to the winner's.

    Gives the new champion, or None. Raises ConflictError where the champion has changed since the
    incumbent was looked at: the verdict does not hold then.
    """
    if before := settled_before(verdict, versions):
        return before
    for name, decision in verdict.decisions.items():
        registry.annotate(versions[name], page(decision), passed=decision.promoted)
        with registry.link.writing() as client:
            client.set_tag(versions[name].run_id, GATE_TAG, verdict.word(name))
    for name in versions.keys() - verdict.decisions.keys():
        registry.annotate(versions[name], unasked(verdict, versions))
    if verdict.champion is None:
        return None
    return registry.promote(
        str(versions[verdict.champion]),
        seen=verdict.incumbent.rev,
        who=who,
        reason="It passed the gate.",
    )


def page(decision: Decision) -> str:
    """A decision as the page of a version: the word and the first reason, then all of them."""
    refused = f"The gate refused it: {decision.reasons[0]}"
    head = "It passed the gate:" if decision.promoted else refused
    return f"{head}\n\n{listed(decision)}"


def unasked(verdict: Verdict, versions: Mapping[str, ModelVersion]) -> str:
    """Why a version that the gate did not judge was not promoted, for its page."""
    said = {True: "passed the gate", False: "was refused by the gate"}
    judged = [
        f"{name} ({versions[name]}) {said[d.promoted]}" for name, d in verdict.decisions.items()
    ]
    return (
        "Not promoted: the gate was not asked about it. It was fitted to be compared with, and "
        f"{' and '.join(judged)}."
    )


def listed(decision: Decision) -> str:
    """What speaks against a model, then what speaks for it, a line each."""
    ordered = sorted(decision.findings, key=lambda finding: finding.passed)
    return "\n".join(f"- {'for' if f.passed else 'against'}: {f.sentence}" for f in ordered)


@dataclass(frozen=True, slots=True)
class _Bench:
    """The models of a comparison as the gate takes them."""

    comparison: Comparison
    incumbent: Incumbent

    @property
    def candidate(self) -> str:
        return self.comparison.experiment.model.kind

    @property
    def fitted(self) -> dict[str, Entrant]:
        return {e.name: e for e in self.comparison.entrants if e.version is None}

    def best_line(self) -> str | None:
        """The line with the best score beside the candidate."""
        experiment, board = self.comparison.experiment, self.comparison.scores.leaderboard
        metric = experiment.gate.metric or experiment.backtest.metric
        lines = [n for n in self.fitted if n in LINES and n != self.candidate]
        ranked = board.filter(pl.col("model").is_in(lines)).sort(metric, nulls_last=True)["model"]
        return str(ranked[0]) if len(ranked) else None

    def decision(self, name: str) -> Decision:
        """The gate's decision on the fitted model `name`; a champion unseen is not replaced."""
        experiment, old = self.comparison.experiment, self.incumbent.entrant
        decision = decide(
            champion=None if old is None else self._entry(old),
            candidate=self._asked(self.fitted[name]),
            baselines={n: self._entry(e) for n, e in self.fitted.items() if n != name},
            policy=experiment.gate,
            backtest=experiment.backtest,
        )
        if not self.incumbent.obstacle:
            return decision
        return Decision((*decision.findings, Finding(False, self.incumbent.obstacle, "champion")))

    def _entry(self, model: Entrant) -> Entry:
        windows = self.comparison.scores.windows.filter(pl.col("model") == model.name)
        return Entry(model.name, model.forecaster.spec.kind, windows)

    def _asked(self, model: Entrant) -> Entry:
        """The entry of a candidate, with what is asked of no other."""
        plain, material = self._entry(model), self.comparison.material
        levels = self.comparison.experiment.backtest.asked
        return Entry(
            plain.name,
            plain.kind,
            plain.windows,
            leaks=leaks(model.forecaster, material),
            canary=canary(model.forecaster, material, levels=levels),
        )


def _has_windows(champion: Entrant, material: Material) -> None:
    """All are scored on the windows that the longest context has."""
    context = max(champion.forecaster.recipe.context, material.recipe.context)
    if not len(material.scoring_windows("test", stride=1, context=context)):
        raise ConfigError(
            f"{champion.version} looks {context} steps back: the test part has no window that long."
        )
