"""The body of /invocations in one of its forms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from pydantic_core import from_json

from serving.compat.invocations.frame_form import FrameForm
from serving.compat.invocations.frames import of_csv, of_records, of_split
from serving.compat.invocations.question import Form
from serving.compat.invocations.schemas import (
    FrameParameters,
    InputsBody,
    InstancesBody,
    RecordsBody,
    SplitBody,
)
from serving.compat.invocations.series_forms import InputsForm, InstancesForm
from serving.compat.loose import levels_of, words_of
from serving.limits import Limits
from serving.problems import Item, Problem
from serving.trees import tree_of, validated

TEXT: dict[str, Any] = {"type": "string"}
# The parameters of a CSV, in the query.
SAID: dict[str, tuple[str, dict[str, Any]]] = {
    "model": ("`name`, `name@alias` or `name/version`.", TEXT),
    "h": ("Steps.", {"type": "integer", "minimum": 1}),
    "freq": ("The step.", TEXT),
    "tz": ("IANA name.", TEXT),
    "quantiles": ("Levels, such as 0.1,0.5,0.9.", TEXT),
    "future": ("`trailing_null`: the last h rows of each series are its future.", TEXT),
    "columns": ("As in a request of /v1/forecasts, in JSON.", TEXT),
    "options": ("As in a request of /v1/forecasts, in JSON.", TEXT),
    "static": ("A table of attributes, in JSON.", TEXT),
}
IN_JSON = ("columns", "options", "static")
QUERY_CHARACTERS = 20_000


def read_json(sent: bytes, limits: Limits) -> Form:
    """The series in a body of JSON."""
    tree = tree_of(sent, limits, loose=True)
    names = [name for name in FORMS if isinstance(tree, dict) and name in tree]
    if len(names) != 1:
        message = f"Give an object with exactly one of {', '.join(FORMS)}."
        raise Problem("invalid-request", message, [Item(message, "")])
    return FORMS[names[0]](tree, limits)


def read_csv(sent: bytes, query: Sequence[tuple[str, str]], limits: Limits) -> Form:
    """The series in a CSV, and what the query wants of them."""
    given = validated(FrameParameters, _parameters(query))
    steps = given.freq is None or str(given.freq).isdigit()
    frame = of_csv(sent, given.columns, limits, steps=steps)
    return FrameForm.of(frame, given, limits, said="")


def refuse_query(query: Collection[str]) -> None:
    """Raises Problem where a body that has parameters of its own came with some in the query."""
    if misplaced := [name for name in SAID if name in query]:
        raise _invalid(
            f"{', '.join(misplaced)} in the query is for a CSV. Say it in the body: in params, "
            "configuration or parameters of JSON, or as in Arrow of /v1/forecasts."
        )


def _parameters(query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The query as members of `params`."""
    found: dict[str, Any] = {}
    for name, text in query:
        if name in found:
            raise _invalid("A parameter of the query is given twice.")
        found[name] = text
        if name == "h":
            if not (text.isascii() and text.isdigit() and len(text) < 10):
                raise _invalid("h must be a whole number from 1.")
            found[name] = int(text)
        if name == "quantiles":
            found[name] = levels_of(words_of(text), "")
        if name in IN_JSON:
            found[name] = _tree(name, text)
    return found


def _tree(name: str, text: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=True) if len(text) <= QUERY_CHARACTERS else None
    except ValueError:
        raise _invalid(f"{name} must be JSON.") from None


def _invalid(message: str) -> Problem:
    return Problem("invalid-request", "The query is not as specified.", [Item(message)])


def _split(tree: Any, limits: Limits) -> Form:
    given = validated(SplitBody, tree)
    frame = of_split(given.dataframe_split, limits)
    return FrameForm.of(frame, given.params, limits, said="/params")


def _records(tree: Any, limits: Limits) -> Form:
    given = validated(RecordsBody, tree)
    frame = of_records(given.dataframe_records, limits)
    return FrameForm.of(frame, given.params, limits, said="/params")


def _instances(tree: Any, limits: Limits) -> Form:
    _check_series(tree["instances"], "/instances", limits)
    return InstancesForm(validated(InstancesBody, tree))


def _inputs(tree: Any, limits: Limits) -> Form:
    _check_series(tree["inputs"], "/inputs", limits)
    return InputsForm(validated(InputsBody, tree))


def _check_series(series: Any, where: str, limits: Limits) -> None:
    """Before any of them is looked at."""
    if not isinstance(series, list) or not series:
        message = "Give an array of series."
        raise Problem("invalid-request", message, [Item(message, where)])
    targets = [one.get("target") for one in series if isinstance(one, dict)]
    values = sum(len(target) for target in targets if isinstance(target, list))
    limits.check_size(series=len(series), values=values)


FORMS: dict[str, Callable[[Any, Limits], Form]] = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "instances": _instances,
    "inputs": _inputs,
}
