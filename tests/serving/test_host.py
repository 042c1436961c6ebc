"""Batches of real forecasters, and what becomes of a window, or an engine, that fails."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from pipelines.forecaster import Forecaster
from pipelines.query import Floats, Query
from serving.host import Answered, DiedError, Host, Lane
from serving.limits import Limits
from serving.metrics import Metrics
from serving.settings import Batching
from tests.serving.running import CONTEXT, HORIZON
from tsformer.errors import UnavailableError

POISON = 666.0


class Engine:
    """A forecaster that raises on a poison value, as a model with a defect would."""

    def __init__(self, model: Forecaster, *, seconds: float = 0.0) -> None:
        self.model, self.seconds = model, seconds
        self.batches: list[int] = []

    async def prepare(self, version: str) -> None:
        raise UnavailableError(version)

    async def loaded(self) -> list[tuple[str, ...]]:
        return []

    async def run(self, _version: str, query: Query, levels: tuple[float, ...]) -> Floats:
        self.batches.append(len(query))
        await asyncio.sleep(self.seconds)
        if (query.past == POISON).any():
            raise ValueError("poison")
        return self.model.answer(query, levels)


def query(rows: int, *, seed: int = 0) -> Query:
    return Query(np.random.default_rng(seed).normal(size=(rows, CONTEXT, 1)))


async def ask(host: Host, asked: Query, *levels: float, seconds: float = 5.0):
    return await host.answer("m/1", asked, levels, horizon=HORIZON, seconds=seconds)


def host(engine: Engine, **limits: int) -> Host:
    return Host(Lane(engine), batching=Batching(), limits=Limits(**limits), metrics=Metrics())


def test_requests_for_different_levels_share_a_batch(model: Forecaster) -> None:
    engine = Engine(model)

    async def scenario() -> list[Floats]:
        place = host(engine)
        levels = [(), (0.1,), (0.9, 0.2), (0.5,)]
        asked = [ask(place, query(1, seed=i), *chosen) for i, chosen in enumerate(levels)]
        return [answered.values for answered in await asyncio.gather(*asked)]

    values = asyncio.run(scenario())
    assert engine.batches == [4]
    for seed, (answer, levels) in enumerate(
        zip(values, [(), (0.1,), (0.9, 0.2), (0.5,)], strict=True)
    ):
        np.testing.assert_allclose(answer, model.answer(query(1, seed=seed), levels), atol=1e-5)


def test_a_series_on_which_the_model_fails_is_missing_alone(model: Forecaster) -> None:
    asked = query(9)
    asked.past[4, 7] = POISON
    answered = asyncio.run(ask(host(Engine(model)), asked, 0.5))
    assert answered.failed == (4,)
    assert np.flatnonzero(np.isnan(answered.values).any(axis=(1, 2, 3))).tolist() == [4]


def test_a_series_at_which_the_process_died_is_not_asked_again(model: Forecaster) -> None:
    """F7: it would kill two more replicas each time that its client repeats, in whatever company."""

    class Mortal(Engine):
        deaths = 0

        async def run(self, version: str, asked: Query, levels: tuple[float, ...]) -> Floats:
            if (asked.past == POISON).any():
                self.deaths += 1
                raise DiedError
            return await super().run(version, asked, levels)

    engine, asked, others = Mortal(model), query(9), query(3, seed=1)
    asked.past[4, 7] = POISON
    others.past[0] = asked.past[4]

    async def scenario() -> list[Answered]:
        place = host(engine)
        return [await ask(place, each, 0.5) for each in (asked, asked, others)]

    first, second, third = asyncio.run(scenario())
    assert engine.deaths == 2
    assert (first.failed, second.failed, third.failed) == ((4,), (4,), (0,))
    expected = model.answer(asked, (0.5,))
    expected[4] = np.nan
    for answered in (first, second):
        np.testing.assert_allclose(answered.values, expected, atol=1e-5)
    np.testing.assert_allclose(third.values[1:], model.answer(others, (0.5,))[1:], atol=1e-5)


def test_a_query_without_series_needs_no_model(model: Forecaster) -> None:
    engine = Engine(model)
    assert asyncio.run(ask(host(engine), query(0))).values.shape == (0, HORIZON, 1, 1)
    assert engine.batches == []


def test_a_hanging_engine_does_not_hold_its_place(model: Forecaster) -> None:
    """F5: a stopped replica must cost its callers their deadline and nobody else's."""
    engine = Engine(model, seconds=30.0)

    async def scenario() -> None:
        place = host(engine, deadline_ms=200)
        with pytest.raises(TimeoutError):
            await ask(place, query(1), seconds=0.1)
        engine.seconds = 0.0
        await ask(place, query(1))

    asyncio.run(scenario())


def test_requests_of_one_batch_do_not_share_an_exception(model: Forecaster) -> None:
    """Raised in several tasks at once, one exception would carry the tracebacks of all of them."""

    class Away(Engine):
        async def run(self, _version: str, _query: Query, _levels: tuple[float, ...]) -> Floats:
            raise UnavailableError("away")

    async def scenario() -> list[object]:
        place = host(Away(model))
        return await asyncio.gather(
            *(ask(place, query(1)) for _ in range(3)), return_exceptions=True
        )

    errors = asyncio.run(scenario())
    assert [(type(error), str(error)) for error in errors] == [(UnavailableError, "away")] * 3
    assert len({id(error) for error in errors}) == 3


def test_the_age_of_the_queue_is_that_of_its_oldest_request(model: Forecaster) -> None:
    """A person on call must see that requests wait before their deadlines pass."""
    engine = Engine(model, seconds=30.0)

    async def scenario() -> list[float]:
        place = host(engine)
        ages = [place.oldest_s]
        running, waiting = (asyncio.ensure_future(ask(place, query(1))) for _ in range(2))
        while not engine.batches:
            await asyncio.sleep(0.001)
        late = asyncio.ensure_future(ask(place, query(1)))
        await asyncio.sleep(0.02)
        ages.append(place.oldest_s)
        for task in (running, waiting, late):
            task.cancel()
        await asyncio.gather(running, waiting, late, return_exceptions=True)
        return [*ages, place.oldest_s]

    before, during, after = asyncio.run(scenario())
    assert (before, after) == (0.0, 0.0)
    assert 0.01 < during < 5
