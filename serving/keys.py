"""The keys as this process knows them: read from the store every second, off the event loop."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.keys import FORM, Key, Keys, all_keys, digest_of
from pipelines.store import Store
from tsformer.errors import TsformerError, UnavailableError

LOG = logging.getLogger(__name__)
POLL_S = 1.0  # the contract allows 5 s until a revoked key is refused
# How long the last answer of a store that is away still counts: a database that restarts must not
# end the service, and one that is gone must not leave revoked keys valid for ever.
STALE_S = 60.0
NOBODY = digest_of("nobody")


@dataclass(frozen=True, slots=True)
class _Read:
    keys: Mapping[str, Key]
    now_ms: int
    at: float

    @staticmethod
    def of(found: Keys, at: float) -> _Read:
        return _Read({key.prefix: key for key in found.keys}, found.now_ms, at)


class KeyRing:
    """Which keys open the service; by the clock of the database, however this one is set."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")  # its own: never queued
        self._last: _Read | None = None
        self._trouble = ""

    @property
    def known(self) -> bool:
        """Whether the store has told its keys lately."""
        return self._last is not None and time.monotonic() - self._last.at < STALE_S

    @property
    def empty(self) -> bool:
        """Whether no key was ever made; a revoked or expired one counts. UnavailableError if unknown."""
        return not self._read().keys

    def state(self, text: str) -> tuple[Key | None, str]:
        """The key that `text` is and `valid`, `expired` or `revoked`; None and `unknown` for none.

        Raises UnavailableError where the store has not told its keys lately.
        """
        read = self._read()
        form = FORM.fullmatch(text)
        key = read.keys.get(form[1]) if form else None
        # Compared in any case, so that time does not tell which prefixes there are.
        same = hmac.compare_digest(digest_of(text), NOBODY if key is None else key.sha256)
        if key is None or not same:
            return None, "unknown"
        return key, key.state(read.now_ms + int(1000 * (time.monotonic() - read.at)))

    def knows(self, text: str) -> bool:
        """Whether there is a key of this prefix; the secret is not looked at."""
        form = FORM.fullmatch(text)
        return form is not None and form[1] in self._read().keys

    async def watch(self) -> None:
        """Reads the keys again and again; until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._last = await loop.run_in_executor(self._thread, self._ask)
                self._trouble = ""
            except Exception as error:  # the next round may do; without one, no key ever changes
                self._note(error)
            await asyncio.sleep(POLL_S)

    def _ask(self) -> _Read:
        at = time.monotonic()  # before the question: the answer is at least as new
        return _Read.of(all_keys(self._store()), at)

    def _read(self) -> _Read:
        if self._last is None or not self.known:
            raise UnavailableError("The keys cannot be read: the store does not answer.")
        return self._last

    def _note(self, error: Exception) -> None:
        """Logs what is wrong with the store, once."""
        text = str(error) if isinstance(error, TsformerError) else type(error).__name__
        if text != self._trouble:
            LOG.warning("keys cannot be read: %s", text)
        self._trouble = text
