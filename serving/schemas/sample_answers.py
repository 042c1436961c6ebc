"""Answers to the samples of the HTTP contract; the numbers are made up."""

from __future__ import annotations

from pydantic.config import JsonDict, JsonValue

from serving.schemas.samples import DAYS, HOURS, ZONE

MODEL: JsonDict = {"name": "patchtst", "version": "7", "alias": "champion", "run_id": "b1d3"}
NO_FALLBACK: JsonDict = {"mode": "seasonal_naive", "series": 0}
WARNINGS: list[JsonValue] = [
    {
        "code": "values_missing",
        "unique_id": "a",
        "count": 1,
        "message": "1 value is missing.",
    },
    {
        "code": "history_padded",
        "unique_id": "a",
        "count": 1,
        "message": "68 steps before the first row count as missing.",
    },
]
FORECAST: JsonDict = {
    "id": "fc_01k9yb",
    "model": MODEL,
    "h": 3,
    "freq": "D",
    "tz": ZONE,
    "forecast": {
        "unique_id": ["a", "a", "a"],
        "ds": [
            "2026-03-29T00:00:00+01:00",
            "2026-03-30T00:00:00+02:00",
            "2026-03-31T00:00:00+02:00",
        ],
        "mean": [12.1, 12.3, 11.9],
        "q0.1": [10.2, 10.1, 9.8],
        "q0.9": [14.0, 14.6, 14.2],
    },
    "series": [
        {
            "unique_id": "a",
            "status": "ok",
            "rows": 3,
            "method": "prefix",
            "blocks": 1,
            "rows_used": DAYS,
            "padded": 96 - DAYS,
            "context_end": "2026-03-28T00:00:00+01:00",
            "fallback": None,
        }
    ],
    "warnings": WARNINGS,
    "warnings_truncated": False,
    "fallback": NO_FALLBACK,
    "timing_ms": {"parse": 1.0, "queue": 3.0, "model": 4.0, "total": 9.0},
}
LEADERBOARD_ROW: JsonDict = {
    "rank": 1,
    "model": MODEL,
    "scope": {"series": 414, "folds": 4, "h": 48, "points": 79_488},
    "failed_series": 0,
    "fallback_series": 2,
    "metrics": {
        "mae": 41.2,
        "rmse": 66.0,
        "mase": 0.81,
        "rmsse": 0.78,
        "smape": 11.4,
        "wql": 0.052,
    },
    "coverage": {"0.8": 0.79},
    "ci95": {"mase": [0.79, 0.83]},
    "skill": {"versus": "seasonal_naive", "metric": "mase", "value": 0.27},
    "significance": {
        "versus": "seasonal_naive",
        "test": "diebold-mariano",
        "statistic": -8.1,
        "p_value": 1e-9,
    },
    "seconds": {"fit": 0.0, "predict": 3.2},
}
ON_7: JsonDict = {
    "version": "7",
    "etag": '"champion-12"',
    "since": "2026-03-01T09:30:00.000Z",
    "previous": "6",
}
ENTRY: JsonDict = {
    "name": "patchtst",
    "built_in": False,
    "description": "Daily sales, trained each Monday.",
    "versions": [
        {"version": "8", "kind": "patchtst", "created_at": "2026-03-28T02:40:00.000Z"},
        {"version": "7", "kind": "patchtst", "created_at": "2026-03-01T02:40:00.000Z"},
    ],
    "aliases": {"champion": ON_7},
}
MOVED: JsonDict = {
    "name": "patchtst",
    "alias": "champion",
    "version": "8",
    "etag": '"champion-13"',
    "since": "2026-03-29T08:00:00.000Z",
    "previous": "7",
}
JOB: JsonDict = {
    "id": "job_01k9yc",
    "type": "backtest",
    "state": "running",
    "attempt": 1,
    "run_id": "77ce",
    "created_at": "2026-03-29T01:00:00Z",
    "started_at": "2026-03-29T01:00:02Z",
    "finished_at": None,
    "progress": {"done": 3, "total": 12, "unit": "folds"},
    "error": None,
    "links": {
        "result": "/v1/jobs/job_01k9yc/result",
        "events": "/v1/jobs/job_01k9yc/events",
        "cancel": "/v1/jobs/job_01k9yc/cancel",
    },
}
RECEIVED: JsonDict = {
    "received": DAYS - 1,
    "inserted": DAYS - 2,
    "replaced": 1,
    "unchanged": 0,
    "matched": 3,
}
PROBLEM: JsonDict = {
    "type": "/problems/invalid-data",
    "title": "The data cannot be used as sent",
    "status": 422,
    "detail": "2 of 120 series are invalid. Set options.on_invalid to skip to forecast the others.",
    "instance": "/v1/forecasts",
    "request_id": "01K9YD",
    "errors": [
        {
            "pointer": "/data/ds/17",
            "unique_id": "s4",
            "code": "duplicate_timestamp",
            "message": "Same time stamp as row 16.",
        },
        {
            "pointer": "/data/ds/90",
            "unique_id": "s9",
            "code": "gap",
            "message": "2 rows are missing before this one.",
        },
    ],
    "error_count": 2,
    "truncated": False,
}


def _read_of(name: str) -> JsonDict:
    return {
        "unique_id": name,
        "status": "ok",
        "rows": 2,
        "method": "prefix",
        "blocks": 1,
        "rows_used": HOURS,
        "padded": 0,
        "context_end": "2026-01-02T23:00:00",
        "fallback": None,
    }


EXPLANATION: JsonDict = {
    **FORECAST,
    "model": {"name": "itransformer", "version": "1", "alias": "champion", "run_id": "c4f0"},
    "h": 2,
    "freq": "h",
    "tz": None,
    "forecast": {
        "unique_id": ["HUFL", "HUFL", "OT", "OT"],
        "ds": [
            "2026-01-03T00:00:00",
            "2026-01-03T01:00:00",
            "2026-01-03T00:00:00",
            "2026-01-03T01:00:00",
        ],
        "mean": [5.4, 5.6, 25.2, 25.9],
    },
    "series": [_read_of("HUFL"), _read_of("OT")],
    "warnings": [],
    "variate_attention": {
        "group_id": ["t1", "t1", "t1", "t1"],
        "from": ["HUFL", "HUFL", "OT", "OT"],
        "to": ["HUFL", "OT", "HUFL", "OT"],
        "weight": [0.75, 0.25, 0.5, 0.5],
    },
}
