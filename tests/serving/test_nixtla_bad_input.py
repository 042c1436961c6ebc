"""What the Nixtla routes refuse: a problem that says where in the body that was sent, never a 500."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pytest

from serving.compat.nixtla import windows
from serving.settings import Settings
from tests.serving.running import HORIZON, Running, series
from tsformer.errors import ConfigError

PREFIX = "/compat/nixtla/v2"
CANARY = "c4nary"
TASKS: dict[str, dict[str, Any]] = {
    "forecast": {"h": 2, "level": [80]},
    "cross_validation": {"h": 2, "n_windows": 2, "level": [80]},
    "anomaly_detection": {"level": 80},
    "online_anomaly_detection": {"h": 2, "detection_size": 4, "level": 80},
}


def body(task: str, **changes: Any) -> dict[str, Any]:
    """A good body of two series with `changes`; dotted names are members of `series`."""
    own = {"y": [*series(130), *series(130, seed=1)], "sizes": [130, 130], "X": None}
    made = {"model": "timegpt-1", "freq": "h", **TASKS[task]}
    for name, value in changes.items():
        if name.startswith("series_"):
            own[name.removeprefix("series_")] = value
        else:
            made[name] = value
    return {"series": own, **made}


@pytest.mark.parametrize("task", TASKS)
def test_a_good_body_is_answered(service: Running, task: str) -> None:
    """Otherwise the refusals below would prove nothing; gzip is read here too."""
    good = body(task)
    answer = service.post(f"{PREFIX}/{task}", good)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["weights_x"] is None
    assert found["model"]["name"] == "small"
    assert found["warnings"][0]["code"] == "calendar_unknown"
    assert "data" not in found  # the client would unwrap it
    assert [*found["intervals"]] == ["lo-80", "hi-80"]
    assert {len(each) for each in found["intervals"].values()} == {len(found["mean"])}
    packed = service.client.post(
        f"{PREFIX}/{task}",
        content=gzip.compress(service.client.build_request("POST", "/", json=good).read()),
        headers={"content-type": "application/json", "content-encoding": "gzip"},
    )
    assert packed.json()["mean"] == found["mean"]


BAD: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "unknown member": ({CANARY: 1}, 422, ""),
    "unknown member of series": ({"series_c4nary": 1}, 422, "/series"),
    "sizes too large": ({"series_sizes": [130, 131]}, 422, "/series/sizes"),
    "sizes too small": ({"series_sizes": [130, 129]}, 422, "/series/sizes"),
    "a size of 0": ({"series_sizes": [260, 0]}, 422, "/series/sizes/1"),
    "a huge size": ({"series_sizes": [2**62, 2**62]}, 422, "/series/sizes/0"),
    "no series": ({"series_sizes": [], "series_y": []}, 422, None),
    "text in y": ({"series_y": [CANARY] * 260}, 422, None),
    "a list in y": ({"series_y": [[1.0]] * 260}, 422, None),
    "true in y": ({"series_y": [True] * 260}, 422, None),
    "all missing": ({"series_y": [None] * 260}, 422, None),
    "covariates nobody reads": ({"series_X": [[1.0] * 260]}, 422, "/series/X"),
    "X is text": ({"series_X": CANARY}, 422, "/series/X"),
    "starts of others": ({"series_start_datetime": ["2026-01-01"]}, 422, "/series/start_datetime"),
    "no stamp": (
        {"series_start_datetime": ["2026-01-01", CANARY]}, 422, "/series/start_datetime/1",
    ),
    "a start long ago": ({"series_start_datetime": ["1066-10-14"] * 2}, 422, "/series"),
    "a start far ahead": ({"series_start_datetime": ["9999-12-31T23:00"] * 2}, 422, "/series"),
    "no frequency": ({"freq": CANARY}, 422, "/freq"),
    "an integer frequency": ({"freq": "7"}, 422, "/freq"),
    "another frequency": ({"freq": "D"}, 422, None),
    "level 100": ({"level": 100}, 422, None),
    "a fine level": ({"level": 80.123}, 422, None),
    "a level beyond the model": ({"level": 99.9}, 422, "/level"),
    "h is 0": ({"h": 0}, 422, "/h"),
    "h is text": ({"h": "2"}, 422, "/h"),
    "h beyond the limit": ({"h": 4_097}, 422, "/h"),
    "endless windows": ({"n_windows": 2**31 - 1, "step_size": 2**31 - 1}, 422, None),
    "windows without end": ({"n_windows": 2**31 - 1, "step_size": 1}, 422, None),
    "a step beyond all rows": ({"step_size": 2**40}, 422, None),
    "fine-tuning": ({"finetune_steps": 1}, 422, "/finetune_steps"),
    "an unknown model": ({"model": CANARY}, 404, "/model"),
    "no reference": ({"model": f"../{CANARY}"}, 422, "/model"),
}  # fmt: skip


def resolves(pointer: str, sent: Any) -> bool:
    for part in pointer.split("/")[1:]:
        try:
            sent = sent[int(part)] if isinstance(sent, list) else sent[part]
        except (LookupError, TypeError, ValueError):
            return False
    return True


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("changes", "status", "pointer"), BAD.values(), ids=BAD)
def test_what_is_refused_says_where(
    service: Running, task: str, changes: dict[str, Any], status: int, pointer: str | None
) -> None:
    """Laws 10 and 11: the place is that in the client's body, and no value of it is repeated."""
    if "level" in changes and isinstance(TASKS[task]["level"], list):
        changes = {"level": [changes["level"]]}
    if "h" in changes and "h" not in TASKS[task]:
        return
    sent = body(task, **changes)
    reply = service.post(f"{PREFIX}/{task}", sent)
    problem = reply.json()
    assert (reply.status_code, problem["status"]) == (status, status), problem
    assert reply.headers["content-type"] == "application/problem+json"
    if changes.get("model") != CANARY:  # a name of a safe alphabet, as on our own routes
        assert CANARY not in reply.text
    assert "options" not in problem["detail"]  # which the client does not have
    for item in problem["errors"]:
        assert resolves(item.get("pointer", ""), sent), item
    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer


