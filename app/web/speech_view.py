"""Sentences and HTML about a finished speech; all text from outside is escaped here."""

from __future__ import annotations

from app.web.messages import escape
from app.web.speech_work import Spoken, Take

__all__ = ["facts_html", "stop_text", "summary"]

STOP_TEXTS = {
    "stop": "ended by itself",
    "length": "cut at the longest length for this text",
    "collapse": "cut because the sound stood still",
    "not finite": "cut because the numbers broke down",
}
"""Stop reason of the pipeline -> what a visitor reads."""


def stop_text(reason: str) -> str:
    """Why a take ended, in words."""
    return STOP_TEXTS.get(reason, reason.replace("_", " "))


def summary(spoken: Spoken, elapsed_s: float, first_sound_s: float | None) -> str:
    """One line: how much sound, how fast."""
    seconds = sum(take.seconds for take in spoken.takes)
    takes = f" in {len(spoken.takes)} takes" if len(spoken.takes) > 1 else ""
    first = "" if first_sound_s is None else f", first sound after {first_sound_s:.2f} s"
    return f"Done: {seconds:.1f} s of sound{takes}, made in {elapsed_s:.1f} s{first}."


def facts_html(spoken: Spoken, take: Take) -> str:
    """A small table about one take."""
    rows = [("Text understood", spoken.text_spoken)]
    rows += [("Voice", spoken.voice), ("Model", spoken.model)]
    rows += [("Length", f"{take.seconds:.2f} s, {stop_text(take.stop_reason)}"), ("Seed", str(take.seed))]
    rows += [("Note", note) for note in spoken.notes]
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f'<dl class="gm-list">{cells}</dl>'
