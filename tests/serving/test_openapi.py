"""Law 17: the service does what its OpenAPI document says, and refuses what it does not say."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from jsonschema import Draft202012Validator

from tests.figures import Told
from tests.serving import contract
from tests.serving.conftest import fresh_home
from tests.serving.running import Running

CONFIG = Path(__file__).with_name("schemathesis.toml")
COMMAND = Path(sys.executable).with_name("st")
JSON = "application/json"
ORDER = (  # things are made before they are used, and are used before they end
    "post /v1/datasets",
    "put .*",
    "(?!.*(cancel|events)$)(post|get|patch) .*",
    "post .*/cancel",
    "get .*/events",
    "delete .*",
)
TRAINING = re.compile(".*/finetune|.*/finetuned_models/.*")  # waits; test_nixtla_finetuning has it


# Sections 2 and 13 to 15 of the contract, written down once more.
ROUTES = {
    "": """post /v1/forecasts /v1/compare /v1/validations /v1/future-frames /v1/explanations
        /v1/anomalies /v1/models/{name}/rollback /v1/jobs /v1/jobs/{id}/cancel /v1/datasets
        /v1/schedules /v1/schedules/{id}/trigger /v1/actuals /invocations
        /v2/models/{model}/infer /v2/models/{model}/versions/{version}/infer
        get /v1/models /v1/models/{name} /v1/models/{name}/versions/{version} /v1/jobs
        /v1/jobs/{id} /v1/jobs/{id}/result /v1/jobs/{id}/events /v1/datasets /v1/datasets/{name}
        /v1/schedules /v1/schedules/{id} /v1/schedules/{id}/runs /v1/monitors/{model}
        /health/live /health/ready /metrics /openapi.json /docs /problems/{type} / /v2
        /v2/health/live /v2/health/ready /v2/models/{model} /v2/models/{model}/ready
        /v2/models/{model}/versions/{version} /v2/models/{model}/versions/{version}/ready
        /ping /version
        put /v1/models/{name}/aliases/{alias} patch /v1/schedules/{id} delete /v1/schedules/{id}""",
    "/compat/nixtla": """get /validate_api_key /usage /v2/models /model_params
        /v2/finetuned_models /v2/finetuned_models/{id} /v2/{task}/jobs/{id}
        post /v2/forecast /v2/cross_validation /v2/anomaly_detection
        /v2/online_anomaly_detection /v2/finetune /v2/forecast/async /v2/cross_validation/async
        /v2/anomaly_detection/async /v2/finetune/async /v2/async/jobs/{id}/cancel
        delete /v2/finetuned_models/{id}""",
}


def contracted() -> set[tuple[str, str]]:
    found, method = set(), ""
    for prefix, words in ROUTES.items():
        for word in words.split():
            if word.startswith("/"):
                found.add((method, prefix + word))
            else:
                method = word
    return found


@pytest.fixture(scope="module")
def described(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of its own, with what the samples speak of: thousands of requests leave much."""
    home = fresh_home(tmp_path_factory.mktemp("described"), database)
    yield from contract.serving(home, tmp_path_factory.mktemp("samples") / "files")


@pytest.fixture(scope="module")
def api(described: Running) -> dict[str, Any]:
    """The document as it is served."""
    found: dict[str, Any] = described.client.get("/openapi.json").json()
    return found


