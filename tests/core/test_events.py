import threading
import time

import numpy as np
import pytest

from genmm.core.errors import Cancelled, GenerationError
from genmm.core.events import CancelToken, Finished, PartialAudio, Progress, drain, reported


def test_drain_hands_on_every_event_and_gives_the_result():
    piece = PartialAudio(np.zeros(4, np.float32), 16_000)
    stream = [Progress(0, 2, "frames", "start"), piece, Progress(2, 2), Finished("sound")]
    seen = []
    assert drain(iter(stream), seen.append) == "sound"
    assert seen == stream


def test_drain_of_a_list_without_callback():
    assert drain([Finished(None)]) is None


def test_a_stream_without_end_is_a_fault():
    with pytest.raises(GenerationError, match="without a result"):
        drain([Progress(1)])


def test_drain_closes_the_stream_when_the_callback_fails():
    closed = []

    def events():
        try:
            yield Progress(0)
            yield Finished(1)
        finally:
            closed.append(True)

    def fail(event):
        raise RuntimeError("the page is gone")

    with pytest.raises(RuntimeError, match="gone"):
        drain(events(), fail)
    assert closed == [True]


def test_errors_of_the_work_come_through():
    def events():
        yield Progress(0)
        raise Cancelled()

    with pytest.raises(Cancelled):
        drain(events())


@pytest.mark.parametrize(("done", "total", "share"), [(1, 4, 0.25), (5, 4, 1.0), (0, 0, 1.0), (3, None, None)])
def test_fraction(done, total, share):
    assert Progress(done, total).fraction == share


def test_cancel_is_seen_by_another_thread_within_a_step():
    token, steps = CancelToken(), []

    def work():
        with pytest.raises(Cancelled):
            while True:
                token.check()
                steps.append(1)
                time.sleep(0.001)

    worker = threading.Thread(target=work)
    worker.start()
    while not steps:
        time.sleep(0.001)
    token.cancel()
    worker.join(timeout=5)
    assert not worker.is_alive()
    assert token.cancelled


def test_many_threads_may_cancel_at_once():
    token = CancelToken()
    threads = [threading.Thread(target=token.cancel) for _ in range(16)]
    for thread in threads:
        thread.start()
    assert token.wait(5)
    for thread in threads:
        thread.join()
    assert token.cancelled


def test_a_fresh_token_lets_work_go_on():
    token = CancelToken()
    token.check()
    assert not token.cancelled
    assert not token.wait(0.001)


def test_reported_work_is_a_stream_with_a_result():
    def work(say):
        for done in range(3):
            say(Progress(done, 3))
        return "made"

    def events():
        seen.append((yield from reported(work, CancelToken())))

    seen: list[str] = []
    assert [event.done for event in events()] == [0, 1, 2] and seen == ["made"]


def test_reported_work_raises_where_it_is_read():
    def work(say):
        say(Progress(1))
        raise ValueError("broken")

    stream = reported(work, CancelToken())
    assert next(stream).done == 1
    with pytest.raises(ValueError, match="broken"):
        next(stream)


def test_leaving_reported_work_stops_it_and_waits_for_its_end():
    token, ended = CancelToken(), []

    def work(say):
        say(Progress(1))
        token.wait(30)
        ended.append(token.cancelled)

    stream = reported(work, token)
    next(stream)
    stream.close()
    assert ended == [True]
