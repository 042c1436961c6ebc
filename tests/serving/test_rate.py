"""One key must not take the whole service: so many requests a minute, so many at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.requests import Request

from pipelines.forecaster import Forecaster
from pipelines.home import Home
from serving import keys
from serving.failures import ADDRESSES, MOST, Failures
from serving.hosts import address_of
from serving.limits import Limits
from serving.problems import Problem
from serving.rate import Rate
from serving.settings import Settings
from tests.figures import Told
from tests.serving.conftest import fresh_home
from tests.serving.keyed import new_key
from tests.serving.running import Running, application, listening, publish


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def passes(rate: Rate, prefix: str = "a") -> bool:
    try:
        with rate.turn(prefix):
            return True
    except Problem as problem:
        return problem.type != "rate-limited"


def test_sixty_of_120_pass_and_the_rest_are_told_when(record_property: Told) -> None:
    """S4: and in no minute, wherever it begins, more than the limit."""
    clock = Clock()
    rate = Rate(Limits(requests_per_minute=60), clock)
    passed = []
    for _ in range(240):  # two a second
        if passes(rate):
            passed.append(clock.now)
        clock.now += 0.5
    first = len([at for at in passed if at < 1_060])
    record_property("S4", f"of 120 requests in a minute {first} pass; in none more than 60")
    assert first == 60
    assert all(len([at for at in passed if at - 60 < end <= at]) <= 60 for end in passed)
    assert len(passed) == 120


def test_ten_wrong_keys_a_minute_are_looked_at(
    narrow: Running, narrow_home: Home, record_property: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S4: who tries keys must not keep the service busy, nor lock out who shares the address."""
    good = headers_of(narrow, new_key(narrow_home, "reader"))
    monkeypatch.setattr(narrow.app.state.service.failures, "_failed", {})  # before it was known
    looked, digest = list[str](), keys.digest_of

    def watched(text: str) -> str:
        looked.append(text)
        return digest(text)

    monkeypatch.setattr(keys, "digest_of", watched)
    ask, wrong = narrow.client.get, f"tsf_abcdefgh_{'A' * 43}"
    replies = [ask("/v1/models", headers={"Authorization": f"Bearer {wrong}"}) for _ in range(20)]
    assert [reply.status_code for reply in replies] == [401] * 10 + [429] * 10
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 60
    assert ask("/v1/models", headers=good).status_code == 200
    record_property(
        "S4", f"of 20 wrong keys {looked.count(wrong)} reach the hash, the others get 429"
    )
    assert looked.count(wrong) == 10
    elsewhere = {"Authorization": f"Bearer {wrong}", "X-Forwarded-For": "192.0.2.9"}
    assert (
        ask("/v1/models", headers=elsewhere).status_code == 401
    )  # as a front on this machine says


def test_an_address_from_elsewhere_is_not_believed() -> None:
    """S12: who names another address with each request would never be counted."""
    scope: dict[str, object] = {"type": "http", "headers": [(b"x-forwarded-for", b"192.0.2.9")]}
    for peer, address in (("198.51.100.7", "198.51.100.7"), ("127.0.0.1", "192.0.2.9")):
        assert address_of(Request({**scope, "client": (peer, 1)})) == address


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        (["203.0.113.1", "192.0.2.9"], "192.0.2.9"),  # as HAProxy adds a line of its own
        (["203.0.113.1, 192.0.2.9"], "192.0.2.9"),
        (["203.0.113.1, 203.0.113.2", "203.0.113.3, 192.0.2.9"], "192.0.2.9"),
        ([], "127.0.0.1"),
    ],
)
def test_an_address_is_what_the_front_added(lines: list[str], address: str) -> None:
    """S12: what a client writes before it would be another address with each wrong key."""
    headers = [(b"x-forwarded-for", line.encode()) for line in lines]
    request = Request({"type": "http", "headers": headers, "client": ("127.0.0.1", 1)})
    assert address_of(request) == address


def test_wrong_keys_are_forgotten_after_a_minute() -> None:
    """A script with a key of yesterday works again as soon as it has a new one."""
    clock = Clock()
    failures = Failures(clock)
    for _ in range(10):
        failures.check("a")
        failures.add("a")
    failures.check("b")
    with pytest.raises(Problem) as caught:
        failures.check("a")
    assert caught.value.headers == {"Retry-After": "60"}
    clock.now += 60
    failures.check("a")


def test_failures_that_nobody_checks_are_not_kept_for_ever() -> None:
    """A client that repeats an expired key for a year would take all memory; its prefix is known."""
    clock = Clock()
    failures = Failures(clock)
    for address in range(ADDRESSES):
        failures.add(str(address))
    for _ in range(1_000):
        failures.add("5")
        clock.now += 0.001
    assert len(failures._failed["5"]) == MOST
    assert len(failures._failed) == ADDRESSES
    failures.check("0")
    assert "0" in failures._failed  # who is known already costs no other its place
    with pytest.raises(Problem):
        failures.check("5")
    failures.add("new")
    assert "0" not in failures._failed
    clock.now += 60
    failures.check("5")