class Document:
    """What the OpenAPI document `api` says."""

    def __init__(self, api: dict[str, Any]) -> None:
        self.api = api
        self.operations = [
            (method, path, operation)
            for path, operations in api["paths"].items()
            for method, operation in operations.items()
        ]
        self.operations.sort(key=lambda one: _turn(f"{one[0]} {one[1]}"))

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        name = schema.get("$ref", "").rpartition("/")[2]
        found: dict[str, Any] = self.api["components"]["schemas"][name] if name else schema
        return found

    def bodies(self, operation: Mapping[str, Any]) -> list[tuple[str, bytes]]:
        """The examples of the body, each with its media type; an empty one where none is read."""
        found = []
        for media, held in operation.get("requestBody", {}).get("content", {}).items():
            shown = [held["example"]] if "example" in held else []
            shown += self.resolved(held["schema"]).get("examples", [])
            found += [(media, orjson.dumps(x) if media == JSON else x.encode()) for x in shown]
        return found if "requestBody" in operation else [(JSON, b"")]

    def faults(self, schema: dict[str, Any], value: Any) -> list[str]:
        """What in `value` is not as `schema` says."""
        whole = {**schema, "components": self.api["components"]}
        found = Draft202012Validator(whole).iter_errors(value)
        return [f"{list(error.absolute_path)}: {error.message[:200]}" for error in found]

    def parameters(self, operation: Mapping[str, Any], place: str) -> dict[str, Any]:
        """The first example of each parameter that has one."""
        return {
            one["name"]: one["schema"]["examples"][0]
            for one in operation.get("parameters", ())
            if one["in"] == place and "examples" in one["schema"]
        }


def _turn(name: str) -> int:
    return next(n for n, pattern in enumerate(ORDER) if re.fullmatch(pattern, name))


class Caller:
    """Sends the examples of a document, and knows the last job that they made."""

    def __init__(self, running: Running, document: Document) -> None:
        self.client, self.document, self.job = running.client, document, ""

    def ask(
        self, method: str, path: str, operation: dict[str, Any], *, media: str, body: bytes
    ) -> httpx.Response:
        given = self.document.parameters(operation, "path")
        address = path.format_map({"id": self.job, "task": "anomaly_detection", **given})
        headers = {**self.document.parameters(operation, "header"), "Content-Type": media}
        if "If-Match" in headers:  # which moves on
            about = re.sub(r"/aliases/.*", "", address)
            headers["If-Match"] = etag_of(self.client.get(about).json())
        query = self.document.parameters(operation, "query")
        reply = self.client.request(method, address, headers=headers, params=query, content=body)
        self.learn(reply)
        return reply

    def learn(self, reply: httpx.Response) -> None:
        if reply.status_code == 202 and reply.headers["content-type"] == JSON:
            made = reply.json()
            self.job = made.get("job_id") or made["id"]

    def faults(self, operation: dict[str, Any], reply: httpx.Response) -> list[str]:
        """How an answer differs from what is said of it."""
        promised = [status for status in operation["responses"] if status.startswith("2")]
        if str(reply.status_code) not in promised:
            return [f"{reply.status_code}: {reply.text[:500]}"]
        content = operation["responses"][str(reply.status_code)].get("content", {})
        media = reply.headers.get("content-type", "").partition(";")[0]
        if content and media not in content:
            return [f"{media} is not among {[*content]}"]
        if media != JSON:
            return []
        return self.document.faults(content[media]["schema"], reply.json())


def etag_of(members: dict[str, Any]) -> str:
    found: str = members["etag"] if "etag" in members else members["aliases"]["champion"]["etag"]
    return found


def test_every_sample_passes(described: Running, api: dict[str, Any]) -> None:
    """Law 17: who copies a sample of the contract gets the answer that is described."""
    document = Document(api)
    caller, wrong, sent = Caller(described, document), dict[str, list[str]](), 0
    for method, path, operation in document.operations:
        if TRAINING.fullmatch(path):
            continue
        for media, body in document.bodies(operation):
            reply = caller.ask(method, path, operation, media=media, body=body)
            sent += 1
            if faults := caller.faults(operation, reply):
                wrong[f"{method} {path} {body[:80]!r}"] = faults
    assert wrong == {}
    print(f"{sent} requests, {len(document.operations)} routes")


def test_every_route_of_the_contract_is_described(api: dict[str, Any]) -> None:
    """A client that is generated from the document lacks what is not in it."""
    assert {(method, path) for method, path, _ in Document(api).operations} == contracted()


def test_events_are_described_as_a_stream(api: dict[str, Any]) -> None:
    """A generated client would read a stream that lasts for hours as one JSON value."""
    answer = api["paths"]["/v1/jobs/{id}/events"]["get"]["responses"]["200"]
    assert [*answer["content"]] == ["text/event-stream"]


