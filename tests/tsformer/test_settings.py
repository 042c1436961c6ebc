"""Settings read from mappings: what a list may hold is checked like everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tsformer.errors import ConfigError
from tsformer.settings import from_mapping, to_mapping


@dataclass(frozen=True, slots=True)
class Some:
    parts: tuple[float, ...] = (0.5, 0.5)
    rows: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    rate: float = 1.0


@pytest.mark.parametrize(
    ("mapping", "came"),
    [
        ({"parts": [0.5, "a", 0.2]}, "each entry of 'parts' must be a number, got 'a'"),
        ({"parts": ["1e-3"]}, "1.0e-3"),
        ({"parts": [True]}, "got True"),
        ({"parts": [None]}, "got None"),
        ({"parts": [[0.5]]}, r"got \[0.5\]"),
        ({"parts": 0.5}, "'parts' must be a list, got 0.5"),
        ({"parts": "0.5"}, "'parts' must be a list"),
        ({"parts": None}, "'parts' must be a list"),
        ({"rows": ["a"]}, "each entry of 'rows' must be a whole number, got 'a'"),
        ({"rows": [1.5]}, "whole number, got 1.5"),
        ({"names": [3]}, "each entry of 'names' must be text, got 3"),
    ],
)
def test_what_a_list_may_not_hold_is_refused(mapping: dict[str, Any], came: str) -> None:
    """It would fail later, in arithmetic that knows neither file nor key."""
    with pytest.raises(ConfigError, match=came) as raised:
        from_mapping(Some, mapping, where="mine.yaml: data")
    assert str(raised.value).startswith("mine.yaml: data: ")


def test_whole_numbers_become_numbers_in_lists_too() -> None:
    """`[1, 2]` and `[1.0, 2.0]` are one setting, with one digest."""
    whole = from_mapping(Some, {"parts": [1, 2], "rate": 3}, where="x")
    assert [type(part) for part in whole.parts] == [float, float]
    assert to_mapping(whole) == {"parts": [1.0, 2.0], "rows": [], "names": [], "rate": 3.0}
