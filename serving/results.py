"""What came of jobs: files of JSON, as answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from fastapi import Request, Response
from starlette.responses import StreamingResponse

from pipelines.jobs import Job, Jobs
from serving import arrow_results, body
from serving.accept import ARROW, JSON
from serving.limits import MIB
from serving.problems import Problem
from serving.service import service_of

AT_ONCE = 32 * MIB  # of a result: what a body may have
CONVERTING = ThreadPoolExecutor(1, thread_name_prefix="results")


def jobs_of(request: Request) -> Jobs:
    """The jobs of the service."""
    registry = service_of(request).library.shelf.registry
    return Jobs.of(registry.home, registry.store)


async def kept_result(request: Request, job: Job) -> Path:
    """The file of a job that succeeded; `result-expired` where its time is over."""
    jobs, days = jobs_of(request), service_of(request).settings.limits.result_days
    path = await asyncio.to_thread(jobs.result, job.run.id)
    if path is None or await asyncio.to_thread(jobs.is_over, job, days=days):
        raise Problem("result-expired", f"Results are kept for {days} days.")
    return path


def forms_of(request: Request, kind: str, path: Path) -> tuple[str, ...]:
    """The forms of the result of a job of a kind; one that is very large is told in JSON alone."""
    most = min(service_of(request).settings.limits.body_arrow_mib * MIB, _room(request))
    as_table = kind in arrow_results.KINDS and path.stat().st_size <= most
    return (JSON, ARROW) if as_table else (JSON,)


def _room(request: Request) -> int:
    """How many bytes this ingress may hold at all."""
    return service_of(request).settings.limits.bodies_in_flight_mib * MIB


async def answer_of(
    request: Request, path: Path, *, before: bytes = b"", after: bytes = b""
) -> Response:
    """A file of JSON as an answer, between what stands before and after it.

    One that is small is held and counted, and compressed on its way; others go as they are read.
    """
    file = await asyncio.to_thread(path.open, "rb")  # clearing may take its name away from now on
    request.state.until_answered.callback(file.close)
    size = os.fstat(file.fileno()).st_size
    if size <= min(AT_ONCE, _room(request)):
        body.hold(request, size)
        return Response(before + await asyncio.to_thread(file.read) + after, media_type=JSON)
    headers = {"Content-Length": str(len(before) + size + len(after))}
    return StreamingResponse(_parts(file, before, after), headers=headers, media_type=JSON)


async def _parts(file: BinaryIO, before: bytes, after: bytes) -> AsyncIterator[bytes]:
    if before:
        yield before
    while part := await asyncio.to_thread(file.read, MIB):
        yield part
    if after:
        yield after


async def in_arrow(request: Request, kind: str, path: Path) -> Response:
    """A file of JSON as Arrow, made one after the other: numbers as objects take 12 times the room."""
    body.hold(request, path.stat().st_size)
    loop = asyncio.get_running_loop()
    content = await loop.run_in_executor(CONVERTING, arrow_results.of_file, kind, path)
    return Response(content, media_type=ARROW)
