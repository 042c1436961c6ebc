"""How long a forward pass takes by torch and by ONNX Runtime, in turns on one thread.

    python -m benchmarks.inference [KIND ...] [--rounds 15] [--keep]

`plain` is torch as it comes, `torch` a replica's: what a pass frees is kept (`tsformer.memory`);
`onnx` is that with ONNX Runtime. Each is a process of its own, and its model runs in a thread, as in
a replica. Times are processor time, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from threading import Thread
from time import thread_time
from typing import Any

import torch

from benchmarks.machine import keep, machine
from serving.graph_export import export
from serving.graph_model import graph_model
from serving.samples import distance, sample, whole
from tsformer.batch import Shape
from tsformer.memory import keep_some_freed_memory
from tsformer.model import Model, ModelSpec
from tsformer.models import build
from tsformer.models.itransformer import ITransformerSpec
from tsformer.models.linear import NLinearSpec
from tsformer.models.patchtst import PatchTSTSpec
from tsformer.models.samformer import SAMformerSpec
from tsformer.models.tft import TFTSpec
from tsformer.runtime import Runtime

CONTENDERS = ("plain", "torch", "onnx")
BATCHES = (1, 8, 64)
CONTEXT, HORIZON = 512, 96
# Kind: the specification, and variates of a window.
KINDS: dict[str, tuple[ModelSpec, int]] = {
    "small": (PatchTSTSpec(), 1),
    "base": (PatchTSTSpec(width=128, heads=16, feedforward=256), 1),
    "itransformer": (ITransformerSpec(), 7),
    "samformer": (SAMformerSpec(), 7),
    "tft": (TFTSpec(), 1),
    "nlinear": (NLinearSpec(), 1),
}


def model_of(kind: str) -> Model:
    """The model called `kind`, the same in every process."""
    torch.manual_seed(0)
    spec, variates = KINDS[kind]
    return build(spec, Shape(CONTEXT, HORIZON, variates=variates)).eval()


def contend(kind: str, contender: str, graph: Path) -> None:
    """Answers each line of standard input with the seconds that each size of batch took."""
    torch.set_num_threads(1)
    if contender != "plain":
        keep_some_freed_memory()
    model = model_of(kind)
    if contender == "onnx":
        model = graph_model(model, graph.read_bytes(), threads=1)
    runtime = Runtime(model, device="cpu")
    batches = [whole(sample(model.shape, windows=windows)) for windows in BATCHES]
    for _ in sys.stdin:
        seconds = []
        for batch in batches:
            begun = thread_time()
            runtime.predict(batch)
            seconds.append(thread_time() - begun)
        print(json.dumps(seconds), flush=True)


def measure(kind: str, *, rounds: int, folder: Path) -> dict[str, Any]:
    """Milliseconds by contender and size of batch, and what the graph costs."""
    model, file = model_of(kind), folder / kind
    begun = thread_time()
    graph = export(model)
    derived_s = thread_time() - begun
    file.write_bytes(graph)
    begun = thread_time()
    made = graph_model(model, graph, threads=1)
    loaded_s = thread_time() - begun
    batch = sample(model.shape, windows=23)
    with torch.inference_mode():
        apart = distance(model(batch), made(batch), batch).max().item()
    command = [sys.executable, "-m", "benchmarks.inference", kind, "--graph", str(file)]
    contenders = {
        name: subprocess.Popen(
            [*command, "--contender", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in CONTENDERS
    }
    seconds: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds + 3):
        for name, process in contenders.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("turn\n")
            process.stdin.flush()
            seconds[name].append(json.loads(process.stdout.readline()))
    for process in contenders.values():
        process.communicate()
    return {
        "derived_s": round(derived_s, 1),
        "loaded_s": round(loaded_s, 2),
        "graph_kib": round(len(graph) / 1024),
        "largest_difference_in_deviations": apart,
        "batches": {
            str(windows): {
                name: round(1000 * median(row[column] for row in rows[3:]), 3)
                for name, rows in seconds.items()
            }
            for column, windows in enumerate(BATCHES)
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep", action="store_true", help="write today's JSON")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.contender:
        contending = Thread(target=contend, args=(asked.kinds[0], asked.contender, asked.graph))
        contending.start()
        contending.join()
        return
    result: dict[str, Any] = {"machine": machine("onnxruntime"), "milliseconds": {}}
    with tempfile.TemporaryDirectory() as folder:
        for kind in asked.kinds or KINDS:
            measured = measure(kind, rounds=asked.rounds, folder=Path(folder))
            result["milliseconds"][kind] = measured
            print(kind, json.dumps(measured, indent=1), flush=True)
    if asked.keep:
        print(keep("inference", result))


if __name__ == "__main__":
    main()
