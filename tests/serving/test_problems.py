"""One table decides what an exception means to a client, and nothing of the inside gets out."""

from __future__ import annotations

from typing import get_args

import orjson
import pytest
from starlette.requests import Request

from serving.batcher import OverloadedError
from serving.problems import KINDS, LEAVE, Item, Problem, problem_of, respond
from serving.schemas.series import Options
from tsformer import errors

SECRET = "/home/secret/path"


def request() -> Request:
    return Request({"type": "http", "path": "/v1/x", "headers": [], "state": {"request_id": "r"}})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ConfigError(SECRET), 422),
        (errors.DataError(SECRET), 422),
        (errors.NotFoundError(SECRET), 404),
        (errors.UnavailableError(SECRET), 503),
        (errors.ArtifactError(SECRET), 422),
        (errors.ShapeError(SECRET), 500),
        (OverloadedError(SECRET), 503),
        (TimeoutError(SECRET), 504),
        (MemoryError(SECRET), 413),
        (ValueError(SECRET), 500),
    ],
)
def test_every_exception_has_a_status_and_keeps_its_message(error: Exception, status: int) -> None:
    answer = respond(problem_of(error), request(), most=20)
    body = orjson.loads(answer.body)
    assert answer.status_code == body["status"] == status
    assert answer.media_type == "application/problem+json"
    assert SECRET not in bytes(answer.body).decode()
    assert body["type"].removeprefix("/problems/") in KINDS
    assert body["request_id"] == "r"
    assert ("retry-after" in answer.headers) == (status == 503)


def test_an_error_has_words_of_its_own_for_a_client() -> None:
    """They are told where there are some; the message itself may quote what was sent."""
    problem = problem_of(errors.ConfigError(SECRET, told="Give a number of steps."))
    assert problem.detail == "Give a number of steps."


def test_an_outage_is_not_called_loading() -> None:
    """A service that is ready cannot tell its callers to wait until it has loaded."""
    assert "does not answer now" in problem_of(errors.UnavailableError(SECRET)).detail
    told = problem_of(errors.UnavailableError(SECRET, told="Give models.default."))
    assert told.detail == "Give models.default."


def test_the_remedy_for_data_names_every_value_of_the_options() -> None:
    for option, own in (("on_invalid", "fail"), ("fill", "none")):
        values = {*get_args(Options.model_fields[option].annotation)} - {own}
        assert values
        assert all(value in LEAVE for value in values)


def test_at_most_twenty_errors_are_listed_and_all_are_counted() -> None:
    items = [Item(f"fault {i}") for i in range(50)]
    body = orjson.loads(respond(Problem("invalid-data", "", items), request(), most=20).body)
    assert (len(body["errors"]), body["error_count"], body["truncated"]) == (20, 50, True)
