"""The gate: may a candidate take the champion's place? Pure, and explained in sentences.

Every rule is a function of the case and a line in `RULES`; it says what it found whether that
speaks for the candidate or against it. What cannot be known speaks against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from pipelines.backtest import measures, total
from pipelines.case import LINES, NAIVE, Case, Entry
from pipelines.diebold_mariano import LEAST_APART, DieboldMariano
from pipelines.duel import Duel
from pipelines.policy import Policy
from pipelines.sections import Backtest
from pipelines.slices import slices


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: for the candidate or against it, and the sentence."""

    passed: bool
    sentence: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Promoted or not, and why. One finding against a candidate is enough to refuse it."""

    findings: tuple[Finding, ...]

    def __post_init__(self) -> None:
        if not self.findings:
            raise ValueError("A decision needs a reason.")

    @property
    def promoted(self) -> bool:
        """Whether nothing speaks against the candidate."""
        return not self.failed

    @property
    def reasons(self) -> tuple[str, ...]:
        """All sentences, those against the candidate first."""
        ordered = sorted(self.findings, key=lambda finding: finding.passed)
        return tuple(finding.sentence for finding in ordered)

    @property
    def failed(self) -> tuple[str, ...]:
        """The rules that speak against the candidate."""
        return tuple(dict.fromkeys(f.rule for f in self.findings if not f.passed))

    @property
    def word(self) -> str:
        """The decision as a tag: `promoted`, or `refused: line, coverage`."""
        return "promoted" if self.promoted else f"refused: {', '.join(self.failed)}"


Rule = Callable[[Case], Iterator[Finding]]


def decide(
    *,
    champion: Entry | None,
    candidate: Entry,
    baselines: Mapping[str, Entry],
    policy: Policy,
    backtest: Backtest | None = None,
) -> Decision:
    """Whether `candidate` takes the place of `champion`, which is None before the first one.

    `baselines` are the other models of the comparison by name; seasonal naive and a line must be
    among them. `backtest` says by which metric, unless the policy does, and what the interval is.
    """
    case = Case(champion, candidate, baselines, policy, backtest or Backtest())
    if obstacles := tuple(case.obstacles()):
        return Decision(tuple(Finding(False, told, "windows") for told in obstacles))
    case = case.on_shared_windows()
    found = ((name, rule(case)) for name, rule in RULES.items())
    return Decision(tuple(replace(f, rule=name) for name, findings in found for f in findings))


# --- the rules ------------------------------------------------------------------------------


def _leak(case: Case) -> Iterator[Finding]:
    """A model that has seen the test part is not tested by it."""
    leaks = case.candidate.leaks
    if leaks is None:
        yield Finding(False, "Nobody looked whether it has seen what it is scored on.")
    for leak in leaks or ():
        yield Finding(False, leak)
    if leaks == ():
        yield Finding(True, "Of every series it was fitted on older rows than it is scored on.")


def _canary(case: Case) -> Iterator[Finding]:
    """It answers odd inputs with numbers."""
    faults = case.candidate.canary
    if faults is None:
        yield Finding(False, "It was not asked the odd inputs of the canary.")
    for fault in faults or ():
        yield Finding(False, f"Canary: {fault}")
    if faults == ():
        yield Finding(True, "Canary: it answers odd inputs with finite, ordered quantiles.")


def _naive(case: Case) -> Iterator[Finding]:
    """Whoever is no better than last season's values costs more than they do."""
    if case.candidate.kind == NAIVE:
        yield Finding(False, f"It is {NAIVE} itself, with which the service answers anyway.")
    elif case.naive is None:
        yield Finding(False, f"It was not compared with {NAIVE}. Add it to 'baselines'.")
    else:
        found = case.duel(case.candidate, case.naive)
        yield Finding(found.gain > 0, _told(case, found, NAIVE))


