"""The part of a recording that is to be made anew: chosen by clicks on its waveform, or by numbers."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.web.messages import reported
from app.web.music_wave import moved_region, region_picture, seconds_at
from app.web.tab import QUICK
from genmm.core.errors import UsageError
from genmm.core.limits import Limits
from genmm.media.audio import read_audio

__all__ = ["Region"]

HOW = "Click where the new part begins, then where it ends; or type both below. Everything else stays as it is."
NOTHING = {"start": True, "seconds": 0.0}
"""State before there is a recording: whether the next click is a start, and the length of the recording."""


class Region:
    """Waveform, start and end; drawn where it is made."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        gr.HTML(f'<p class="gm-dim gm-above-wave">{HOW}</p>')
        self.wave = gr.Image(
            show_label=False, container=False, interactive=False, buttons=[], elem_id="music-wave", format="png"
        )
        with gr.Row():
            self.start_s = gr.Number(0.0, label="Start (s)", info="Where the new part begins.", minimum=0)
            self.end_s = gr.Number(0.0, label="End (s)", info="Where it ends.", minimum=0)
        self.click = gr.State(dict(NOTHING))

    def connect(self, source: gr.Audio) -> None:
        """Follow a recording, clicks and typed numbers."""
        places = [self.start_s, self.end_s]
        shown = [self.wave, *places, self.click]
        source.change(self.heard, source, shown, **QUICK)
        self.wave.select(self.clicked, [source, *places, self.click], shown, **QUICK)
        typed = [event for box in places for event in (box.submit, box.blur)]
        gr.on(typed, self.redrawn, [source, *places], self.wave, **QUICK)

    def heard(self, path: str | None) -> tuple[Any, ...]:
        """A new recording: its waveform with the middle fifth marked."""
        with reported("music"):
            if not path:
                return None, 0.0, 0.0, dict(NOTHING)
            audio = read_audio(path, limits=self.limits)
            region = (round(audio.seconds * 0.4, 2), round(audio.seconds * 0.6, 2))
            state = {"start": True, "seconds": audio.seconds}
            return region_picture(audio.samples, audio.seconds, region), *region, state

    def clicked(
        self, path: str | None, start_s: float, end_s: float, state: dict[str, Any], event: gr.SelectData
    ) -> tuple[Any, ...]:
        """A click on the waveform: the start, then the end, and so on in turn."""
        with reported("music"):
            if not path or not state["seconds"]:
                raise UsageError("give a recording first")
            place = seconds_at(event.index[0], state["seconds"])
            start, end = moved_region((float(start_s or 0), float(end_s or 0)), place, state["start"], state["seconds"])
            state = {**state, "start": not state["start"]}
            return self.redrawn(path, start, end), round(start, 2), round(end, 2), state

    def redrawn(self, path: str | None, start_s: float, end_s: float) -> Any:
        """The waveform with the region marked."""
        with reported("music"):
            if not path:
                return None
            audio = read_audio(path, limits=self.limits)
            return region_picture(audio.samples, audio.seconds, (float(start_s or 0), float(end_s or 0)))
