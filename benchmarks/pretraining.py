"""What masked pretraining is worth: PatchTST probed, fine-tuned and supervised, 512 -> 96.

    python -m benchmarks.pretraining [etth1] [--source weather] [--size small] [--seeds 1]
                                     [--masking patches] [--device auto]

An encoder is pretrained on the source (the data set itself unless told) and forecasts the data
set: by a linear probe, always beside the same probe on a random frozen encoder; by fine-tuning;
and beside both the same network trained from the start on as many epochs, and the ridge map.
From another source, zero-shot forecasts are shown too: fine-tuned on the source alone, and the
ridge map of the source as their control.

Scores are those of the papers: training deviations, all windows of the test part. The test part
decides nothing. The result goes to benchmarks/results/pretraining-DATE.json.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from benchmarks.machine import keep, machine
from pipelines.config_files import config_path
from pipelines.experiment import Experiment
from pipelines.material import Material
from pipelines.windows import PanelWindows
from tsformer.batch import Shape
from tsformer.masking import Masking, PatchMasking, RunMasking
from tsformer.model import Model
from tsformer.models.patchtst import SELF_SUPERVISED, PatchTSTSpec
from tsformer.models.ridge import RidgeSpec
from tsformer.pretrain import Pretrained, Tuned, fine_tune, pretrain, probe
from tsformer.runtime import pick_device
from tsformer.train import Progress, Training, evaluate, fit

CONTEXT, HORIZON = 512, 96
# What bounds the time on wide data sets: variates in a step of the small size, and roughly how many
# windows of validation.
VARIATES, VALIDATION = 7, 3_000
MASKINGS: dict[str, Masking] = {"patches": PatchMasking(), "runs": RunMasking()}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """A network and how each of its fits goes; `probe_epochs` precede those of `tuning`."""

    spec: PatchTSTSpec
    pretraining: Training
    probing: Training
    tuning: Training
    probe_epochs: int
    variates: int = 0  # at most as many in a step; 0 means all

    @property
    def forecaster(self) -> PatchTSTSpec:
        """The network with a forecasting head, which has no dropout."""
        return replace(self.spec, head_dropout=0.0)


# `small` is for one core: about 5,000 steps of pretraining. `paper` has the published network,
# epochs and batch; the paper's learning rates come from a range test, these are ours.
SIZES = {
    "small": Size(
        replace(SELF_SUPERVISED, width=16, heads=4, feedforward=64, dropout=0.1, head_dropout=0.0),
        pretraining=Training(
            epochs=30, windows_per_epoch=2678, batch_size=16, learning_rate=3e-3, optimizer="adam"
        ),
        probing=Training(epochs=10, windows_per_epoch=8000, batch_size=64, optimizer="adam"),
        tuning=Training(epochs=6, windows_per_epoch=8000, batch_size=64, optimizer="adam"),
        probe_epochs=3,
        variates=VARIATES,
    ),
    "paper": Size(
        SELF_SUPERVISED,
        pretraining=Training(epochs=100, batch_size=64, learning_rate=1e-3, optimizer="adam"),
        probing=Training(epochs=20, batch_size=64, learning_rate=1e-3, optimizer="adam"),
        tuning=Training(epochs=20, batch_size=64, learning_rate=2e-4, optimizer="adam"),
        probe_epochs=10,
    ),
}


@dataclass(frozen=True, slots=True)
class Parts:
    """The windows of a data set, standardised by its training part."""

    train: PanelWindows
    validation: PanelWindows
    test: PanelWindows

    @staticmethod
    def of(name: str) -> Parts:
        mapping = {"data": name, "window": {"context": CONTEXT}, "model": {"kind": "patchtst"}}
        experiment = Experiment.from_mapping(mapping, where=name, folder=config_path("."))
        material = Material.of(experiment)
        shape = Shape(CONTEXT, HORIZON, variates=material.shape.variates)
        return Parts(
            material.training_windows("train", shape),
            material.training_windows("validation", shape, at_most=VALIDATION),
            material.training_windows("test", shape),
        )

    @property
    def fitted_on(self) -> dict[str, Any]:
        """What a fit may see."""
        return {"train": self.train, "validation": self.validation}


def score(model: Model, windows: PanelWindows) -> Row:
    """MSE and MAE over all `windows`."""
    losses = {name: replace(Training(batch_size=256), loss=name) for name in ("mse", "mae")}
    return {k: evaluate(model, windows=windows, training=how) for k, how in losses.items()}


# --- the ways to a forecast -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bench:
    """One seed of one data set: where it learns, on what it is scored, with which settings."""

    data: str
    source: str
    size: Size
    masking: Masking
    seed: int
    device: str

    def run(self) -> list[Row]:
        """Every way, as rows."""
        home = Parts.of(self.data)
        abroad = home if self.source == self.data else Parts.of(self.source)
        source, row = self._timed("pretraining", partial(self._pretrain, abroad))
        rows = [row | described(source)]
        encoder, size = source.encoder, self.size
        spec, how = size.forecaster, self._how
        probing, tuning = (self._for(home, how) for how in (size.probing, size.tuning))
        probed, row = self._timed(
            "probes",
            partial(probe, spec, encoder=encoder, training=probing, **home.fitted_on, **how),
        )
        ways = {"linear probe": probed.pretrained, "probe on a random encoder": probed.control}
        rows += [row | self._scored(way, tuned, home) for way, tuned in ways.items()]
        tune = partial(fine_tune, spec, encoder=encoder, probe_epochs=size.probe_epochs, **how)
        found, row = self._timed("fine-tuned", partial(tune, training=tuning, **home.fitted_on))
        rows.append(row | self._scored("fine-tuned", found, home))
        found, row = self._timed("supervised", partial(self._supervised, home))
        rows.append(row | self._scored("supervised", found, home))
        found, row = self._timed("ridge", partial(self._ridge, home))
        rows.append(row | self._scored("ridge", found, home))
        if abroad is not home:
            tuning = self._for(abroad, size.tuning)
            found, row = self._timed("", partial(tune, training=tuning, **abroad.fitted_on))
            rows.append(row | self._scored("zero-shot, fine-tuned on the source", found, home))
            found, row = self._timed("", partial(self._ridge, abroad))
            rows.append(row | self._scored("zero-shot, ridge of the source", found, home))
        return rows

    def _pretrain(self, parts: Parts) -> Pretrained:
        return pretrain(
            self.size.spec,
            **parts.fitted_on,
            training=self._for(parts, self.size.pretraining),
            masking=self.masking,
            **self._how,
        )

    def _supervised(self, parts: Parts) -> Tuned:
        """The same network from the start, as many epochs as probe and fine-tuning have."""
        tuning = self._for(parts, self.size.tuning)
        training = replace(tuning, epochs=tuning.epochs + self.size.probe_epochs)
        torch.manual_seed(self.seed)
        model = self.size.forecaster.build(parts.train.shape)
        return Tuned(model, fit(model, **parts.fitted_on, training=training, **self._how))

    def _ridge(self, parts: Parts) -> Tuned:
        model = RidgeSpec().build(parts.train.shape)
        return Tuned(model, fit(model, **parts.fitted_on, training=Training()))

    @property
    def _how(self) -> dict[str, Any]:
        return {"device": self.device, "report": told}

    def _for(self, parts: Parts, training: Training) -> Training:
        share = min(1.0, (self.size.variates or math.inf) / parts.train.shape.variates)
        return replace(training, seed=self.seed, variate_share=share)

    def _timed(self, way: str, make: Callable[[], Any]) -> tuple[Any, Row]:
        print(f"{self.data}, seed {self.seed}: {way or 'zero-shot'} ...", flush=True)
        wall, processor = time.perf_counter(), time.process_time()
        found = make()
        row = {"data": self.data, "source": self.source, "seed": self.seed, "way": way}
        row["seconds"] = round(time.perf_counter() - wall, 1)
        row["processor_seconds"] = round(time.process_time() - processor, 1)
        return found, row

    def _scored(self, way: str, tuned: Tuned, parts: Parts) -> Row:
        scores = score(tuned.model, parts.test)
        history = [epoch.validation_loss for epoch in tuned.fit.history]
        facts = {"way": way, "windows": len(parts.test), "validation": history, **scores}
        print(f"  {way:<36} {scores['mse']:.4f} {scores['mae']:.4f}", flush=True)
        return facts


def described(source: Pretrained) -> Row:
    """How a pretraining went."""
    print(
        f"  {source.steps} steps, masked error {source.fit.validation_loss:.3f}, "
        f"filling with the mean {source.mean_fill:.3f} {source.warning}"
    )
    return {
        "steps": source.steps,
        "masked_error": source.fit.validation_loss,
        "mean_fill": source.mean_fill,
        "left_plateau": source.left_plateau,
        "encoder_parameters": sum(p.numel() for p in source.encoder.parameters()),
        "validation": [epoch.validation_loss for epoch in source.fit.history],
    }


def told(progress: Progress) -> None:
    """A line an epoch."""
    if progress.validation_loss is not None:
        print(
            f"  epoch {progress.epoch} of {progress.epochs}: train {progress.loss:.4f}, "
            f"validation {progress.validation_loss:.4f}",
            flush=True,
        )


def show(rows: Sequence[Row]) -> None:
    """The scores as a table."""
    print(f"\n{'data':<10} {'source':<10} {'way':<36} {'seed':>4} {'MSE':>7} {'MAE':>7} {'s':>6}")
    for row in rows:
        mse, mae = (f"{row[k]:.4f}" if k in row else "" for k in ("mse", "mae"))
        print(
            f"{row['data']:<10} {row['source']:<10} {row['way']:<36} {row['seed']:>4} "
            f"{mse:>7} {mae:>7} {row['seconds']:>6.0f}"
        )


def main(arguments: Sequence[str]) -> None:
    """Measures, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", default="etth1")
    parser.add_argument("--source", help="data set of the pretraining; by default the same")
    parser.add_argument("--size", choices=[*SIZES], default="small")
    parser.add_argument("--masking", choices=[*MASKINGS], default="patches")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    if pick_device(given.device).type == "cpu":
        torch.set_num_threads(1)
    size, rows = SIZES[given.size], list[Row]()
    for seed in range(given.seeds):
        bench = Bench(
            given.data,
            given.source or given.data,
            size,
            MASKINGS[given.masking],
            seed,
            str(pick_device(given.device)),
        )
        rows += bench.run()
    show(rows)
    result = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.pretraining {' '.join(arguments)}".strip(),
        "context": CONTEXT,
        "horizon": HORIZON,
        "settings": asdict(size) | {"masking": repr(MASKINGS[given.masking])},
        "machine": machine(device=pick_device(given.device)),
        "rows": rows,
    }
    name = f"pretraining-{given.source or given.data}-{given.data}-{given.size}-{given.masking}"
    print(keep(name, result))


if __name__ == "__main__":
    main(sys.argv[1:])
