"""A client of the service: a data frame goes in, and one of the same library comes out.

    from serving.client import Client

    with Client("http://127.0.0.1:8000", key="tsf_...") as client:
        answer = client.forecast(table, {"h": 24, "quantiles": [0.1, 0.9]})
        print(answer.table)

What a request may say beside its tables is that of the HTTP contract. Tables travel as Arrow. What
is refused is a `ServiceError` with the service's own words; what may pass is asked again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from uuid import uuid4

import httpx
import orjson

from serving.frames import MEDIA, Frame, alike, pack, unpack
from tsformer.errors import ConfigError, TsformerError, UnavailableError

# A front says BAD_GATEWAY where an ingress dies while it answers.
PASSING = (
    httpx.codes.TOO_MANY_REQUESTS, httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE,
)  # fmt: skip
BUSY = "idempotency-in-progress"  # a conflict that passes
LONGEST_WAIT_S = 8.0
LOOK_S = 0.5
ATTEMPTS = 8  # with 20 to 39 s of pauses: by then another ingress listens where one died
FINAL = ("succeeded", "failed", "cancelled")
Request = Mapping[str, Any]
Members = dict[str, Any]


class ServiceError(TsformerError):
    """What the service refused: its `status`, and its whole answer as `problem`."""

    def __init__(self, status: int, problem: Members) -> None:
        self.status = status
        self.problem = problem
        super().__init__(_told(status, problem))


@dataclass(frozen=True, slots=True)
class Answer:
    """Numbers in `table`, an entry a series in `series`, and all other members of the answer."""

    table: Frame
    series: Frame
    members: Members


class Client:
    """One service. Closed after use, or used as a context.

    `seconds` is how long an answer may take, and a wait that the service asks for; `attempts` how
    often a request is made where nobody answers, or the service says that it is busy.
    """

    def __init__(
        self, url: str, *, key: str | None = None, seconds: float = 60.0, attempts: int = ATTEMPTS
    ) -> None:
        if attempts < 1:
            raise ConfigError(f"attempts must be at least 1, got {attempts}.")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=seconds)
        self._attempts, self._seconds = attempts, seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()

    # --- forecasts ------------------------------------------------------------------------------

    def forecast(
        self,
        data: Frame,
        request: Request | None = None,
        *,
        future: Frame | None = None,
        static: Frame | None = None,
    ) -> Answer:
        """Forecasts of the series of `data` (POST /v1/forecasts)."""
        return self._tables("/v1/forecasts", request, data, future=future, static=static)

    def compare(
        self,
        data: Frame,
        request: Request,
        *,
        future: Frame | None = None,
        static: Frame | None = None,
    ) -> Answer:
        """Forecasts of several models in one table, with a leaderboard (POST /v1/compare)."""
        return self._tables("/v1/compare", request, data, future=future, static=static)

    def anomalies(
        self,
        data: Frame,
        request: Request | None = None,
        *,
        future: Frame | None = None,
        static: Frame | None = None,
    ) -> Answer:
        """The last points of each series, and which of them are odd (POST /v1/anomalies)."""
        return self._tables("/v1/anomalies", request, data, future=future, static=static)

    # --- what stays -----------------------------------------------------------------------------

    def actuals(self, data: Frame, request: Request | None = None) -> Members:
        """Tells what really happened; how many values were new (POST /v1/actuals)."""
        return _members(self._create("/v1/actuals", pack(request or {}, {"data": data}), MEDIA))

    def upload(self, name: str, data: Frame, *, static: Frame | None = None) -> str:
        """Keeps a table as a version of the dataset `name`; gives `name/version` for jobs."""
        tables = {"data": data} | ({} if static is None else {"static": static})
        made = _members(self._create("/v1/datasets", pack({"name": name}, tables), MEDIA))
        return f"{made['name']}/{made['version']}"

    def submit(self, type: str, spec: Request) -> Job:
        """Gives the service long work to do (POST /v1/jobs)."""
        sent = orjson.dumps({"type": type, "spec": spec})
        return Job(self, _members(self._create("/v1/jobs", sent, "application/json"))["id"])

    def models(self) -> Iterator[Members]:
        """All models of the service (GET /v1/models), page after page."""
        query: dict[str, str] = {}
        while True:
            page = _members(self.ask("GET", "/v1/models", params=query))
            yield from page["items"]
            if page["next"] is None:
                return
            query = {"cursor": page["next"]}

    # --- the way there --------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The answer to one request, made again where that may help.

        Raises ServiceError for what is refused and UnavailableError where nobody answers. Only
        requests that do no harm when they arrive twice belong here: all of this client's.
        """
        attempt = 0
        while True:
            attempt += 1
            last = attempt == self._attempts
            try:
                reply = self._http.request(
                    method, path, content=content, headers=headers, params=params
                )
            except httpx.TransportError as error:
                if last or isinstance(error, httpx.ReadTimeout):  # which a second time takes longer
                    where, why = self._http.base_url, type(error).__name__
                    raise UnavailableError(
                        f"{where} does not answer ({why}; asked {attempt} times)."
                    ) from error
                time.sleep(_pause(attempt, 0.0))
                continue
            if not reply.is_error:
                return reply
            said = _seconds_of(reply.headers.get("Retry-After", ""))
            if last or not _passes(reply) or said > self._seconds:
                raise ServiceError(reply.status_code, _problem(reply))
            time.sleep(_pause(attempt, said))

    def _create(self, path: str, content: bytes, media: str) -> httpx.Response:
        """A request that makes something: under a key of its own, so that it is made once."""
        headers = {"Content-Type": media, "Idempotency-Key": uuid4().hex}
        return self.ask("POST", path, content=content, headers=headers)

    def _tables(
        self,
        path: str,
        request: Request | None,
        data: Frame,
        *,
        future: Frame | None,
        static: Frame | None,
    ) -> Answer:
        given = {"data": data, "future": future, "static": static}
        tables = {name: frame for name, frame in given.items() if frame is not None}
        headers = {"Content-Type": MEDIA, "Accept": MEDIA}
        reply = self.ask("POST", path, content=pack(request or {}, tables), headers=headers)
        return answer_of(reply.content, data)


