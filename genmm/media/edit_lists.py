"""Lists of cuts that other programs read: CMX 3600 EDL, chapters (ffmetadata, WebVTT), CSV; and time codes.

A span is a start and an end in seconds of the source, with a name.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from genmm.core.errors import UsageError

__all__ = [
    "Span",
    "chapters_ffmetadata",
    "chapters_webvtt",
    "cmx3600",
    "edit_rate",
    "frames_of",
    "spans_csv",
    "timecode",
]

RATES = (
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(48),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
)
"""Frame rates that editors know; a file of another rate is counted in the nearest one."""
DROP_RATES = (Fraction(30000, 1001), Fraction(60000, 1001))
"""Rates that have drop-frame time codes."""
NAME_CHARS = 60


@dataclass(frozen=True)
class Span:
    """One kept part of a source."""

    start_s: float
    end_s: float
    name: str = ""
    """What editors show for it."""

    def __post_init__(self) -> None:
        if not 0 <= self.start_s < self.end_s < math.inf:
            raise UsageError(f"a span needs 0 <= start_s < end_s, got {self.start_s} and {self.end_s}")


def edit_rate(fps: float | None) -> Fraction:
    """The frame rate in which a file is counted: exactly 30000/1001 for 29.97; 25 when unknown."""
    if fps is None or not 0 < fps < 1000:
        return Fraction(25)
    return min(RATES, key=lambda rate: abs(float(rate) - fps))


def frames_of(time_s: float, rate: Fraction) -> int:
    """The number of the frame that is shown from `time_s` on, rounded to the nearest border."""
    return round(Fraction(time_s).limit_denominator(1_000_000) * rate)


def timecode(frame: int, rate: Fraction, *, drop: bool = False) -> str:
    """Frame number as HH:MM:SS:FF, or HH:MM:SS;FF in drop-frame counting.

    Drop-frame leaves out the first numbers of every minute but each tenth (SMPTE ST 12-1), so that the code follows
    the clock at 29.97 and 59.94. Raises: UsageError for drop-frame at another rate or a negative frame.
    """
    if frame < 0:
        raise UsageError(f"a time code needs a frame number of at least 0, got {frame}")
    base = math.ceil(rate)
    if drop:
        if rate not in DROP_RATES:
            raise UsageError(f"drop-frame exists for 29.97 and 59.94 only, not for {float(rate):.3f}")
        left_out = base // 15  # numbers left out in a minute: 2 or 4
        per_minute, per_ten = 60 * base - left_out, 600 * base - 9 * left_out
        tens, rest = divmod(frame, per_ten)
        minutes = 0 if rest < 60 * base else 1 + (rest - 60 * base) // per_minute
        frame += left_out * (9 * tens + minutes)
    seconds, frames = divmod(frame, base)
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours % 24:02d}:{minutes:02d}:{seconds % 60:02d}{';' if drop else ':'}{frames:02d}"


def cmx3600(
    spans: Sequence[Span],
    *,
    fps: float | None,
    title: str = "highlights",
    source: str = "",
    has_picture: bool = True,
    has_sound: bool = True,
) -> str:
    """A CMX 3600 edit decision list: one event a span, the record side without gaps from 01:00:00:00 on.

    Drop-frame is used at 29.97 and 59.94 and nowhere else. The source is reel AX, as editors expect of files; its name
    stands in a comment. Raises: UsageError for more than 999 spans, which the format cannot number.
    """
    if len(spans) > 999:
        raise UsageError(f"an EDL numbers at most 999 events, got {len(spans)}; write JSON or CSV instead")
    rate = edit_rate(fps)
    drop = rate in DROP_RATES
    channels = {(True, True): "B", (True, False): "V", (False, True): "A"}[(has_picture, has_sound)]
    lines = [f"TITLE: {_one_line(title)}", f"FCM: {'DROP FRAME' if drop else 'NON-DROP FRAME'}", ""]
    record = _hour(rate, drop)
    for number, span in enumerate(spans, 1):
        first = frames_of(span.start_s, rate)
        last = max(first + 1, frames_of(span.end_s, rate))
        codes = [first, last, record, record + last - first]
        text = " ".join(timecode(code, rate, drop=drop) for code in codes)
        lines.append(f"{number:03d}  AX       {channels:<5} C        {text}")
        if source:
            lines.append(f"* FROM CLIP NAME: {_one_line(source)}")
        if span.name:
            lines.append(f"* COMMENT: {_one_line(span.name)}")
        lines.append("")
        record += last - first
    return "\n".join(lines)


def _hour(rate: Fraction, drop: bool) -> int:
    """The frame whose time code is 01:00:00:00."""
    base = math.ceil(rate)
    return 6 * (600 * base - 9 * (base // 15)) if drop else 3600 * base


def chapters_ffmetadata(spans: Sequence[Span], duration_s: float) -> str:
    """Chapters for `ffmpeg -i FILE -i chapters.txt -map_metadata 1`, in milliseconds; the parts between have no name.

    Source: FFmpeg documentation, section Metadata.
    """
    lines = [";FFMETADATA1"]
    for start_s, end_s, name in _chapters(spans, duration_s):
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={round(1000 * start_s)}", f"END={round(1000 * end_s)}"]
        lines.append(f"title={_escaped(name)}")
    return "\n".join(lines) + "\n"


def _chapters(spans: Sequence[Span], duration_s: float) -> list[tuple[float, float, str]]:
    """The spans and what lies between them, from the start to the end."""
    chapters, at = [], 0.0
    for span in sorted(spans, key=lambda s: s.start_s):
        if span.start_s - at > 1e-3:
            chapters.append((at, span.start_s, "-"))
        chapters.append((span.start_s, span.end_s, span.name or "highlight"))
        at = span.end_s
    if duration_s - at > 1e-3:
        chapters.append((at, duration_s, "-"))
    return chapters


def chapters_webvtt(spans: Sequence[Span]) -> str:
    """The spans as cues of a WebVTT file, for the `chapters` track of a web player."""
    cues = [f"{_vtt_time(s.start_s)} --> {_vtt_time(s.end_s)}\n{_vtt_text(s.name or 'highlight')}\n" for s in spans]
    return "\n".join(["WEBVTT\n", *cues])


def _vtt_time(time_s: float) -> str:
    total = round(1000 * time_s)
    minutes, milliseconds = divmod(total, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


def _vtt_text(text: str) -> str:
    return _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace("-->", "--&gt;")


def spans_csv(rows: Sequence[dict[str, object]]) -> str:
    """Rows as CSV with a header; texts that a spreadsheet would take for a formula are kept as texts."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ["start_s", "end_s"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _plain_cell(value) for key, value in row.items()})
    return stream.getvalue()


def _plain_cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def _escaped(text: str) -> str:
    return re.sub(r"([=;#\\])", r"\\\1", _one_line(text))


def _one_line(text: str) -> str:
    """Without line breaks and control characters, at most NAME_CHARS long."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:NAME_CHARS]
