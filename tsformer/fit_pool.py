"""Processes that fit one series at a time, kept between calls: each can be stopped, none is shared.

Plain child processes over pipes instead of a pool of `multiprocessing`: they can be started from
any process (workers of Ray, daemons), need no guarded main module, and one that is stuck is ended
by itself. A process ends with the one that started it, whose pipe closes.
"""

from __future__ import annotations

import atexit
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsformer import series_fit
from tsformer.errors import UnavailableError
from tsformer.series_fit import Floats

START_SECONDS = 120.0  # importing statsmodels takes one to three seconds, on a busy disk many more
# A fit stops by itself after its seconds of processor time. One that does not, since it is stuck
# in compiled code or gets no processor, is ended after this much time on the clock.
PATIENCE = 3.0
PATIENCE_SECONDS = 5.0

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Job:
    """A series to be fitted; see `tsformer.series_fit.quantiles`. `seconds` are its time limit."""

    kind: str
    values: Floats
    options: Mapping[str, Any]
    horizon: int
    levels: tuple[float, ...]
    seconds: float
    exogenous: Floats | None = None


Answer = Floats | str  # the forecast [horizon, level], or the reason why there is none


def answers(jobs: Sequence[Job], *, at_once: int) -> list[Answer]:
    """What came of each of `jobs`, in their order; `at_once` processes work on them.

    The result does not depend on their number. Raises UnavailableError if none can be started.
    """
    threads = ThreadPoolExecutor(max_workers=max(1, min(at_once, len(jobs))))
    try:
        return [*threads.map(_answer, jobs)]
    finally:
        threads.shutdown(cancel_futures=True)


class Fitter:
    """One process that fits."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(series_fit.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.asked, self.answered = self.process.stdin, self.process.stdout
        try:
            if not self._answers_within(START_SECONDS):
                raise TimeoutError
            series_fit.receive(self.answered)
        except (OSError, ValueError):
            self.end()
            raise UnavailableError(
                f"A process that fits did not start within {START_SECONDS:g} s. Try "
                f"`{sys.executable} {series_fit.__file__}` and see what it says."
            ) from None

    def answer(self, job: Job) -> Answer:
        """What comes of `job`; a process that does not answer in time is ended."""
        asked = {
            "kind": job.kind,
            "options": job.options,
            "horizon": job.horizon,
            "levels": job.levels,
            "seconds": job.seconds,
        }
        arrays = [array for array in (job.values, job.exogenous) if array is not None]
        try:
            series_fit.send(self.asked, asked, *arrays)
            if not self._answers_within(PATIENCE * job.seconds + PATIENCE_SECONDS):
                self.end()
                return f"not fitted within {job.seconds:g} s, and its process was ended"
            head, (forecast,) = series_fit.receive(self.answered)
        except (OSError, ValueError):  # the pipe broke, or the reply did
            self.end()
            return "its process died"
        reason: str = head["reason"]
        return reason or forecast

    def end(self) -> None:
        """Ends the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.answered.close()
        with suppress(BrokenPipeError):  # something was still to be sent
            self.asked.close()

    @property
    def ended(self) -> bool:
        return self.process.returncode is not None

    def _answers_within(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.answered], [], [], seconds)
        return bool(ready)


IDLE: dict[int, list[Fitter]] = {}  # by the process that started them: a fork shares no pipe


def _answer(job: Job) -> Answer:
    idle = IDLE.setdefault(os.getpid(), [])
    try:
        fitter = idle.pop()
    except IndexError:
        fitter = Fitter()
    try:
        return fitter.answer(job)
    finally:
        if not fitter.ended:
            idle.append(fitter)


@atexit.register
def end_all() -> None:
    """Ends the processes that this one started."""
    for fitter in IDLE.pop(os.getpid(), []):
        fitter.end()
