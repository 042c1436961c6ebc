"""Processes that fit one series at a time, kept between calls: each can be stopped, none is shared.

Plain child processes over pipes instead of a pool of `multiprocessing`: they can be started from
any process (workers of Ray, daemons), need no guarded main module, and one that is stuck is ended
by itself. A process ends with the one that started it, whose pipe closes.
"""

from __future__ import annotations

import atexit
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any

from tsformer import series_fit
from tsformer.errors import UnavailableError
from tsformer.series_fit import Floats

START_SECONDS = 120.0  # importing statsmodels takes one to three seconds, on a busy disk many more
# A fit stops by itself after its seconds of processor time. One that does not, since it is stuck
# in compiled code or gets no processor, is ended after this much time on the clock.
PATIENCE = 3.0
PATIENCE_SECONDS = 5.0

# Processes at once, and so those kept, however many callers there are.
AT_MOST = os.cpu_count() or 1

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


DIED = "its process died"
HALTED = "nobody waits for it any more"
Answer = Floats | str  # the forecast [horizon, level], or the reason why there is none


def answers(jobs: Sequence[Job], *, at_once: int) -> list[Answer]:
    """What came of each of `jobs`, in their order; up to `at_once` processes work on them.

    The result does not depend on their number, and all callers together have AT_MOST. Raises
    UnavailableError if none can be started. Where the caller heeds a `Halt`, so do the fits.
    """
    pool = own_pool()
    halt = HEEDED.get() or Halt()
    threads = ThreadPoolExecutor(max_workers=max(1, min(at_once, len(jobs))))
    try:
        return [*threads.map(partial(pool.answer, halt=halt), jobs)]
    finally:
        threads.shutdown(cancel_futures=True)


class Fitter:
    """One process that fits."""

    def __init__(self) -> None:
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(Path(series_fit.__file__))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | ONE_THREAD,
            )
        except OSError as error:
            raise UnavailableError(
                f"A process that fits cannot be started: {error}. It needs memory, open files and "
                f"{sys.executable}."
            ) from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.asked, self.answered = self.process.stdin, self.process.stdout
        try:
            if not self._answers_within(START_SECONDS):
                raise TimeoutError
            series_fit.receive(self.answered)
        except (OSError, ValueError) as error:
            self.end()
            late = isinstance(error, TimeoutError)
            what = f"did not start within {START_SECONDS:g} s" if late else "ended as it started"
            raise UnavailableError(
                f"A process that fits {what}. Try `{sys.executable} {series_fit.__file__}` and see "
                "what it says."
            ) from None

    def answer(self, job: Job) -> Answer | None:
        """What comes of `job`, None where the process was dead before it had read all of it.

        A process that does not answer in time is ended.
        """
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
        except BrokenPipeError:
            self.end()
            return None
        try:
            if not self._answers_within(PATIENCE * job.seconds + PATIENCE_SECONDS):
                self.end()
                return f"not fitted within {job.seconds:g} s, and its process was ended"
            head, (forecast,) = series_fit.receive(self.answered)
        except (OSError, ValueError):  # the pipe broke, or the reply did
            self.end()
            return DIED
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
        return self.process.poll() is not None

    def _answers_within(self, seconds: float) -> bool:
        # a `select` refuses the files above 1,024, and an epoll would itself be one more
        with selectors.PollSelector() as selector:
            selector.register(self.answered, selectors.EVENT_READ)
            return bool(selector.select(seconds))


class Halt:
    """Ends the fits of one caller from another thread: those under way and those to come.

    A process that is at one is killed, since compiled code hears nothing else.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self.over = False
        self.killed = set[Fitter]()
        self._working = set[Fitter]()

    def __call__(self) -> None:
        with self._lock:
            self.over = True
            self.killed |= self._working
            for fitter in self._working:
                fitter.process.kill()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """The fits that this thread asks for while the block is open can be halted."""
        token = HEEDED.set(self)
        try:
            yield
        finally:
            HEEDED.reset(token)

    def answer(self, fitter: Fitter, job: Job) -> Answer | None:
        """What `fitter` makes of `job`; a fit that was halted is not begun."""
        with self._lock:
            if self.over:
                return HALTED
            self._working.add(fitter)
        try:
            return fitter.answer(job)
        finally:
            with self._lock:
                self._working.remove(fitter)


HEEDED: ContextVar[Halt | None] = ContextVar("HEEDED", default=None)


class Pool:
    """The processes of this one: at most AT_MOST, started as they are needed and then kept.

    By `niceness` they leave the processor to this one, and to whoever else wants it.
    """

    def __init__(self) -> None:
        self.niceness = 0
        self.idle: list[Fitter] = []
        self.places = BoundedSemaphore(AT_MOST)

    def answer(self, job: Job, *, halt: Halt) -> Answer:
        """What comes of `job`; one that no process has read is handed to another, once."""
        with self.places:
            for _ in range(2):
                if halt.over:
                    return HALTED
                fitter = self._take()
                answer = halt.answer(fitter, job)
                self._put_back(fitter, killed=fitter in halt.killed)
                if answer is not None:
                    return answer
        return DIED

    def _put_back(self, fitter: Fitter, *, killed: bool) -> None:
        if killed:  # perhaps just after it had answered
            fitter.end()
        elif not fitter.ended:
            self.idle.append(fitter)

    def _take(self) -> Fitter:
        """One that lives: an idle one may have died since, say for want of memory."""
        with suppress(IndexError):  # none is left: other threads take of them too
            while True:
                fitter = self.idle.pop()
                if not fitter.ended:
                    return fitter
                fitter.end()
        fitter = Fitter()
        if self.niceness:
            niceness = os.getpriority(os.PRIO_PROCESS, 0) + self.niceness
            with suppress(ProcessLookupError):  # it died at once, which its first job tells
                os.setpriority(os.PRIO_PROCESS, fitter.process.pid, niceness)
        return fitter


POOLS: dict[int, Pool] = {}  # by the process that started them: a fork shares no pipe and no lock


def own_pool() -> Pool:
    """The pool of this process."""
    return POOLS.setdefault(os.getpid(), Pool())


@atexit.register
def end_all() -> None:
    """Ends the processes that this one started."""
    pool = POOLS.pop(os.getpid(), None)
    for fitter in pool.idle if pool else ():
        fitter.end()
