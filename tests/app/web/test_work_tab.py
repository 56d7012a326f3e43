"""One run of a tab with a large button: what the page is told, and what is left when the visitor goes."""

from __future__ import annotations

import asyncio
import contextlib
import re
from types import SimpleNamespace

import pytest

from app.web.runs import RunBook
from app.web.speech_run import View
from app.web.work_tab import WorkTab
from genmm.core.errors import Cancelled, GenerationError
from genmm.core.events import Finished, Progress


class CountingTab(WorkTab):
    key, title, progress, buttons = "count", "Count", "progress", None

    def __init__(self):
        self.server = SimpleNamespace(runs=RunBook())

    def _finished(self, result, elapsed_s, visit):
        return {"result": (result, visit), "seconds": elapsed_s}


VISITOR = SimpleNamespace(session_hash="visitor")


def told(tab, work, most=100, **options):
    """The updates of one run, or the first `most` of them before the visitor leaves."""

    async def run():
        updates = []
        async with contextlib.aclosing(tab._run(VISITOR, work, "visit", **options)) as events:
            async for update in events:
                updates.append(update)
                if len(updates) == most:
                    break
        return updates

    return asyncio.run(run())


def lines(updates):
    """The text of the progress in each update that changes it."""
    return [re.sub("<[^>]+>", " ", update["progress"]).split()[0] for update in updates if "progress" in update]


def test_a_stage_is_told_when_it_begins_and_its_steps_now_and_then():
    def work(token):
        for stage in ("Reading", "Drawing"):
            yield Progress(0, 50, "steps", stage)
            yield from (Progress(step, 50, "steps", f"{stage}-{step}") for step in range(1, 51))
        yield Finished(7)

    updates = told(CountingTab(), work, cleared={"old": None})
    assert updates[0].keys() == {"progress", "old"}
    assert updates[-1]["result"] == (7, "visit") and updates[-1]["seconds"] >= 0
    shown = lines(updates)
    assert [line for line in shown if "-" not in line] == ["Starting", "Reading", "Drawing"]
    assert len(shown) < 20


def test_the_live_tab_tells_that_a_stage_begins_too():
    view = View(SimpleNamespace(progress="progress", live="live"))
    events = [Progress(99, 100, "steps", "Speaking"), Progress(0, None, "", "Drawing"), Progress(1, 9, "", "Drawing-1")]
    assert lines([update for event in events for update in view.updates(event)]) == ["Speaking", "Drawing"]


def test_a_cancelled_run_says_so_and_one_without_a_result_is_an_error():
    tab = CountingTab()

    def stopped(token):
        yield Progress(0, None, "", "Reading")
        raise Cancelled()

    assert lines(told(tab, stopped)) == ["Starting", "Reading", "Cancelled."]
    with pytest.raises(GenerationError, match="without a result"):
        told(tab, lambda token: iter([Progress(0, None, "", "Reading")]))
    assert tab.server.runs.active() == []


def test_a_visitor_who_leaves_ends_the_run():
    tab, seen = CountingTab(), []

    def work(token):
        try:
            while True:
                token.check()
                yield Progress(0, None, "", "Reading")
        finally:
            seen.append(token.cancelled)

    told(tab, work, most=3)
    assert seen == [True] and tab.server.runs.active() == []
