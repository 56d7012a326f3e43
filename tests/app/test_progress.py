"""Progress: nothing for short work, a bar on a terminal, few plain lines elsewhere."""

from __future__ import annotations

import io
import time

from app import progress
from app.progress import ProgressDisplay
from genmm.core.events import Finished, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_short_work_shows_nothing():
    for stream in (io.StringIO(), Terminal()):
        with ProgressDisplay("speaking", stream=stream) as show:
            show(Progress(1, 2, "frames"))
            show(Finished(None))
        assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_after_a_while():
    stream = Terminal()
    with ProgressDisplay("speaking", stream=stream, bar_after_s=0.05) as show:
        show(Progress(3, 10, "frames", "almost"))
        time.sleep(0.6)
        show(Progress(4, 10, "frames", "almost"))
        time.sleep(0.3)
    assert "speaking" in stream.getvalue()
    assert "/10" in stream.getvalue()


def test_elsewhere_plain_lines_appear_now_and_then(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.2)
    stream = io.StringIO()
    with ProgressDisplay("batch", stream=stream, bar_after_s=0.1) as show:
        for done in range(50):
            show(Progress(done, 50, "items", "1 failed" if done > 30 else ""))
            time.sleep(0.01)
    lines = stream.getvalue().splitlines()
    assert 1 <= len(lines) <= 4
    assert lines[0].startswith("batch: ")
    assert "/50 items, " in lines[0]
    assert "\x1b" not in stream.getvalue()


def test_work_of_unknown_length(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    stream = io.StringIO()
    with ProgressDisplay("pull", stream=stream, bar_after_s=0.0) as show:
        show(Progress(7, None, "files"))
    assert stream.getvalue() == "pull: 7 files, 0 s\n"
