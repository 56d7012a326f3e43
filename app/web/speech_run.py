"""One run of the Speech tab: which event changes what on the page."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from app.web.controls import progress_html
from app.web.sound import Cutter
from app.web.speech_work import Spoken
from app.web.work_tab import PAGE_UPDATES_S
from genmm.core.events import Finished, PartialAudio, Progress

if TYPE_CHECKING:
    from app.web.speech import SpeechTab

__all__ = ["View"]


@dataclass
class View:
    """Turns the events of one run into updates of the page."""

    tab: SpeechTab
    spoken: Spoken | None = None
    elapsed_s: float = 0.0
    first_sound_s: float | None = None

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.shown = 0.0
        self._first: tuple[int, float] | None = None
        self.cutter: Cutter | None = None

    def updates(self, event: Any) -> list[dict[Any, Any]]:
        """What the page shows for an event; often nothing."""
        if isinstance(event, PartialAudio):
            return self._sound(event)
        if isinstance(event, Progress):
            return self._progress(event)
        if isinstance(event, Finished):
            self.spoken = event.result
            self.elapsed_s = time.monotonic() - self.began
            return [{self.tab.live: piece} for piece in self.cutter.flush()] if self.cutter else []
        return []

    def _sound(self, event: PartialAudio) -> list[dict[Any, Any]]:
        if self.first_sound_s is None:
            self.first_sound_s = time.monotonic() - self.began
        if event.take != 0:
            return []
        if self.cutter is None:
            self.cutter = Cutter(event.sample_rate)
        pieces = self.cutter.push(np.asarray(event.samples, np.float32).reshape(-1))
        return [{self.tab.live: piece} for piece in pieces]

    def _progress(self, event: Progress) -> list[dict[Any, Any]]:
        now = time.monotonic()
        if event.done and now - self.shown < PAGE_UPDATES_S:
            return []
        self.shown = now
        return [{self.tab.progress: progress_html(event, self._left_s(event, now))}]

    def _left_s(self, event: Progress, now: float) -> float | None:
        """Seconds that are left at the speed since the first counted step; None while that says little."""
        if not event.done or not event.total:
            return None
        self._first = self._first or (event.done, now)
        done, elapsed_s = event.done - self._first[0], now - self._first[1]
        return None if elapsed_s < 1.0 or done < 1 else elapsed_s / done * (event.total - event.done)
