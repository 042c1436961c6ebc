"""The real Nixtla client in a process of its own: a call a line comes in, its result goes out.

It runs without the packages of this project: the pins of the client are not ours.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pandas as pd
import polars as pl
from nixtla import NixtlaClient
from nixtla.nixtla_client import ApiError
from pydantic import BaseModel

JOBS: dict[str, Any] = {}  # that were submitted


def frame_of(columns: dict[str, Any], kind: str, tz: str | None) -> Any:
    """A table with stamps, as pandas or polars has it; integers stay what they are."""
    if kind == "integers":
        return pd.DataFrame(columns)
    frame = pd.DataFrame(columns).assign(ds=lambda rows: pd.to_datetime(rows["ds"]))
    if tz is not None:
        frame["ds"] = frame["ds"].dt.tz_localize(tz)
    return pl.from_pandas(frame) if kind == "polars" else frame


def plain(result: Any) -> Any:
    """A result as JSON can hold it."""
    if isinstance(result, pl.DataFrame):
        result = result.to_pandas()
    if isinstance(result, list):
        return [plain(one) for one in result]
    if isinstance(result, BaseModel):
        return result.model_dump(mode="json")
    if not isinstance(result, pd.DataFrame):
        return result
    texts = {
        name: result[name].astype(str) for name in result if result[name].dtype.kind not in "fbiu"
    }
    return result.assign(**texts).to_dict(orient="list")


def called(client: NixtlaClient, call: dict[str, Any]) -> dict[str, Any]:
    """The result of one call, or the error of the service."""
    frames = {
        name: frame_of(columns, call.get("kind", "pandas"), call.get("tz"))
        for name, columns in call.get("frames", {}).items()
    }
    place, _, method = call["method"].rpartition(".")
    try:
        if place == "job":
            return {"result": plain(getattr(JOBS[call["args"].pop("id")], method)(**call["args"]))}
        if place == "jobs":
            job = getattr(client.jobs, method)(**frames, **call["args"])
            JOBS[job.job_id] = job
            return {"result": job.job_id}
        return {"result": plain(getattr(client, method)(**frames, **call["args"]))}
    except ApiError as error:
        return {"status": error.status_code, "problem": error.body}
    except Exception as error:  # of the client itself; the test shows it
        return {"error": repr(error)}


def main() -> None:
    """Answers until the input ends."""
    url, key = sys.argv[1:]
    client = NixtlaClient(api_key=key, base_url=url, max_retries=1)
    for line in sys.stdin:
        print(json.dumps(called(client, json.loads(line))), flush=True)


main()
