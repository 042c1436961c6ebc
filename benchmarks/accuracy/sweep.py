"""What is run: data sets, rows of the table, and settings that papers change with the horizon.

All other settings are those of `configs/<data>/<config>.yaml`; context, horizon and seed are the
cell's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Mapping[str, Any]]  # of "model" and "training"


@dataclass(frozen=True, slots=True)
class Dataset:
    """How the papers use a data set.

    - `loader_batch`: windows in a batch of PatchTST's test loader.
    - `context`: the one look-back of the papers, where it is not each model's own.
    - `config`: the experiments' folder and name, where it is not that of the data set.
    - `sentinel`: the number that stands for a missing value and is to be taken for one.
    """

    title: str
    loader_batch: int = 128
    horizons: tuple[int, ...] = (96, 192, 336, 720)
    context: int = 0
    config: str = ""
    sentinel: float | None = None


DATASETS: Mapping[str, Dataset] = {
    "etth1": Dataset("ETTh1"),
    "etth2": Dataset("ETTh2"),
    "ettm1": Dataset("ETTm1"),
    "ettm2": Dataset("ETTm2"),
    "exchange": Dataset("Exchange", loader_batch=32),
    "ili": Dataset("ILI", loader_batch=16, horizons=(24, 36, 48, 60), context=104),
    "weather": Dataset("Weather"),
    "weather_clean": Dataset("Weather, -9999 as missing", config="weather", sentinel=-9999.0),
    "electricity": Dataset("Electricity", loader_batch=32),
    "traffic": Dataset("Traffic", loader_batch=24),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a configuration at some look-backs, perhaps with a change of the model.

    Without a `config` it is the kind called `name`, which has nothing to configure. `loader` has
    the batch of its official test loader where it is not PatchTST's.
    """

    name: str
    title: str
    config: str
    contexts: tuple[int, ...]
    model: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    loader: Mapping[str, int] = field(default_factory=dict)


# The batch is that of training; on Exchange it is 8 at the horizons 96 and 192.
LTSF_LOADER = {
    "etth1": 32,
    "etth2": 32,
    "ettm1": 8,
    "ettm2": 32,
    "exchange": 32,
    "ili": 32,
    "weather": 16,
    "electricity": 16,
    "traffic": 16,
}
RLINEAR_LOADER = {"etth2": 256, "electricity": 16}

ROWS = (
    Row("last_value", "Last value", "", (336,), seeds=(0,), loader=LTSF_LOADER),
    Row("ridge-last", "Ridge, last", "ridge", (336, 512, 720), {"center": "last"}, seeds=(0,)),
    Row("ridge-mean", "Ridge, mean", "ridge", (336, 512, 720), {"center": "mean"}, seeds=(0,)),
    Row("pooled_ridge", "Ridge, pooled, last", "", (512, 720), {"center": "last"}, seeds=(0,)),
    Row("linear", "Linear", "linear", (336,), loader=LTSF_LOADER),
    Row("nlinear", "NLinear", "nlinear", (336,), loader=LTSF_LOADER),
    Row("dlinear", "DLinear", "dlinear", (336,), loader=LTSF_LOADER),
    Row("rlinear", "RLinear", "rlinear", (336,), loader=RLINEAR_LOADER),
    Row("samformer", "SAMformer", "samformer", (512,)),
    Row("itransformer", "iTransformer", "itransformer", (96,)),
    Row("patchtst", "PatchTST", "patchtst", (336, 512)),
)

# The radius of sharpness-aware minimisation. Second-hand: these are said to be table 6 of
# arXiv 2402.10198, and have not been read again there.
RADIUS = {
    "etth1": (0.5, 0.6, 0.9, 0.9),
    "etth2": (0.5, 0.8, 0.6, 0.8),
    "ettm1": (0.6, 0.9, 0.9, 0.9),
    "ettm2": (0.2, 0.9, 0.8, 0.9),
    "electricity": (0.5, 0.6, 0.5, 1.0),
    "exchange": (0.7, 0.8, 0.5, 0.9),
    "traffic": (0.8, 0.1, 0.5, 0.7),
    "weather": (0.4, 0.4, 0.6, 0.5),
}

_WIDE = {"model": {"width": 512, "feedforward": 512}}
_FAST = {"training": {"learning_rate": 0.01}}
_BATCH = {"training": {"batch_size": 32}}

# (configuration folder, configuration) -> horizon -> what differs there from the YAML file.
BY_HORIZON: Mapping[tuple[str, str], Mapping[int, Settings]] = {
    # github.com/cure-lab/LTSF-Linear, scripts/EXP-LongForecasting/Linear
    **{("ettm2", kind): {336: _FAST, 720: _FAST} for kind in ("linear", "nlinear", "dlinear")},
    **{("exchange", kind): {336: _BATCH, 720: _BATCH} for kind in ("linear", "nlinear", "dlinear")},
    # github.com/thuml/iTransformer, scripts/multivariate_forecasting/ETT
    ("etth1", "itransformer"): {336: _WIDE, 720: _WIDE},
    **{
        (data, "samformer"): {
            horizon: {"training": {"sharpness": radius}}
            for horizon, radius in zip((96, 192, 336, 720), radii, strict=True)
        }
        for data, radii in RADIUS.items()
    },
}