@dataclass(frozen=True, slots=True)
class Job:
    """Long work at the service; `id` finds it again: `Job(client, id)`."""

    client: Client
    id: str

    def state(self) -> Members:
        """The job as it stands."""
        return _members(self.client.ask("GET", self._path))

    def wait(self, *, seconds: float = 3_600.0) -> Members:
        """The job at its end; UnavailableError where that takes longer than `seconds`."""
        until = time.monotonic() + seconds
        while (found := self.state())["state"] not in FINAL:
            if time.monotonic() > until:
                raise UnavailableError(
                    f"{self.id} is {found['state']} after {seconds:.0f} s. It goes on: ask later."
                )
            time.sleep(LOOK_S)
        return found

    def result(self, *, seconds: float = 3_600.0) -> Members:
        """What came of the job, once it is done; ServiceError where it failed."""
        return _members(self._result("application/json", seconds=seconds))

    def table(self, like: Frame, *, seconds: float = 3_600.0) -> Answer:
        """The numbers of a job that forecasts, as a frame of the library of `like`."""
        return answer_of(self._result(MEDIA, seconds=seconds).content, like)

    def cancel(self) -> None:
        """Ends the job."""
        self.client.ask("POST", f"{self._path}/cancel")

    def _result(self, media: str, *, seconds: float) -> httpx.Response:
        """The result as `media`; the job's own problem where it failed."""
        found = self.wait(seconds=seconds)
        if found["state"] == "failed":
            raise ServiceError(found["error"]["status"], found["error"])
        return self.client.ask("GET", f"{self._path}/result", headers={"Accept": media})

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{self.id}"


def answer_of(content: bytes, like: Frame) -> Answer:
    """The answer in Arrow streams, as frames of the library of `like`."""
    members, tables = unpack(content)
    return Answer(alike(tables["forecast"], like), alike(tables["series"], like), members)


# --- words and waits ------------------------------------------------------------------------------


def _members(reply: httpx.Response) -> Members:
    found: Members = orjson.loads(reply.content)
    return found


def _problem(reply: httpx.Response) -> Members:
    """The problem document; a proxy on the way may answer something else."""
    try:
        found = orjson.loads(reply.content)
    except orjson.JSONDecodeError:
        found = None
    return found if isinstance(found, dict) else {"detail": reply.reason_phrase}


def _told(status: int, problem: Members) -> str:
    """A problem in one line, and a line for each place of it."""
    head = f"{status} {problem.get('title', '')}: {problem.get('detail', '')}".replace(" : ", ": ")
    places = [
        f"\n- {item.get('pointer', '')}{_series_of(item)}: {item.get('message', '')}"
        for item in problem.get("errors") or ()
    ]
    asked = problem.get("request_id")
    return f"{head}{f' (request {asked})' if asked else ''}{''.join(places)}"


def _series_of(item: Members) -> str:
    return f" (series {item['unique_id']})" if "unique_id" in item else ""


def _passes(reply: httpx.Response) -> bool:
    """Whether the same request may be answered later."""
    if reply.status_code == httpx.codes.CONFLICT:
        return str(_problem(reply).get("type", "")).endswith(BUSY)
    return reply.status_code in PASSING


def _seconds_of(retry_after: str) -> float:
    """What Retry-After says in seconds; 0 where it says a date, or nothing."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0


def _pause(attempt: int, said: float) -> float:
    """Seconds to wait: as the service `said`, else longer each time, and never all at one moment."""
    longest = min(LONGEST_WAIT_S, 0.5 * 2**attempt)
    return said + random.uniform(0, longest) if said else random.uniform(longest / 2, longest)