def _line(case: Case) -> Iterator[Finding]:
    """A transformer must be better than the line, and surely; a line must not be surely worse."""
    best = _best_line(case)
    own = case.candidate.kind in LINES
    if best is None:
        yield Finding(own, NO_OTHER_LINE if own else NO_LINE)
        return
    found = case.duel(case.candidate, best)
    if own:
        surely_worse = _sure(case, case.duel(best, case.candidate).test)
        told = _told(case, found, f"{best.name}, the best other,")
        yield Finding(
            math.isfinite(found.score) and not surely_worse, f"It is a linear map itself. {told}"
        )
    else:
        told = _told(case, found, f"{best.name}, the best line,")
        yield Finding(found.gain > 0 and _sure(case, found.test), told + _luck(case, found))


NO_LINE = "It was not compared with a linear map. Add ridge to 'baselines'."
NO_OTHER_LINE = "It is a linear map itself, and there is no other to compare it with."


def _best_line(case: Case) -> Entry | None:
    """The line with the lowest score beside the candidate."""
    scored = [line for line in case.lines if math.isfinite(case.score(line))]
    return min(scored, key=case.score, default=None)


def _champion(case: Case) -> Iterator[Finding]:
    """The one that users know goes only for one that is surely and noticeably better."""
    if case.champion is None:
        return
    found, margin = case.duel(case.candidate, case.champion), case.policy.margin
    told = _told(case, found, f"{case.champion.name}, the champion,")
    if 0 < found.gain < margin:
        told += f" At least {margin:.1%} is asked."
    passed = found.gain > 0 and found.gain >= margin and _sure(case, found.test)
    yield Finding(passed, told + _luck(case, found))


def _coverage(case: Case) -> Iterator[Finding]:
    """People act on the interval: it must cover about what it says."""
    nominal, (below, above) = case.backtest.coverage, case.policy.coverage_band
    share = total(case.candidate.windows, "coverage", measures(nominal)["coverage"])
    low, high = max(0.0, nominal - below), min(1.0, nominal + above)
    known = f"{share:.1%}" if math.isfinite(share) else "An unknown share"
    asked = f"{low:.0%} to {high:.0%} are asked"
    told = f"{known} of the actuals lie in its {nominal:.0%} interval; {asked}."
    yield Finding(low <= round(share, 9) <= high, told)


def _slices(case: Case) -> Iterator[Finding]:
    """A better mean must not hide that some lost what they had."""
    if case.champion is None:
        return
    for part in slices(case, case.champion):
        told = (
            f"{part.called} it has {_number(part.score)}, the champion {_number(part.champion)}; "
            f"{case.policy.slice_loss:.0%} more is allowed."
        )
        yield Finding(not part.lost, told)


RULES: Mapping[str, Rule] = {
    "leak": _leak,
    "canary": _canary,
    "naive": _naive,
    "line": _line,
    "champion": _champion,
    "coverage": _coverage,
    "slices": _slices,
}


# --- sentences ------------------------------------------------------------------------------


def _told(case: Case, found: Duel, rival: str) -> str:
    """Both scores and what lies between them."""
    scores = f"By {case.metric} it has {_number(found.score)}, {rival} {_number(found.rival)}"
    if not math.isfinite(found.score) or not math.isfinite(found.rival):
        return f"{scores}: that is no comparison."
    if found.gain == 0:
        return f"{scores}: the same."
    share = f"{abs(found.gain):.1%} " if math.isfinite(found.gain) else ""
    return f"{scores}: {share}{'better' if found.gain > 0 else 'worse'}."


def _sure(case: Case, test: DieboldMariano) -> bool:
    """More than luck, as far as these cutoffs can tell."""
    return test.enough and test.p < case.policy.significance


def _luck(case: Case, found: Duel) -> str:
    """How likely a gain like this is where there is none; nothing for a loss."""
    test = found.test
    if not found.gain > 0:
        return ""
    if not test.enough:
        return (
            f" {test.cutoffs} cutoffs, {test.apart} of them without overlap, are too few to tell "
            f"skill from luck: give the test part rows for {LEAST_APART}."
        )
    relation = "below" if test.p < case.policy.significance else "not below"
    return (
        f" Equal models differ this much by chance with probability {test.p:.2g}, {relation} "
        f"{case.policy.significance:g} (Diebold-Mariano, {test.cutoffs} cutoffs)."
    )


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "no score"
