"""How many series a second a model forecasts on a device, in process and through the service.

    python -m benchmarks.throughput [base] [itransformer] [--device auto] [--precision float32 bfloat16]

`base` is PatchTST 512 -> 96 with the paper's settings for its larger sets, `itransformer` the
paper's with seven variates; both at random weights, on which speed does not depend. In process it is
`Runtime.predict` at the best size of batch, from tensors on the CPU to tensors on the CPU; through the
service one client who sends a thousand series in Arrow. `share` is the arithmetic of the matrix
products of a forward pass, over that of the largest product of two square matrices which was tried in
the same type on the same device, between the rounds. The result goes to
benchmarks/results/throughput-DATE.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import torch
import yaml
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import serving
from benchmarks.machine import keep, machine
from pipelines.forecaster import Forecaster
from pipelines.home import Home, configure
from pipelines.recipe import Recipe
from serving.frames import pack
from serving.samples import sample, whole
from tsformer.batch import Batch, Shape
from tsformer.model import Model, ModelSpec
from tsformer.models.itransformer import ITransformerSpec
from tsformer.runtime import Runtime, pick_device

CONTEXT, HORIZON, SERIES = serving.CONTEXT, serving.HORIZON, 1_000
# Name: the specification, and the series of a window.
MODELS: dict[str, tuple[ModelSpec, int]] = {
    "base": (serving.SPECS["base"], 1),
    "itransformer": (ITransformerSpec(), 7),
}
ROWS = {"cpu": (64, 256, 1_024), "cuda": (1_024, 4_096, 16_384)}  # windows x variates of a batch
SIDES = {"cpu": (1_024, 2_048), "cuda": (4_096, 8_192, 16_384)}  # of square matrices


def model_of(name: str) -> Model:
    """The model called `name`."""
    torch.manual_seed(0)
    spec, variates = MODELS[name]
    return spec.build(Shape(CONTEXT, HORIZON, variates=variates)).eval()


def rate(work: Callable[[], object], device: torch.device, *, seconds: float) -> float:
    """How often a second `work` is done, once it is warm."""
    for _ in range(3):
        work()
    _wait(device)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        work()
        _wait(device)
        done += 1
    return done / (time.perf_counter() - begun)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations(model: Model, batch: Batch) -> float:
    """Multiplications and additions of the matrix products in a forward pass, of each series."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # the fused kernels are not counted
        Runtime(model, device="cpu").predict(batch)
    return counter.get_total_flops() / (len(batch) * model.shape.variates)


def fastest_product(device: torch.device, precision: torch.dtype, *, seconds: float) -> float:
    """Operations a second of the product of two square matrices, at the best of SIDES."""
    best = 0.0
    for side in SIDES[device.type]:
        left, right = (torch.randn(side, side, device=device, dtype=precision) for _ in range(2))
        out = torch.empty_like(left)

        def multiply(left: Tensor = left, right: Tensor = right, out: Tensor = out) -> None:
            torch.mm(left, right, out=out)

        best = max(best, 2 * side**3 * rate(multiply, device, seconds=seconds))
    return best


def in_process(name: str, *, device: str, precision: str, seconds: float) -> dict[str, float]:
    """Series a second at the best size of batch, and the share of the device's arithmetic."""
    model, best = model_of(name), {"per_second": 0.0}
    each = operations(model, whole(sample(model.shape, windows=4)))
    runtime = Runtime(model, device=device, precision=precision)
    for rows in ROWS[runtime.device.type]:
        runtime.micro_batch = rows
        windows = rows // model.shape.variates
        batch = whole(sample(model.shape, windows=windows))

        def predict(batch: Batch = batch) -> Tensor:
            return runtime.predict(batch)

        a_second = rate(predict, runtime.device, seconds=seconds)
        if (found := windows * model.shape.variates * a_second) > best["per_second"]:
            best = {"per_second": found, "windows": windows}
    peak = fastest_product(runtime.device, runtime.precision, seconds=seconds)
    return {
        **best,
        "operations_per_series": each,
        "fastest_product_per_second": peak,
        "share": best["per_second"] * each / peak,
    }


def ask(name: str) -> serving.Ask:
    """A request for SERIES series in Arrow, grouped as the model reads them."""
    variates = MODELS[name][1]
    groups = SERIES // variates
    data = pl.DataFrame(serving.rows(groups * variates))
    frames = {"data": data.with_columns(pl.col("ds").str.to_datetime())}
    if variates > 1:
        ids = data["unique_id"].unique(maintain_order=True)
        members = [f"g{number // variates}" for number in range(len(ids))]
        frames["static"] = pl.DataFrame({"unique_id": ids, "group_id": members})
    content = pack({"freq": "h"}, frames)
    return serving.Ask("/v1/forecasts", content, serving.MEDIA, groups * variates)


def through_service(name: str, *, device: str, precision: str, seconds: float) -> dict[str, float]:
    """Series a second of one client of the service, started as `tsformer serve` starts it."""
    recipe = Recipe(frequency="h", season=24, context=CONTEXT, min_context=96, horizon=HORIZON)
    forecaster = Forecaster(model_of(name), spec=MODELS[name][0], recipe=recipe, device="cpu")
    models = {"default": serving.NAME, "device": device, "precision": precision}
    with TemporaryDirectory(prefix="tsf-") as scratch:
        configure(os.environ, role="training")
        home = Home.of({"TSFORMER_HOME": f"{scratch}/home"})
        serving.register(home, forecaster, Path(scratch) / "artifact")
        file, port = Path(scratch) / "serve.yaml", serving.free_port()
        file.write_text(yaml.safe_dump({"models": models}))
        command = ["-m", "serving", "--port", str(port), "--config", str(file)]
        with serving.running(command, port, {"TSFORMER_HOME": str(home.folder)}):
            asked = ask(name)
            for span in (seconds / 2, seconds):  # the first warms
                found = asyncio.run(serving.load(port, asked, clients=1, seconds=span))
    return {"per_second": asked.series * found["per_second"], "p50_ms": found["p50_ms"]}


def measure(name: str, *, device: str, precision: str, rounds: int) -> dict[str, Any]:
    """The medians of `rounds` in process, and one run of the service."""
    found = [
        in_process(name, device=device, precision=precision, seconds=1.0) for _ in range(rounds)
    ]
    middle = {key: median(row[key] for row in found) for key in found[0]}
    served = through_service(name, device=device, precision=precision, seconds=5.0)
    served["of_in_process"] = served["per_second"] / middle["per_second"]
    return {"in_process": middle, "through_service": served}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=[*MODELS], help=f"of {', '.join(MODELS)}")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    if unknown := set(given.models) - set(MODELS):
        parser.error(f"unknown model: {', '.join(sorted(unknown))}")
    device = pick_device(given.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # as a replica has by default
    result: dict[str, Any] = {"machine": machine("ray", device=device)}
    for name in given.models:
        for precision in given.precision:
            found = measure(name, device=device.type, precision=precision, rounds=given.rounds)
            result[f"{name} {precision}"] = found
            print(name, precision, json.dumps(found, indent=1), flush=True)
    print(keep("throughput", result))


if __name__ == "__main__":
    main()
