"""What the gate says of twenty planted candidates, and how often its test is fooled.

    python -m benchmarks.gate

Writes benchmarks/results/gate-DATE.json and the two tables of docs/gate.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.machine import keep, machine
from benchmarks.planted import rows
from pipelines.diebold_mariano import diebold_mariano, lag_for

PAGE = Path(__file__).parent.parent / "docs" / "gate.md"
ROUNDS = 4_000
# Cutoffs, how many later ones a horizon reaches over, and what an error keeps of the one before.
CASES = (
    (50, 0, 0.0), (50, 0, 0.3), (20, 3, 0.0), (37, 6, 0.0), (69, 11, 0.5), (117, 23, 0.0),
    (500, 95, 0.0),
)  # fmt: skip
FAR = 4.0  # a lasting difference, in standard errors of the mean


def fooled(cutoffs: int, overlap: int, persistence: float, *, seed: int = 0) -> Mapping[str, Any]:
    """How often the test at 5 % finds a difference: where there is none, and where there is one.

    Losses are means over horizons that overlap.
    """
    horizon, random = overlap + 1, np.random.default_rng(seed)
    errors = random.normal(size=(ROUNDS, cutoffs + horizon + 50))
    for step in range(1, errors.shape[1]):
        errors[:, step] += persistence * errors[:, step - 1]
    windows = np.lib.stride_tricks.sliding_window_view(errors[:, 51:], horizon, axis=1)
    means = windows.mean(-1)  # [round, cutoff]
    lag = lag_for(cutoffs, overlap=overlap)
    shift = FAR * means.mean(1).std()

    def found(values: np.ndarray) -> float:
        tests = (diebold_mariano(row, overlap=overlap, lag=lag) for row in values)
        return float(np.mean([test.p < 0.05 for test in tests]))

    return {
        "cutoffs": cutoffs,
        "overlap": overlap,
        "persistence": persistence,
        "lag": lag,
        "found where there is none": found(means),
        "found where there is one": found(means - shift),
    }


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table."""
    head = [*table[0]]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row.values()))} |" for row in table)])


def write(page: Path, tables: Mapping[str, str]) -> None:
    """Puts each table between its marks in `page`."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.escape(marks[0]) + ".*?" + re.escape(marks[1])
        text, count = re.subn(pattern, f"{marks[0]}\n{table}\n{marks[1]}", text, flags=re.DOTALL)
        assert count == 1, f"{page} has {count} places for {name}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Measures, keeps and writes."""
    with TemporaryDirectory() as folder:
        planted = rows(Path(folder))
    sizes = [fooled(*case) for case in CASES]
    keep("gate", {"machine": machine("numpy", "polars"), "planted": planted, "sizes": sizes})
    shown = [{k: f"{v:.1%}" if k.startswith("found") else v for k, v in s.items()} for s in sizes]
    write(PAGE, {"planted": markdown(planted), "sizes": markdown(shown)})
    print(markdown(planted), markdown(shown), sep="\n\n")


if __name__ == "__main__":
    main()
