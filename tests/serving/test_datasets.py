"""/v1/datasets: tables that are kept, each version by its content, and nobody else's to see."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest

from pipelines.datasets import Datasets
from pipelines.home import Home
from pipelines.store import Store
from serving.accept import ARROW
from serving.settings import Settings
from tests.serving.keyed import Tenants
from tests.serving.running import Running, application, listening, series, table


def body(name: str, *, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "freq": "h", "data": table(series(seed=seed), ids=["s1"]), **more}


def test_a_table_is_kept_and_found_again(service: Running, home: Home) -> None:
    """What a team stores today must train a model tomorrow, to the last digit."""
    data = table(series(), series(seed=1))
    data["y"][3] = None
    data["price"] = [1.5] * len(data["y"])
    reply = service.post("/v1/datasets", {"name": "load", "data": data, "tz": "Europe/Berlin"})
    assert (reply.status_code, reply.headers["location"]) == (201, "/v1/datasets/load")
    made = reply.json()
    assert (made["rows"], made["series"], made["freq"]) == (192, 2, "h")
    found = service.client.get("/v1/datasets/load").json()
    assert found == {**made, "versions": [{k: made[k] for k in ("version", "rows", "created_at")}]}
    kept = Datasets(home, Store.of(home), "default")
    frame = kept.read(kept.one(f"load/{made['version']}")).data
    assert frame["y"].to_list() == data["y"]
    assert frame["price"].to_list() == data["price"]
    assert frame["ds"].dt.to_string("%Y-%m-%dT%H:%M:%S").to_list() == data["ds"]


def test_equal_content_is_one_version(service: Running) -> None:
    """A nightly upload of an unchanged table must not fill the disk, in JSON or in Arrow."""
    first = service.post("/v1/datasets", body("same"))
    again = service.post("/v1/datasets", body("same"))
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    sent = table(series(), ids=["s1"])
    stamps = pl.Series(sent["ds"]).str.to_datetime(time_unit="us").to_arrow()
    frame = pa.table({"y": sent["y"], "ds": stamps, "unique_id": sent["unique_id"]})
    request = json.dumps({"name": "same", "freq": "h"})
    about = {"forecast.table": "data", "forecast.request": request}
    sink = io.BytesIO()
    with ipc.new_stream(sink, frame.schema.with_metadata(about)) as writer:
        writer.write_table(frame)
    arrow = service.client.post(
        "/v1/datasets", content=sink.getvalue(), headers={"Content-Type": ARROW}
    )
    assert (arrow.status_code, arrow.json()["version"]) == (200, first.json()["version"])
    other = service.post("/v1/datasets", body("same", seed=1)).json()
    found = service.client.get("/v1/datasets/same").json()
    assert found["version"] == other["version"]
    assert [one["version"] for one in found["versions"]] == [
        other["version"], first.json()["version"],
    ]  # fmt: skip


def test_50_uploads_at_once_are_one_version(service: Running) -> None:
    """Law 14: retries of a slow upload must leave one version, with or without a key."""
    with ThreadPoolExecutor(50) as pool:
        replies = [*pool.map(lambda _: service.post("/v1/datasets", body("race")), range(50))]
    assert sorted(reply.status_code for reply in replies) == [200] * 49 + [201]
    assert len(service.client.get("/v1/datasets/race").json()["versions"]) == 1


def test_tenants_see_their_own(tenants: Tenants) -> None:
    """Another team's numbers, and even the names of its tables, are none of ours (404)."""
    assert tenants.ask("POST", "/v1/datasets", json=body("secret")).status_code == 201
    assert tenants.ask("POST", "/v1/datasets", json=body("x"), role="forecaster").status_code == 403
    names = [one["name"] for one in tenants.ask("GET", "/v1/datasets").json()["items"]]
    assert "secret" in names
    theirs = tenants.ask("GET", "/v1/datasets", tenant="shop").json()["items"]
    assert "secret" not in [one["name"] for one in theirs]
    assert tenants.ask("GET", "/v1/datasets/secret", tenant="shop").status_code == 404
    mine = tenants.ask("POST", "/v1/datasets", tenant="shop", json=body("secret"))
    assert mine.status_code == 201  # a name of its own


def test_pages(service: Running) -> None:
    """A list that cannot be walked to its end hides what is behind the first page."""
    for number in range(3):
        service.post("/v1/datasets", body(f"page-{number}"))
    names, cursor = [], ""
    while cursor is not None:
        page = service.client.get("/v1/datasets", params={"limit": 1, "cursor": cursor}).json()
        names += [one["name"] for one in page["items"]]
        cursor = page["next"]
    assert [name for name in names if name.startswith("page-")] == ["page-0", "page-1", "page-2"]
    assert len(names) == len({*names})


@pytest.mark.parametrize(
    ("change", "type", "pointer"),
    [
        ({"name": "../up"}, "invalid-request", "/name"),
        ({"data": {"ds": ["2026-01-01", "2026-01-01"], "y": [1.0, 2.0]}}, "invalid-data", "/data/ds/1"),
        ({"data": {"ds": ["2026-01-01"]}}, "invalid-data", "/data"),
        ({"static": {"unique_id": ["s1"], "a": [1, 2]}}, "invalid-data", "/static/a"),
        ({"file": "../x.csv", "data": {}}, "invalid-request", "/file"),
        ({"file": "http://x/y.csv"}, "invalid-request", "/file"),
        ({"file": "x.csv", "data": {}}, "invalid-request", "/file"),
        ({"freq": "hour"}, "invalid-request", "/freq"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_used_is_named(
    service: Running, change: dict[str, Any], type: str, pointer: str
) -> None:
    """A table that no model could be trained on is refused now, not at night."""
    reply = service.post("/v1/datasets", {**body("bad"), **change})
    assert reply.json()["type"] == f"/problems/{type}", reply.text
    assert reply.json()["errors"][0]["pointer"] == pointer
    assert "options" not in reply.json()["detail"]  # which this route does not have
    assert service.client.get("/v1/datasets/bad").status_code == 404


def test_a_file_of_the_operator_takes_the_place_of_a_body(empty: Home, tmp_path: Path) -> None:
    """Tables of gigabytes lie on the server already; nothing outside their folder is read."""
    folder = tmp_path / "tables"
    folder.mkdir()
    pl.DataFrame(table(series())).write_parquet(folder / "sales.parquet")
    (tmp_path / "outside.parquet").write_bytes((folder / "sales.parquet").read_bytes())
    (folder / "link.parquet").symlink_to(tmp_path / "outside.parquet")
    app = application(empty, Settings.read({"datasets": {"folder": str(folder)}}))
    with contextmanager(listening)(app, ready=False) as running:
        made = running.post("/v1/datasets", {"name": "sales", "file": "sales.parquet"})
        assert (made.status_code, made.json()["rows"]) == (201, 96)
        for name in ("link.parquet", "none.parquet"):
            refused = running.post("/v1/datasets", {"name": "sales", "file": name})
            assert (refused.status_code, str(tmp_path) in refused.text) == (422, False)


def test_a_dataset_without_data_is_told_what_to_send(service: Running) -> None:
    reply = service.post("/v1/datasets", {"name": "q"})
    problem = reply.json()
    assert (reply.status_code, problem["type"]) == (422, "/problems/invalid-request")
    (error,) = problem["errors"]
    assert error["pointer"] == ""
    assert error["message"].startswith("Send data, as")