def test_the_sample_of_arrow_runs(
    described: Running, api: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who has large tables begins with this script: it must run as it stands."""
    (sample,) = api["paths"]["/v1/forecasts"]["post"]["x-codeSamples"]
    script = tmp_path / "sample.py"
    url = str(described.client.base_url).rstrip("/")
    script.write_text(sample["source"].replace("http://127.0.0.1:8000", url))
    found = runpy.run_path(str(script))
    assert found["members"]["model"]["name"] == "tft"
    assert found["answered"]["forecast"].column_names == ["unique_id", "ds", "mean", "q0.1", "q0.9"]
    assert "2026-03-29 01:00:00+01:00" in capsys.readouterr().out


def test_the_shown_answer_is_that_of_the_shown_request(
    described: Running, api: dict[str, Any]
) -> None:
    """But for its numbers: a member that is shown and never comes misleads whoever relies on it."""
    schemas = api["components"]["schemas"]
    body = schemas["ForecastRequest"]["examples"][1]
    got = described.post("/v1/forecasts", {**body, "model": "patchtst/7"}).json()
    (shown,) = deepcopy(schemas["ForecastAnswer"]["examples"])
    for answer in (got, shown):
        answer["forecast"] = {
            name: cells if name in ("unique_id", "ds") else len(cells)
            for name, cells in answer["forecast"].items()
        }
        answer["timing_ms"] = {*answer["timing_ms"]}
    assert got == shown | {"id": got["id"], "model": got["model"]}


def test_every_answer_that_is_shown_is_as_described(api: dict[str, Any]) -> None:
    """The sample of an answer must be one that the service could give."""
    document, wrong = Document(api), dict[str, list[str]]()
    for name, schema in api["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            if faults := document.faults(schema, example):
                wrong[name] = faults
    assert wrong == {}


UNVOUCHED = {
    "/v1/forecasts": {"model": "patchtst/1", "data": {"ds": ["2026-01-01"], "y": [1.0]}},
    "/v2/models/patchtst/versions/1/infer": {
        "inputs": [{"name": "y", "datatype": "FP64", "shape": [1, 1], "data": [1.0]}]
    },
    "/compat/nixtla/v2/forecast": {
        "model": "patchtst/1",
        "series": {"y": [1.0, 2.0], "sizes": [2]},
        "freq": "D",
        "h": 1,
    },
}


@pytest.mark.parametrize("route", UNVOUCHED)
def test_a_version_that_nobody_vouches_for_is_refused_for_good(
    described: Running, route: str
) -> None:
    """503 would have clients wait and repeat for ever."""
    problem = described.client.post(route, json=UNVOUCHED[route]).json()
    assert (problem["status"], problem["type"]) == (422, "/problems/model-incompatible")
    assert "not known to the store" in problem["detail"]
    watched = described.client.get("/v1/monitors/patchtst?version=1")
    assert watched.status_code == 422


def run(running: Running, folder: Path, *arguments: str) -> str:
    """All checks of schemathesis, and its report; it is shown where one fails."""
    address = f"{running.client.base_url}/openapi.json"
    command = [str(COMMAND), "--config-file", str(CONFIG), "run", address, "--no-color"]
    done = subprocess.run(
        [*command, "--seed", "1", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_examples_are_accepted(described: Running, tmp_path: Path) -> None:
    """Who copies a sample of the documentation gets an answer."""
    run(described, tmp_path, "--phases", "examples")


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_every_route_does_what_it_says(
    described: Running, tmp_path: Path, record_property: Told
) -> None:
    """B10: thousands of requests by the schema and against it: none is a defect, none is misread."""
    phases = ("--phases", "examples,coverage,fuzzing", "--max-examples", "20")
    report = run(described, tmp_path, *phases)
    counted = re.search(r"([\d,]+) generated", report)
    told = counted[1] if counted else report.splitlines()[-1]
    record_property("B10", f"{told} requests generated: 0 of 5xx, every answer as described")
