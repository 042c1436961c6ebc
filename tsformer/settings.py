"""Frozen dataclasses read from mappings: unknown keys and wrong types are refused by name.

The class is the only home of the defaults, and each default shows the type its key takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from tsformer.errors import ConfigError, unknown_key, unlike

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)
else:
    Settings = TypeVar("Settings")


EXAMPLES: dict[type, object] = {float: 0.0, int: 0, str: ""}


def from_mapping(cls: type[Settings], mapping: Mapping[str, Any], *, where: str) -> Settings:
    """The settings that `mapping` describes.

    Raises ConfigError with `where` (a file or section), the key and the nearest valid key.
    """
    if not isinstance(mapping, Mapping):
        raise unlike(f"{where}: expected keys and values", repr(mapping))
    known = {field.name: field for field in fields(cls)}
    members = _members(cls)
    for key, value in mapping.items():
        check_setting(cls, key, value, where=where)
    missing = [name for name, field in known.items() if name not in mapping and _required(field)]
    if missing:
        told = f"'{missing[0]}' is missing."
        raise ConfigError(f"{where}: {told}", told=told)
    return cls(
        **{
            key: tuple(_plain(entry, members[key]) for entry in value)
            if key in members
            else _plain(value, _default(known[key]))
            for key, value in mapping.items()
        }
    )


def example_of(cls: type[DataclassInstance], key: str, *, where: str) -> object:
    """The default of `key`, which shows its type; ConfigError with the nearest key for none."""
    known = {field.name: field for field in fields(cls)}
    if key not in known:
        raise unknown_key(str(key), [*known], where=where)
    return () if key in _members(cls) else _default(known[key])


def check_setting(cls: type[DataclassInstance], key: str, value: Any, *, where: str) -> None:
    """Raises ConfigError where `cls` has no `key`, or `value` is not of its type."""
    _check(value, example_of(cls, key, where=where), f"{where}: '{key}' must be")
    members = _members(cls)
    if key in members:
        for entry in value:
            _check(entry, members[key], f"{where}: each entry of '{key}' must be")


def to_mapping(settings: DataclassInstance) -> dict[str, Any]:
    """The settings as plain values, ready for JSON and YAML."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}


def _default(field: Field[Any]) -> object:
    return None if field.default is MISSING else field.default


@cache
def _members(cls: type) -> dict[str, object]:
    """An example of what each list holds: the annotation says it, since most are empty by default."""
    hints = {key: get_args(hint) for key, hint in get_type_hints(cls).items()}
    return {
        key: EXAMPLES[args[0]]
        for key, args in hints.items()
        if len(args) == 2 and args[1] is Ellipsis and args[0] in EXAMPLES
    }


def _check(value: object, example: object, demand: str) -> None:
    if not _fits(value, example):
        raise unlike(f"{demand} {_kind(example)}", repr(value), _exponent_hint(value, example))


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _fits(value: object, example: object) -> bool:
    if example is None or value is None:
        return example is None
    if isinstance(example, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(example, bool)
    if isinstance(example, float):
        return isinstance(value, int | float)
    if isinstance(example, tuple):
        return isinstance(value, list | tuple)
    return isinstance(value, type(example))


def _plain(value: Any, example: object) -> Any:
    if isinstance(example, float) and isinstance(value, int):
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _kind(example: object) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(type(example), "a list")


def _exponent_hint(value: object, example: object) -> str:
    """YAML 1.1 reads `1e-3` as text; a number needs the point."""
    if not isinstance(example, float) or not isinstance(value, str):
        return ""
    return " Write numbers with a point and without quotes: 1.0e-3."
