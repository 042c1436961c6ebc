"""Bytes at the door: what is not strictly JSON of the schema is refused, early and without echo."""

from __future__ import annotations

import resource
import time
from contextlib import suppress

import orjson
import pytest

from serving import forms
from serving.limits import Limits
from serving.problems import Problem
from serving.schemas.forecasts import ForecastRequest
from serving.trees import parse

CANARY = "c4nary"


def refused(body: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        parse(ForecastRequest, body, Limits())
    return caught.value


MALFORMED = {
    "empty": b"",
    "not JSON": b"y=1&h=2",
    "not UTF-8": b'{"data": {"y": ["\xff"]}}',
    "cut off": b'{"data": {"y": [1, 2',
    "bare NaN": b'{"data": {"y": [1, NaN]}}',
    "bare Infinity": b'{"data": {"y": [1, -Infinity]}}',
    "lone surrogate": b'{"data": {"y": ["\\ud800"]}}',
    "lone surrogate as a name": b'{"data": {"\\ud800": [1]}}',
    "depth 33": b"[" * 33 + b"]" * 33,
    "depth 33 in a column": b'{"data": {"y": ' + b"[" * 31 + b"]" * 31 + b"}}",
    "depth 500": b"[" * 500,
    "depth 5 million": b"[" * 5_000_000,
}

INVALID = {
    "a list": (b"[]", ""),
    "no data": (b"{}", ""),
    "unknown member": (b'{"data": {"y": [1]}, "c4nary": 1}', ""),
    "unknown option": (b'{"data": {"y": [1]}, "options": {"c4nary": 1}}', "/options"),
    "data is a number": (b'{"data": 5}', "/data"),
    "a cell is a list": (b'{"data": {"y": [1, [2]]}}', "/data/y/1"),
    "a cell is an object": (b'{"data": {"y": [1, {}]}}', "/data/y/1"),
    "h is text": (b'{"data": {}, "h": "5"}', "/h"),
    "h is true": (b'{"data": {}, "h": true}', "/h"),
    "h is 1e3": (b'{"data": {}, "h": 1e3}', "/h"),
    "h is 0": (b'{"data": {}, "h": 0}', "/h"),
    "h is -1": (b'{"data": {}, "h": -1}', "/h"),
    "a level twice": (b'{"data": {}, "quantiles": [0.1, 0.1]}', "/quantiles"),
    "a level of five decimals": (b'{"data": {}, "quantiles": [0.12345]}', "/quantiles"),
    "level 1": (b'{"data": {}, "quantiles": [0.5, 1]}', "/quantiles/1"),
    "no reference": (b'{"data": {}, "model": "../c4nary"}', "/model"),
    "unknown choice": (b'{"data": {}, "options": {"fill": "c4nary"}}', "/options/fill"),
    "a column under two names": (b'{"data": {}, "columns": {"id": "y"}}', "/columns"),
    "member twice": (b'{"data": {"y": [1]}, "h": 1, "h" : 1}', ""),
    "column twice": (b'{"data": {"y": [1], "y": [2]}}', ""),
    "member twice behind odd strings": (b'{"data": {"a": [":", "\\":"]}, "h": 1, "h": 2}', ""),
    "2.7 million lists": (b'{"data": [' + b"[]," * 2_700_000 + b"[]]}", None),
    "100,000 wrong cells": (b'{"data": {"y": [' + b"[]," * 100_000 + b"[]]}}", None),
    "100,000 wrong columns": (
        orjson.dumps({"data": {str(i): [[]] for i in range(100_000)}}),
        None,
    ),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    assert refused(body).kind.status == 400


@pytest.mark.parametrize(("body", "pointer"), INVALID.values(), ids=INVALID)
def test_what_is_not_as_specified_is_invalid_at_its_place(body: bytes, pointer: str | None) -> None:
    problem = refused(body)
    assert problem.type == "invalid-request"
    assert CANARY not in str([problem.detail, *(item.message for item in problem.errors)])
    if pointer is not None:
        assert [item.pointer for item in problem.errors] == [pointer]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"data": {}, "freq": ["h"]}', "a valid string or a valid integer, not an array"),
        (b'{"data": {}, "h": 1.5}', "a valid integer, not a decimal number"),
        (b'{"data": {}, "quantiles": null}', "a valid array, not null"),
        (b'{"data": {}, "options": [1]}', "an object, not an array"),
        (b'{"data": {}, "quantiles": null, "options": null}', "a valid array, not null"),
        (
            b'{"data": {}, "h": true, "model": true, "options": true}',
            "a valid integer, not a boolean",
        ),
        (b'{"data": {}, "options": {"record": "no"}}', "a valid boolean, not a string"),
    ],
)
def test_a_wrong_type_is_told_with_what_came(body: bytes, message: str) -> None:
    (item,) = refused(body).errors
    assert item.message.startswith(f"Input should be {message}.")


