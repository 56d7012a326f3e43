"""What the Highlights tab shows: the curve as SVG, and sentences; all text from outside is escaped here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.web.highlights_work import Found
from app.web.messages import escape
from genmm.core.wording import counted
from genmm.systems.rasl.result import HighlightResult

__all__ = ["captions", "clock", "curve_html", "facts_html", "summary", "table_rows"]

WIDTH, HEIGHT = 1000, 150
"""Units of the drawing; it is stretched to the width of its place."""
NAMES = {"av": "picture and sound", "v": "picture", "a": "sound"}
COLOURS = {"v": "#e0803a", "a": "#2f9e72"}


def curve_html(result: HighlightResult) -> str:
    """Scores over time with the kept segments behind them, thin lines for picture and sound alone, ticks for cuts.

    The drawing knows the length of the video (data-seconds); highlights.js moves its playhead and makes clicks seek.
    """
    parts = [_bands(result), _cuts(result)]
    for name in ("v", "a"):
        if name in result.curves and len(result.curves) > 1:
            points = _points(result, result.curves[name])
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.5" '
                'vector-effect="non-scaling-stroke" opacity="0.75"/>'
            )
    points = _points(result, result.scores)
    parts.append(
        f'<polyline points="{points}" fill="none" stroke="var(--primary-500)" stroke-width="2.5" '
        'vector-effect="non-scaling-stroke"/>'
    )
    parts.append(
        f'<line class="gm-playhead" x1="0" x2="0" y1="0" y2="{HEIGHT}" stroke="var(--body-text-color)" '
        'stroke-width="1.5" vector-effect="non-scaling-stroke"/>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Score over {escape(clock(result.duration_s))}; click to go there" '
        f'data-seconds="{result.duration_s:.3f}" '
        'style="width:100%;height:150px;display:block;cursor:pointer;background:var(--background-fill-primary);'
        f'border:1px solid var(--border-color-primary);border-radius:8px">{"".join(parts)}</svg>{_legend(result)}'
    )


def _points(result: HighlightResult, values: np.ndarray) -> str:
    middle = result.times_s.mean(1)
    x = np.concatenate([[0.0], middle, [result.duration_s]]) / result.duration_s * WIDTH
    y = (HEIGHT - 8) - (HEIGHT - 16) * np.concatenate([values[:1], values, values[-1:]])
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _bands(result: HighlightResult) -> str:
    scale = WIDTH / result.duration_s
    return "".join(
        f'<rect class="gm-kept" x="{s.start_s * scale:.2f}" width="{max(1.0, s.seconds * scale):.2f}" y="0" '
        f'height="{HEIGHT}" fill="var(--primary-500)" opacity="0.16"/>'
        for s in result.segments
    )


def _cuts(result: HighlightResult) -> str:
    scale = WIDTH / result.duration_s
    return "".join(
        f'<line x1="{cut * scale:.2f}" x2="{cut * scale:.2f}" y1="{HEIGHT - 6}" y2="{HEIGHT}" '
        'stroke="var(--body-text-color-subdued)" stroke-width="1" vector-effect="non-scaling-stroke"/>'
        for cut in result.cuts_s[:2000]
    )


def _legend(result: HighlightResult) -> str:
    lines = [("var(--primary-500)", "score"), *((COLOURS[n], NAMES[n]) for n in ("v", "a") if n in result.curves)]
    if len(result.curves) < 2:
        lines = lines[:1]
    items = "".join(
        f'<span style="margin-right:16px"><i style="display:inline-block;width:14px;height:3px;background:{colour};'
        f'vertical-align:middle;margin-right:6px"></i>{escape(name)}</span>'
        for colour, name in lines
    )
    band = "display:inline-block;width:14px;height:10px;vertical-align:middle;margin-right:6px"
    items += (
        f'<span style="margin-right:16px"><i style="{band};background:var(--primary-500);opacity:0.3"></i>kept</span>'
    )
    if result.cuts_s:
        items += '<span style="margin-right:16px">ticks: cuts</span>'
    end = f'<span style="float:right">{escape(clock(result.duration_s))}</span>'
    return f'<div class="gm-dim" style="margin-top:6px;font-size:0.85rem">{end}{items}</div>'


def table_rows(result: HighlightResult) -> list[list[object]]:
    """Keep, start, end, length and score of every segment."""
    return [
        [True, round(s.start_s, 2), round(s.end_s, 2), round(s.seconds, 2), round(s.score, 2)] for s in result.segments
    ]


def captions(found: Found) -> list[tuple[str, str]]:
    """Thumbnails with their times, for a gallery."""
    pairs = zip(found.thumbnails, found.result.segments, strict=False)
    return [(str(path), f"{clock(s.start_s)} ({s.score:.2f})") for path, s in pairs]


def summary(found: Found, elapsed_s: float) -> str:
    """One line about a finished run."""
    result = found.result
    count = counted(len(result.segments), "segment")
    times = result.duration_s / max(0.01, elapsed_s)
    speed = f" ({times:.0f} times as fast as watching)" if times >= 1.5 else ""
    return f"Done: {count}, {result.seconds:.1f} s of {clock(result.duration_s)}, in {elapsed_s:.1f} s{speed}."


def facts_html(found: Found) -> str:
    """A small table about the video and how it was scored."""
    result, info = found.result, found.result.info
    size = f", {info['width']} x {info['height']}" if info.get("width") else ""
    rate = f", {info['fps']:.4g} frames a second" if info.get("fps") else ""
    used = next((name for name, curve in result.curves.items() if np.array_equal(curve, result.scores)), "av")
    streams = NAMES[used] if used == "av" else f"{NAMES[used]} alone"
    rows: list[tuple[str, str]] = [
        ("Video", f"{result.source}, {clock(result.duration_s)}{size}{rate}"),
        ("Scored by", f"{found.form.model}, {streams}"),
        ("Shots", str(len(result.cuts_s) + 1)),
        *(("Note", note) for note in result.notes),
    ]
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f'<dl class="gm-list">{cells}</dl>'


def clock(time_s: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(int(round(time_s)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def spans_of(rows: Sequence[Sequence[object]]) -> list[tuple[float, float]]:
    """Start and end of the kept rows of an edited table. Raises: ValueError for what is no number."""
    spans = []
    for row in rows:
        keep = row[0] if isinstance(row[0], bool) else str(row[0]).strip().lower() in ("true", "1", "yes")
        if keep and str(row[1]).strip() not in ("", "None"):
            spans.append((float(row[1]), float(row[2])))  # type: ignore[arg-type]
    return spans
