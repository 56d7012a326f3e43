"""Runs: isolated by session, cancelled within one step, never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from app.web.runs import RunBook, stream_events, stream_work
from genmm.core.errors import Cancelled, UsageError
from genmm.core.events import CancelToken, Finished, Progress


class Steps:
    """Endless work that counts its steps and notes when it was closed."""

    def __init__(self, looks_at_token: bool = True) -> None:
        self.done, self.closed, self.looks_at_token = 0, threading.Event(), looks_at_token
        self.go = threading.Semaphore(0)

    def __call__(self, token: CancelToken):
        try:
            while True:
                self.go.acquire(timeout=300)
                if self.looks_at_token:
                    token.check()
                self.done += 1
                yield Progress(self.done)
        finally:
            self.closed.set()


async def first(events, steps: Steps):
    steps.go.release()
    return await anext(events)


def test_events_come_in_order_and_the_end_is_the_end():
    def make(token):
        yield from (Progress(n) for n in range(50))
        yield Finished("whole")

    async def collect():
        return [event async for event in stream_events(make, CancelToken())]

    events = asyncio.run(collect())
    assert [event.done for event in events[:-1]] == list(range(50))
    assert events[-1].result == "whole"


def test_errors_of_the_work_reach_the_consumer():
    def make(token):
        yield Progress(0)
        raise UsageError("too long")

    async def collect():
        return [event async for event in stream_events(make, CancelToken())]

    with pytest.raises(UsageError, match="too long"):
        asyncio.run(collect())


@pytest.mark.parametrize("looks_at_token", [True, False])
def test_a_token_set_from_elsewhere_stops_at_the_next_step(looks_at_token):
    steps, token = Steps(looks_at_token), CancelToken()

    async def run():
        async with contextlib.aclosing(stream_events(steps, token)) as events:
            await first(events, steps)
            token.cancel()
            steps.go.release(3)
            with pytest.raises(Cancelled):
                await anext(events)

    asyncio.run(run())
    assert steps.done <= 2
    assert steps.closed.is_set()


def test_leaving_stops_the_work_and_waits_for_it():
    steps, token = Steps(), CancelToken()

    async def run():
        async with contextlib.aclosing(stream_events(steps, token)) as events:
            await first(events, steps)
            steps.go.release()
        return steps.closed.is_set()

    assert asyncio.run(run())
    assert token.cancelled
    assert steps.done <= 2


def test_a_cancelled_task_stops_the_work_and_waits_for_it():
    steps, token = Steps(), CancelToken()

    async def consume():
        async with contextlib.aclosing(stream_events(steps, token)) as events:
            async for _ in events:
                pass

    async def run():
        task = asyncio.create_task(consume())
        steps.go.release()
        while not steps.done:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()  # the step under way is waited for
        task.cancel()  # impatience changes nothing
        steps.go.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        return steps.closed.is_set()

    assert asyncio.run(run())


def test_work_that_calls_back_is_streamed_too():
    def work(token, post):
        post(Progress(1))
        post(Finished(token.cancelled))

    async def collect():
        return [event async for event in stream_work(work, CancelToken())]

    events = asyncio.run(collect())
    assert events[0] == Progress(1)
    assert events[1].result is False


def test_a_session_cancels_its_own_runs_only():
    book = RunBook()
    with (
        book.open("anna", "speech") as mine,
        book.open("anna", "batch") as other,
        book.open("ben", "speech") as foreign,
    ):
        assert book.cancel("anna", "speech") == 1
        assert (mine.token.cancelled, other.token.cancelled, foreign.token.cancelled) == (True, False, False)
        assert book.cancel("nobody") == 0
        assert book.cancel("anna") == 2
        assert not foreign.token.cancelled
        assert [run.session for run in book.active()] == ["anna", "anna", "ben"]
    assert book.active() == []
    assert foreign.token.cancelled  # whoever still holds it must stop


def test_shutdown_cancels_everything():
    book = RunBook()
    with book.open("anna", "speech") as one, book.open("ben", "speech") as two:
        book.cancel_all()
        assert one.token.cancelled
        assert two.token.cancelled
