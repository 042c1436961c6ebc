"""docs/scenarios.md names tests that are there and that tell their figure."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = re.findall(
    r"^\| ([LFBSD]\d+) \|.*\| (\*long\* )?`(tests/\S+\.py)::(\w+)` \|$",
    (ROOT / "docs" / "scenarios.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize(("code", "long", "file", "name"), ROWS)
def test_a_scenario_is_tested_and_its_figure_told(
    code: str, long: str, file: str, name: str
) -> None:
    """Whoever is promised a bound can look up how it was shown, and run it."""
    module = ast.parse((ROOT / file).read_text())
    (test,) = [each for each in module.body if getattr(each, "name", None) == name]
    assert isinstance(test, ast.FunctionDef)
    assert f"record_property({code!r}".replace("'", '"') in ast.unparse(test).replace("'", '"')
    marks = [ast.unparse(each) for each in test.decorator_list]
    assert ("pytest.mark.faults" in marks) is bool(long)
