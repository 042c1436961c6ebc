"""One attempt at a run, in a process of its own: claim, heartbeats, work, finish."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from pipelines.claims import Claim, Result
from pipelines.crashpoint import crashpoint
from pipelines.ledger import Ledger
from pipelines.run_events import EventKind
from tsformer.errors import TsformerError, UnavailableError

HEARTBEAT_S = 5.0
DEFECT = "This is a defect of tsformer"
AWAY = "Something that this needs does not answer"
GIVEN_UP = 3  # the status of a process that has lost its run


@dataclass(frozen=True, slots=True)
class Teller:
    """What a job says while it works; people follow it. Also a sign of life."""

    ledger: Ledger
    claim: Claim

    def log(self, text: str) -> None:
        """A sentence that stays interesting."""
        self._say("log", text)

    def progress(self, text: str) -> None:
        """How far it is; the next one takes its place."""
        self._say("progress", text)

    def _say(self, kind: EventKind, text: str) -> None:
        with suppress(UnavailableError):  # words may be lost; the work goes on as the lease lasts
            self.ledger.say(self.claim, kind, text)


Job = Callable[[Claim, Teller], Result]
Ending = Literal["nothing to do", "succeeded", "failed"]


class Heart:
    """Beats while the block is open. `lost` is called, once, when the run is another attempt's.

    Or when the store has not answered for as long as a lease lasts, which comes to the same.
    """

    def __init__(
        self,
        ledger: Ledger,
        claim: Claim,
        *,
        lost: Callable[[], None],
        every_s: float = HEARTBEAT_S,
    ) -> None:
        self._ledger, self._claim, self._lost, self._every_s = ledger, claim, lost, every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        held_until = time.monotonic() + self._ledger.lease_ms / 1000
        while not self._end.wait(self._every_s):
            try:
                begun = time.monotonic()
                if not self._ledger.beat(self._claim):
                    break
                held_until = begun + self._ledger.lease_ms / 1000
            except UnavailableError:
                if time.monotonic() > held_until:
                    break
        else:
            return
        self._lost()


def attempt(
    ledger: Ledger,
    run_id: str,
    number: int,
    job: Job,
    *,
    lost: Callable[[], None],
    every_s: float = HEARTBEAT_S,
) -> Ending:
    """Works on a run as its attempt `number`.

    An error that the project raises on purpose ends the run as failed, with its sentence; any
    other one too, and its traceback is among what the run has to say. Only a death without a word
    leads to another attempt.
    """
    claim = ledger.claim(run_id, number)
    if claim is None:
        return "nothing to do"
    with Heart(ledger, claim, lost=lost, every_s=every_s):
        crashpoint("work")
        result = _worked(job, claim, Teller(ledger, claim))
    # The heart is still: a beat after the end would take it for another attempt's doing.
    if isinstance(result, str):
        ledger.fail(claim, result)
        return "failed"
    crashpoint("finish")
    ledger.succeed(claim, result)
    crashpoint("finished")
    return "succeeded"


def leave() -> None:
    """What a process does whose run is another attempt's, or cancelled: nobody wants its work."""
    print("This run is over, or was given to another attempt.", file=sys.stderr, flush=True)
    os._exit(GIVEN_UP)


def _worked(job: Job, claim: Claim, teller: Teller) -> Result | str:
    """What came of the work, or why it failed."""
    try:
        return job(claim, teller)
    except UnavailableError as error:
        return f"{AWAY}: {error}"
    except TsformerError as error:
        return str(error)
    except Exception as error:
        teller.log("".join(traceback.format_exception(error)))
        return f"{DEFECT} ({type(error).__name__}: {error})."
