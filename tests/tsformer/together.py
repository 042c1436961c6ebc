"""Processes of one gloo group that are kept for all tests of a module, and call what they are told."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed


@dataclass(frozen=True)
class Together:
    """`together(function, ...)` is called by every rank; gives what each returned or raised."""

    pipes: list[Connection]

    def __call__(self, function: Callable[..., Any], *given: Any, **named: Any) -> list[Any]:
        for pipe in self.pipes:
            pipe.send((function, given, named))
        return [pipe.recv() for pipe in self.pipes]


@contextmanager
def together(size: int, folder: Path) -> Iterator[Together]:
    """`size` processes that share a group, which they find by a file in `folder`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pytest", "tsformer.train"])  # imported once for all
    ends = [context.Pipe() for _ in range(size)]
    address = f"file://{folder / 'group'}"
    processes = [
        context.Process(target=_serve, args=(rank, size, address, end[1]), daemon=True)
        for rank, end in enumerate(ends)
    ]
    for process in processes:
        process.start()
    for _, theirs in ends:
        theirs.close()
    try:
        yield Together([ours for ours, _ in ends])
    finally:
        for ours, _ in ends:
            ours.close()
        for process in processes:
            process.kill()
            process.join()


def _serve(rank: int, size: int, address: str, pipe: Connection) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    while True:
        try:
            function, given, named = pipe.recv()
        except EOFError:
            return
        try:
            answer = function(*given, **named)
        except Exception as error:
            answer = error
        pipe.send(answer)