def test_a_number_beyond_float64_is_not_finite() -> None:
    problem = refused(b'{"data": {}, "future": {"rain": [1, 1e999]}}')
    assert problem.type == "invalid-data"
    assert problem.errors[0].members() == {
        "pointer": "/future/rain/1",
        "code": "non_finite",
        "message": "The number is too large for a float64.",
    }


MANY = 1_000_000
HOSTILE = {
    "depth": MALFORMED["depth 5 million"],
    "width": INVALID["2.7 million lists"][0],
    "members": b"{" + b",".join(b'"%d":1' % n for n in range(MANY)) + b"}",
    "members of an option": b'{"options":{' + b'"a":1,' * MANY + b'"b":1}}',
    "a string without an end": b'{"data":{"y":["' + b"[" * 8 * MANY,
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_costs_little(body: bytes) -> None:
    """B3: 8 MiB of brackets took 181 MiB and 1.8 s in json.loads, 600 MiB in a naive pydantic."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    refused(body)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # KiB


LATE = 300_000
TABLES = {
    "cells": (b'"y":[' + b"1," * LATE + b"%s]", b"1", b"[]"),
    "texts": (b'"y":[' + b'"a",' * LATE + b"%s]", b'"a"', b"{}"),
    "numbers": (b'"y":[' + b"1.5," * LATE + b"%s]", b"1.5", b"1e999"),
    "numbers beside texts": (b'"y":["a",1.5,' + b"1," * LATE + b"%s]", b"1", b"9" * 400),
    "records": (b"[" + b'{"y":1,"ds":1},' * LATE + b"%s]", b'{"y":1}', b"[]"),
}


@pytest.mark.parametrize(("table", "good", "bad"), TABLES.values(), ids=TABLES)
def test_a_fault_behind_much_costs_no_more_than_none(table: bytes, good: bytes, bad: bytes) -> None:
    """Law 10: one wrong cell behind millions held the service for seconds."""
    table = table if table.startswith(b"[") else b"{" + table + b"}"
    honest, hostile = (b'{"data":' + table % last + b"}" for last in (good, bad))

    def cost(body: bytes) -> float:
        start = time.process_time()
        with suppress(Problem):
            forms.parse(ForecastRequest, body, Limits(), is_arrow=False)
        return time.process_time() - start

    cheapest = [min(map(cost, [body] * 3)) for body in (honest, hostile)]
    assert cheapest[1] < 3 * cheapest[0]


@pytest.mark.parametrize("number", [b"9" * 400, b"9" * 5_000, b"1e999"])
def test_a_number_of_any_length_is_no_fault_of_the_json(number: bytes) -> None:
    """Of 5,000 digits it was called no JSON, with the advice to put text in quotes."""
    problem = refused(b'{"data": {}, "static": {"a": [%s]}}' % number)
    assert (problem.type, problem.errors[0].code) == ("invalid-data", "non_finite")


def test_an_integer_that_no_float64_is_near_is_named() -> None:
    problem = refused(b'{"data": {}, "static": {"area": [1.5, 9%s]}}' % (b"0" * 400))
    assert problem.errors[0].members()["pointer"] == "/static/area/1"


def test_the_place_of_a_field_of_several_types_is_one_of_the_body() -> None:
    """Pydantic adds the name of a type, which a client would look for in vain."""
    problem = refused(b'{"data": {"y": [1]}, "options": {"resample": {"freq": []}}}')
    assert [item.pointer for item in problem.errors] == ["/options/resample/freq"]


def test_integers_numbers_and_texts_stay_what_they_are() -> None:
    """An id 1 must not come back as 1.0, nor "1" as 1."""
    body = b'{"data": {"id": [1, null], "n": [1, 2.5], "t": ["1", null], "m": [1, "1", true]}}'
    data = parse(ForecastRequest, body, Limits()).data
    assert repr(data) == repr(
        {"id": [1, None], "n": [1.0, 2.5], "t": ["1", None], "m": [1, "1", True]}
    )


def test_strings_with_quotes_and_colons_are_no_repeated_members() -> None:
    body = orjson.dumps({"data": {"t": [':"', '"h":', "\\", ' ":']}, "h": 1})
    assert parse(ForecastRequest, body, Limits()).h == 1
