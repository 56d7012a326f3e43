"""Sentences, tables and the curve of a tokenized video; all text from outside is escaped here."""

from __future__ import annotations

from collections.abc import Sequence

from app.web.markup import table_html
from app.web.messages import escape
from app.web.video_work import Seen
from genmm.systems.vqtoken.result import VideoAnswer

__all__ = ["answer_html", "curve_html", "facts_html", "moments_html", "summary"]

WIDTH, HEIGHT, EDGE = 560, 170, 34
"""Size of the curve and its margin, in units of the drawing."""


def summary(seen: Seen, elapsed_s: float) -> str:
    """One line: what became of the video."""
    made = seen.made
    share = 100 * made.tokens / max(1, made.cells)
    return f"Done: {made.seconds:.1f} s of video in {made.tokens} tokens ({share:.2g} %), made in {elapsed_s:.1f} s."


def facts_html(seen: Seen) -> str:
    """A small table about the result."""
    made, code = seen.made, seen.code_bytes
    frames, height, width = made.map.shape
    rows = [
        ("Tokens", f"{made.tokens} of {made.cells} ({100 * made.tokens / max(1, made.cells):.2g} %)"),
        ("Kept", f"{100 * (1 - made.lost):.1f} % of the variance of the features"),
        ("Map", f"{frames} frames of {height} x {width} cells"),
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
        return EDGE + (WIDTH - EDGE - 8) * (number - 1) / (count - 1)

    def y(value: float) -> float:
        return 10 + (HEIGHT - EDGE - 10) * (1 - min(1.0, max(0.0, value)))

    points = " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in enumerate(lost, 1))
    chosen = min(max(1, chosen), count)
    cx, cy = x(chosen), y(lost[chosen - 1])
    ticks = sorted({1, *range(8, count + 1, 8), count})
    numbers = "".join(f'<text x="{x(n):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{n}</text>' for n in ticks)
    levels = "".join(
        f'<text x="{EDGE - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{100 * v:.0f}</text>' for v in (0, 0.5, 1)
    )
    style = 'fill="currentColor" font-size="11" opacity="0.75"'
    return (
        f'<figure class="gm-curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" aria-label="'
        f'Variance lost, in per cent, over the number of tokens: {100 * lost[chosen - 1]:.0f} per cent at {chosen}">'
        f'<g {style}>{numbers}{levels}</g><polyline points="{points}" fill="none" stroke="var(--primary-500)" '
        f'stroke-width="2.5"/><line x1="{cx:.1f}" y1="{cy:.1f}" x2="{cx:.1f}" y2="{HEIGHT - EDGE}" '
        f'stroke="var(--primary-500)" stroke-dasharray="3 4"/><circle cx="{cx:.1f}" cy="{cy:.1f}" r="5" '
        f'fill="var(--primary-600)"/></svg><figcaption class="gm-dim">Variance lost in per cent over the number of '
        f"tokens; {chosen} are used.</figcaption></figure>"
    )


def moments_html(moments: Sequence[tuple[float, float, float]]) -> str:
    """Similar moments as a table."""
    rows = [[f"{start:.1f} to {end:.1f} s", f"{score:.2f}"] for start, end, score in moments]
    return table_html(["Moment", "Similarity"], rows)


def answer_html(question: str, answer: VideoAnswer) -> str:
    """Question and answer, with the runners-up."""
    others = ", ".join(f"{text} {100 * p:.0f} %" for text, p in answer.others)
    return (
        f'<div class="gm-facts"><p class="gm-dim">{escape(question)}</p><p class="gm-said">{escape(answer.text)}</p>'
        f'<p class="gm-dim">{100 * answer.confidence:.0f} % sure; then {escape(others)}</p></div>'
    )
