"""The YAML files of experiments: where they are, and what they hold as plain values."""

from __future__ import annotations

from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Any

import yaml

import configs
from tsformer.errors import ConfigError

MOST_BYTES, MOST_CELLS = 1_000_000, 100_000  # of a file, and of what its anchors stand for
MOST_DIGITS = 100  # of a number: 1:59:59:... counts in sixties, each of which costs more
MERGE = "tag:yaml.org,2002:merge"
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """Plain values without what costs PyYAML much before anyone can count (`<<`, endless numbers)
    and without keys that stand there twice."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen = set[tuple[str, str]]()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag == MERGE:
                raise ValueError(f"line {line}: write out the keys that << stands for")
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:  # the last one would count, and nobody would know
                    raise ValueError(f"line {line}: this key stands there already")
                seen.add((key.tag, key.value))
        super().flatten_mapping(node)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        if node.tag in NUMBERS and len(text) > MOST_DIGITS:
            line = node.start_mark.line + 1
            raise ValueError(f"line {line}: a number has at most {MOST_DIGITS} characters")
        return text


def config_path(name: str) -> Path:
    """A file of the shipped `configs/` by its relative name."""
    return Path(configs.__path__[0]) / name


def existing(path: Path) -> Path:
    """The file that `path` means: as it stands, or of the shipped ones."""
    for candidate in (path, config_path(str(path).removeprefix("configs/"))):
        if candidate.is_file():
            return candidate
    shipped = [f"configs/{f.parent.name}/{f.name}" for f in config_path("").glob("*/*.yaml")]
    beside = [str(file) for file in sorted(path.parent.glob("*.yaml"))]
    near = get_close_matches(str(path), [*beside, *shipped], n=3) or beside[:3]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"There is no file {path}.{hint} An experiment of your own is a YAML file (docs/guide.md); "
        "a shipped one is called like configs/flights/patchtst.yaml."
    )


def content(path: Path) -> dict[str, Any]:
    """What stands at the top of a YAML file; ConfigError names the file and the place."""
    found = parsed(path)
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path}: expected keys and values at the top, such as 'data: flights', "
            f"got {shown(found)}."
        )
    return found


def parsed(path: Path) -> Any:
    """The plain values in a YAML file; ConfigError names the file and the place, and quotes nothing."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path}: a file of settings has at most {MOST_BYTES:,} bytes.")
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not UTF-8. Save the file with that encoding."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: not YAML of plain values.") from None
    except (ValueError, RecursionError) as error:  # a day like 2024-02-31; brackets without end
        raise ConfigError(f"{path}: not YAML of plain values ({error}).") from None
    if _cells(found, {}) > MOST_CELLS:
        raise ConfigError(f"{path}: its anchors (&, *) stand for more than {MOST_CELLS:,} values.")
    return found


def _cells(value: object, known: dict[int, float]) -> float:
    """How many values `value` would be if it were written without anchors; of a circle infinitely many."""
    if not isinstance(value, dict | list | tuple):  # a tuple is one of !!pairs
        return 1
    if id(value) not in known:
        known[id(value)] = inf  # met again within itself
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_cells(each, known) for each in inner)
    return known[id(value)]


def shown(value: object) -> str:
    """`value` as an error quotes it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."
