"""The file of --config is refused where the service could not work by it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.experiment import Experiment
from serving.run import read_config
from serving.settings import VARIABLE, Settings
from tests.audited import audited
from tests.figures import Told
from tsformer.errors import ConfigError


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("batching", "max_windows", 0),
        ("models", "threads", 0),
        ("models", "in_memory", 0),
        ("models", "replicas", 0),
        ("models", "replicas_maximum", -1),
        ("server", "replicas", 0),
        ("models", "poll_s", 0),
        ("models", "poll_s", float("nan")),
        ("jobs", "at_once", -1),
        ("jobs", "look_s", 0.0),
        ("limits", "deadline_ms", -5),
        ("limits", "page_size", 0),
        ("limits", "requests_in_flight", 0),
        ("server", "replicas", 100_000),
    ],
)
def test_a_setting_that_cannot_work_is_refused(section: str, name: str, value: Any) -> None:
    """A batch of no windows would turn the whole service into a loop that never answers."""
    with pytest.raises(ConfigError, match=rf"{section}: '{name}' must be .* got"):
        Settings.read({section: {name: value}})


def test_a_share_of_the_smallest_limits_is_one_of_them() -> None:
    """More ingresses than a key may have requests at once must still start."""
    smallest = Settings.read({"limits": {"concurrent_requests": 1, "bodies_in_flight_mib": 1}})
    share = smallest.limits.of_ingress(4)
    assert (share.concurrent_requests, share.bodies_in_flight_mib) == (1, 1)


def test_a_share_has_room_for_the_largest_body() -> None:
    """Else it would be refused with the word to repeat it, for ever."""
    limits = Settings().limits
    assert limits.of_ingress(5).bodies_in_flight_mib == limits.body_arrow_mib
    assert limits.of_ingress(2).bodies_in_flight_mib == limits.bodies_in_flight_mib // 2


def test_a_model_of_its_own_has_the_device_of_the_others() -> None:
    """A champion must not claim the GPU that the operator kept everything else from."""
    models = Settings.read(
        {"models": {"device": "cpu", "own": {"a": None, "b": {"device": "cuda"}}}}
    )
    assert {name: scale.device for name, scale in models.models.own.items()} == {
        "a": "cpu",
        "b": "cuda",
    }


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (["a"], "'own' must hold names of models"),
        ({"a": 2}, "models: own: a: expected keys and values"),
        ({"a": {"replica": 2}}, "models: own: a: .*'replica'"),
        ({"a": {"replicas": 0}}, "models: own: a: 'replicas' must be at least 1"),
        ({"a/1": {}}, "'a/1' is not a model name"),
        ({"ets": {}}, "models: own: 'ets' is a built-in baseline"),
        (
            {"a": {"device": "gpu"}},
            "models: own: a: 'device' must be one of auto, cpu, cuda, got 'gpu'",
        ),
    ],
)
def test_a_deployment_that_cannot_be_is_refused(own: Any, said: str) -> None:
    """Unnamed, Ray Serve would say so after half a minute, in words of its own."""
    with pytest.raises(ConfigError, match=said):
        Settings.read({"models": {"own": own}})


def test_a_baseline_is_no_default() -> None:
    """The service would never be ready: no registry has such a model."""
    with pytest.raises(ConfigError, match="default: 'linear' is a built-in baseline"):
        Settings.read({"models": {"default": "linear"}})


def test_a_device_that_is_none_is_refused() -> None:
    """Every replica would fail as it loads its first model, and the service never be ready."""
    for device in ("gpu", "cpu:1", ""):
        with pytest.raises(ConfigError, match=r"models: 'device' must be one of auto, cpu, cuda"):
            Settings.read({"models": {"device": device}})
    for models in ({"device": "cuda:1"}, {"own": {"a": {"device": "cuda:0"}}}):
        with pytest.raises(
            ConfigError, match=r"'cuda:\d': a replica sees no GPU but .* Say cuda\."
        ):
            Settings.read({"models": models})


def test_the_process_of_a_job_finds_the_settings_of_its_service() -> None:
    """A section that is lost on the way would work by its default, and nobody would notice."""
    given = Settings.read(
        {
            "server": {"allowed_hosts": ["a.example"]},
            "auth": {"anonymous_invocations": True},
            "models": {"device": "cpu", "poll_s": 3, "own": {"a": {"replicas": 2}}},
            "defaults": {"fallback": "none"},
            "batching": {"max_windows": 7},
            "fits": {"at_once": 1},
            "limits": {"horizon": 9},
            "datasets": {"folder": "/data"},
            "jobs": {"at_once": 3},
            "compat": {"nixtla": {"models": {"a*": "b"}}},
        }
    )
    assert Settings.of(given.variables()) == given
    assert Settings.of({}) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"fits": {"at_once": -1}}', '{"fit": {}}'])
def test_settings_that_are_none_are_refused_where_a_job_begins(text: str) -> None:
    """A job that went on by defaults would give other numbers than its service."""
    with pytest.raises(ConfigError, match=r"TSFORMER_SERVE|fits"):
        Settings.of({VARIABLE: text})


SECRET = "c4nary-5ecret"
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9)
)
PAIRS = "- &a0 [x]\n" + "".join(
    f"- &a{i} !!pairs [{', '.join([f'x: *a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
HOSTILE = {
    "code": ("models: !!python/object/apply:os.system ['touch {marker}']", "line 1"),
    "a module": ("!!python/name:os.system", "line 1"),
    "an alias bomb": (LAUGHS, "anchors"),
    "a bomb of merged keys": (MERGED, "line 2: .*<<"),
    "a bomb of pairs": (PAIRS, "anchors"),
    "a number without end": ("models: 1" + ":59" * 20_000, "line 1: a number"),
    "an endless number that is called a text": (
        "models: !!int {=: !!str '1" + ":59" * 20_000 + "'}",
        "line 1: a number",
    ),
    "a number that cannot be written": ("0x" + "f" * 100_000, "line 1: a number"),
    "a circle": ("models: &a [*a]", "anchors"),
    "10 MiB": ("# " + "x" * 10 * 2**20, "1,000,000 bytes"),
    "an unknown key": (f"pasword: {SECRET}", "pasword"),
    "a secret in a section": (f"models: {{api_key: {SECRET}}}", "api_key|models"),
    "a secret of a wrong type": (f"models: [{SECRET}]", "models"),
    "a secret in what is no YAML": (f"models: {{key: {SECRET}\n  a: [", "line"),
}


@pytest.mark.parametrize(("text", "named"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_by_its_key_and_quoted_nowhere(
    tmp_path: Path, record_property: Told, request: pytest.FixtureRequest, text: str, named: str
) -> None:
    """B11: a file from a colleague must run nothing, and an error goes to terminals and tickets."""
    file, marker = tmp_path / "file.yaml", tmp_path / "marker"
    file.write_text(text.replace("{marker}", str(marker)))
    longest = 0.0
    for read in (read_config, Experiment.read):
        started = time.perf_counter()
        with audited() as seen, pytest.raises(ConfigError, match=named) as caught:
            read(file)
        longest = max(longest, time.perf_counter() - started)
        assert SECRET not in str(caught.value)
        assert len(str(caught.value)) < 1_000
        assert seen.of("os.system", "subprocess.Popen") == []
    assert not marker.exists()
    case = request.node.callspec.id
    record_property("B11", f"{case}: refused by its key or place after {1000 * longest:.0f} ms")
    assert longest < 1  # 0.1 s on a quiet machine