def test_a_refused_request_says_when_and_does_not_count() -> None:
    """A client that obeys Retry-After gets through; one that does not harms itself no further."""
    clock = Clock()
    rate = Rate(Limits(requests_per_minute=1), clock)
    assert passes(rate)
    clock.now += 20.5
    with pytest.raises(Problem) as caught, rate.turn("a"):
        pass
    assert caught.value.headers == {"Retry-After": "40"}
    assert caught.value.members == {"limit": "requests_per_minute", "maximum": 1}
    clock.now += 40
    assert passes(rate)


def test_keys_do_not_share_their_limits() -> None:
    """A busy tenant must not lock out the others."""
    rate = Rate(Limits(requests_per_minute=1, concurrent_requests=1), Clock())
    assert passes(rate, "a")
    assert not passes(rate, "a")
    assert passes(rate, "b")


def test_a_place_is_free_again_when_the_answer_is_out_or_failed() -> None:
    """A place that is never given back would lock a key out for ever."""
    rate = Rate(Limits(concurrent_requests=2), Clock())
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(rate.turn("a"))
        assert not passes(rate)
    with pytest.raises(KeyError), rate.turn("a"):
        raise KeyError
    assert passes(rate)


def test_beyond_what_is_answered_at_a_time_all_are_refused() -> None:
    """Who waits for the processor is in no queue: without a bound a crowd would wait for ever."""
    rate = Rate(Limits(requests_in_flight=2), Clock())
    with rate.place(), rate.place():
        with pytest.raises(Problem) as caught, rate.place():
            pass
        assert (caught.value.type, caught.value.members["maximum"]) == ("overloaded", 2)
    with rate.place():
        pass


def test_answers_that_go_on_are_counted_apart() -> None:
    """Who watches as many jobs as it may must still be able to cancel one of them."""
    rate = Rate(Limits(concurrent_requests=2), Clock())
    with rate.stream("a"), rate.stream("a"):
        with pytest.raises(Problem) as caught, rate.stream("a"):
            pass
        assert (caught.value.type, caught.value.members["maximum"]) == ("rate-limited", 2)
        with rate.stream("b"):
            assert passes(rate)
    with rate.stream("a"):
        pass


def test_several_ingresses_let_a_key_ask_as_often_as_one() -> None:
    """Each counts for itself; together they must not allow more than the contract says."""
    limits = Limits(requests_per_minute=61).of_ingress(2)
    rates = [Rate(limits, Clock(), ingresses=2) for _ in range(2)]
    assert sum(passes(rate) for rate in rates for _ in range(61)) == 60
    with pytest.raises(Problem, match="is 30 at each of 2 ingresses"), rates[0].turn("a"):
        pass


@pytest.fixture(scope="module")
def narrow_home(
    tmp_path_factory: pytest.TempPathFactory, database: Path, model: Forecaster
) -> Home:
    made = fresh_home(tmp_path_factory.mktemp("narrow"), database)
    publish(made, "small", model, tmp_path_factory.mktemp("artifact") / "small")
    new_key(made, "reader")  # closed from the start
    return made


@pytest.fixture(scope="module")
def narrow(narrow_home: Home) -> Iterator[Running]:
    """A service in which a key has five requests a minute, one at a time."""
    limits = {"requests_per_minute": 5, "concurrent_requests": 1}
    settings = Settings.read({"models": {"default": "small"}, "limits": limits})
    yield from listening(application(narrow_home, settings))


def headers_of(running: Running, key: str) -> dict[str, str]:
    """The headers of a key that the service knows by now."""
    headers = {"Authorization": f"Bearer {key}"}
    while running.client.get("/v1/models", headers=headers).status_code != 200:
        pass
    return headers


def test_the_sixth_request_of_a_minute_is_429_and_reading_is_not_counted(
    narrow: Running, narrow_home: Home
) -> None:
    """Whoever polls a job or a model list must not use up what forecasts need."""
    headers = headers_of(narrow, new_key(narrow_home, "forecaster"))
    for _ in range(5):
        assert narrow.client.get("/v1/models", headers=headers).status_code == 200
    replies = [narrow.post("/v1/forecasts", {}, **headers) for _ in range(6)]
    assert [reply.status_code for reply in replies] == [422] * 5 + [429]
    assert replies[5].json()["type"] == "/problems/rate-limited"
    assert 50 <= int(replies[5].headers["retry-after"]) <= 60


def test_a_second_request_at_once_is_429_until_the_first_is_answered(
    narrow: Running, narrow_home: Home
) -> None:
    """A client that opens a thousand connections must not take every place in the queue."""
    headers = headers_of(narrow, new_key(narrow_home, "forecaster"))
    begun, ended = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b"{"
        begun.set()
        ended.wait(20)
        yield b"}"

    def first() -> None:
        sent = {"content-type": "application/json", **headers}
        found.append(
            narrow.client.post("/v1/forecasts", content=slowly(), headers=sent).status_code
        )

    found: list[int] = []
    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(20)
    while (reply := narrow.post("/v1/compare", {}, **headers)).status_code == 422:
        pass  # it was faster than the first
    assert reply.json()["limit"] == "concurrent_requests"
    assert reply.headers["retry-after"] == "1"
    ended.set()
    thread.join()
    assert found == [422]
    assert narrow.post("/v1/compare", {}, **headers).status_code == 422
