"""Sentences, tables and the curve of a tokenized video; all text from outside is escaped here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.web.messages import escape
from app.web.video_moments import Moment
from app.web.video_work import Seen
from genmm.core.wording import counted, percent
from genmm.systems.vqtoken.result import VideoAnswer

__all__ = ["answer_html", "captions", "curve_html", "facts_html", "moments_html", "summary", "title_html"]

WIDTH, HEIGHT = 1000, 150
"""Units of the curve's drawing; it is stretched to the width of its place, so its numbers stand beside it as text."""


def summary(seen: Seen, elapsed_s: float) -> str:
    """One line: what became of the video."""
    made = seen.made
    share = percent(made.tokens / max(1, made.cells))
    tokens = counted(made.tokens, "token")
    return f"Done: {seen.name}, {made.seconds:.1f} s in {tokens} ({share}), made in {elapsed_s:.1f} s."


def title_html(seen: Seen) -> str:
    """Which video a result is of; the upload beside it may be another one by now."""
    return f'<p class="gm-said">{escape(seen.name)}</p>'


def facts_html(seen: Seen) -> str:
    """A small table about the result."""
    made, code = seen.made, seen.code_bytes
    frames, height, width = made.map.shape
    rows = [
        ("Tokens", f"{made.tokens} of {made.cells} ({percent(made.tokens / max(1, made.cells))})"),
        ("Kept", f"{100 * (1 - made.lost):.1f} % of the variance of the features"),
        ("Map", f"{counted(frames, 'frame')} of {height} x {width} cells"),
        ("Code", f"{code:,} bytes, {8 * code / max(made.seconds, 1e-9) / 1000:.1f} kbit a second"),
    ]
    if made.source_bytes and code:
        times = made.source_bytes / code
        rows.append(("File", f"{made.source_bytes:,} bytes, {times:.1f} times the code (which cannot be watched)"))
    rows += [("Reducer", str(made.settings["method"])), ("Model", made.model["name"])]
    rows += [("Note", note) for note in made.notes]
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f'<dl class="gm-list">{cells}</dl>'


def curve_html(lost: Sequence[float], chosen: int) -> str:
    """The share of the variance that is lost with 1, 2, ... tokens, as a drawing; `chosen` is marked."""
    count = len(lost)
    if count < 2:
        return ""

    def x(number: int) -> float:
        return (number - 1) / (count - 1)

    def y(value: float) -> float:
        return 1 - min(1.0, max(0.0, value))

    chosen = min(max(1, chosen), count)
    points = " ".join(f"{WIDTH * x(n):.1f},{HEIGHT * y(v):.1f}" for n, v in enumerate(lost, 1))
    cx, cy = f"{WIDTH * x(chosen):.1f}", f"{HEIGHT * y(lost[chosen - 1]):.1f}"
    thin = 'vector-effect="non-scaling-stroke"'
    ticks = [1, *(n for n in range(8, count, 8) if count - n > count / 12), count]  # the last two need room
    numbers = "".join(f'<span style="left:{100 * x(n):.2f}%">{n}</span>' for n in ticks)
    levels = "".join(f'<span style="top:{100 * y(v):.0f}%">{100 * v:.0f}</span>' for v in (0, 0.5, 1))
    return (
        f'<figure class="gm-curve"><div class="gm-plot"><div class="gm-levels" aria-hidden="true">{levels}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="'
        f'Variance lost, in per cent, over the number of tokens: {100 * lost[chosen - 1]:.0f} per cent at {chosen}">'
        f'<polyline points="{points}" fill="none" stroke="var(--primary-500)" stroke-width="2.5" {thin}/>'
        f'<line x1="{cx}" y1="{cy}" x2="{cx}" y2="{HEIGHT}" stroke="var(--primary-500)" stroke-dasharray="3 4" {thin}/>'
        f'<path d="M {cx} {cy} h 0" stroke="var(--primary-600)" stroke-width="10" stroke-linecap="round" {thin}/></svg>'
        f'<div class="gm-ticks" aria-hidden="true">{numbers}</div></div><figcaption class="gm-dim">Variance lost in '
        f"per cent over the number of tokens; {chosen} {'is' if chosen == 1 else 'are'} used.</figcaption></figure>"
    )


def moments_html(moments: Sequence[Moment]) -> str:
    """What the pictures of moments below it are."""
    own, others = moments[0], moments[1:]
    asked = f"{own.start_s:.1f} to {own.end_s:.1f} s"
    if not others:
        return f'<p class="gm-dim">The video has no moment besides {asked}.</p>'
    return (
        f'<p class="gm-dim">First the moment asked about, {asked}, then the most similar others with their similarity, '
        "at most 1. Press one to see it in the film above.</p>"
    )


def captions(moments: Sequence[Moment]) -> list[tuple[np.ndarray, str]]:
    """Pictures and captions of moments for a gallery; the first is the one that was asked about."""
    return [
        (one.picture, f"{one.start_s:.1f} to {one.end_s:.1f} s" + (f", {one.score:.2f}" if number else ""))
        for number, one in enumerate(moments)
    ]


def answer_html(question: str, answer: VideoAnswer) -> str:
    """Question and answer, with the runners-up."""
    others = ", ".join(f"{text} {100 * p:.0f} %" for text, p in answer.others)
    return (
        f'<div class="gm-facts"><p class="gm-dim">{escape(question)}</p><p class="gm-said">{escape(answer.text)}</p>'
        f'<p class="gm-dim">{100 * answer.confidence:.0f} % sure; then {escape(others)}</p>'
        '<p class="gm-dim">It has learned moving shapes only; about other footage it guesses.</p></div>'
    )
