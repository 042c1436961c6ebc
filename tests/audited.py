"""What the interpreter does while a test looks, as its audit events tell (PEP 578)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Seen:
    """The events, with their arguments, in the order in which they happened."""

    events: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def of(self, *names: str) -> list[tuple[Any, ...]]:
        """The arguments of all events of these names."""
        return [arguments for name, arguments in self.events if name in names]


_LOOKING: list[Seen] = []
_INSTALLED: list[bool] = []
WATCHED = frozenset({
    "open", "import", "pickle.find_class", "socket.connect", "socket.getaddrinfo",
    "subprocess.Popen", "os.system", "exec", "os.remove", "os.rename", "os.mkdir", "os.link",
    "os.symlink",
})  # fmt: skip


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in WATCHED:
        for seen in _LOOKING:
            seen.events.append((event, arguments))


@contextmanager
def audited() -> Iterator[Seen]:
    """Everything of `WATCHED` that this process does, in any of its threads."""
    if not _INSTALLED:  # a hook stays for ever
        sys.addaudithook(_hook)
        _INSTALLED.append(True)
    seen = Seen()
    _LOOKING.append(seen)
    try:
        yield seen
    finally:
        _LOOKING.remove(seen)