def test_too_few_rows_for_the_windows_are_named(service: Running) -> None:
    """Every series needs a row before its first window."""
    changes = {"series_y": series(140), "series_sizes": [135, 5], "n_windows": 3}
    problem = service.post(f"{PREFIX}/cross_validation", body("cross_validation", **changes)).json()
    assert problem["type"] == "/problems/insufficient-history"
    assert [item["unique_id"] for item in problem["errors"]] == ["1"]


@pytest.mark.parametrize("rows", [1, 2, HORIZON, HORIZON + 1, 47, 48])
def test_a_short_series_is_judged_as_far_as_it_goes(service: Running, rows: int) -> None:
    """One new shop among a hundred old ones must not cost them their answer."""
    changes = {"series_y": [*series(130), *series(rows)], "series_sizes": [130, rows]}
    reply = service.post(f"{PREFIX}/anomaly_detection", body("anomaly_detection", **changes))
    if rows == 1:
        assert reply.json()["type"] == "/problems/insufficient-history"
        return
    found = reply.json()
    assert len(found["mean"]) == len(found["anomaly"]) == sum(found["sizes"])
    assert 1 <= found["sizes"][1] < rows
    assert found["fallback"]["series"] == (rows < 48)  # too short for the model, and said to be so


@pytest.mark.parametrize(
    "task", ["cross_validation", "anomaly_detection", "online_anomaly_detection"]
)
def test_leading_nulls_change_nothing(service: Running, task: str) -> None:
    """Law 6: a client that pads its series to one length must get the same windows."""
    bare = {"series_y": [*series(130), *series(90, seed=1)], "series_sizes": [130, 90]}
    padded = {"series_y": [*series(130), *[None] * 40, *series(90, seed=1)]}
    first, second = (
        service.post(f"{PREFIX}/{task}", body(task, **changes)).json()
        for changes in (bare, padded | {"series_sizes": [130, 130]})
    )
    for name in ("mean", "sizes", "intervals"):
        assert first[name] == second[name]
    if "idxs" in first:
        moved = [place + 40 * (place >= 130) for place in first["idxs"]]
        assert second["idxs"] == moved
    assert first.get("anomaly") == second.get("anomaly")


def test_what_is_too_large_names_the_remedy_of_the_client(service: Running) -> None:
    """It splits by itself when it is told to."""
    rows = 100_001
    sent = body("forecast", series_y=[1.0] * rows, series_sizes=[rows])
    problem = service.post(f"{PREFIX}/forecast", sent).json()
    assert (problem["status"], problem["limit"]) == (413, "points_per_series")
    assert "num_partitions" in problem["detail"]


def test_names_of_the_client_are_those_of_the_settings() -> None:
    """timegpt-* stay the default model beside the names that an operator maps."""
    own = Settings.read({"compat": {"nixtla": {"models": {"timegpt-1": "small"}}}})
    assert dict(own.nixtla.models) == {"timegpt-1": "small", "timegpt-*": ""}
    for wrong, named in (
        ({"nixtlas": {}}, "nixtla"),
        ({"nixtla": {"model": {}}}, "models"),
        ({"nixtla": {"models": {"a": 1}}}, "models"),
    ):
        with pytest.raises(ConfigError, match=named):
            Settings.read({"compat": wrong})


def test_windows_of_series_of_many_lengths() -> None:
    """Each row of a series is forecast at most once where blocks follow each other."""
    lengths = np.array([1_000_000, 2, 8, 9, 10])
    whole = windows.Extent(np.cumsum(lengths) - lengths, lengths)
    for made in (
        windows.of_newest(whole, last=9, h=3, step=3),
        windows.of_newest(whole, last=10**9, h=5, step=5),
        windows.of_history(whole, h=4, least=5),
    ):
        assert len(set(made.places.tolist())) == len(made.places) == made.sizes.sum()
        assert (made.cuts.rows >= 1).all()
        ends = np.cumsum(lengths) - 1
        assert {*ends.tolist()} <= {*made.places.tolist()}  # every series is judged to its end
    sparse = windows.of_newest(whole, last=9, h=1, step=3)
    assert sparse.sizes.tolist() == [3, 1, 3, 3, 3]
