"""Edit lists read back: an EDL parser, ffmetadata, WebVTT and CSV, and time codes against counting."""

from __future__ import annotations

import csv
import io
import re
from fractions import Fraction

import pytest

from genmm.core.errors import UsageError
from genmm.media.edit_lists import (
    Span,
    chapters_ffmetadata,
    chapters_webvtt,
    cmx3600,
    edit_rate,
    frames_of,
    spans_csv,
    timecode,
)

NTSC, NTSC_60 = Fraction(30000, 1001), Fraction(60000, 1001)
SPANS = [Span(2.0, 4.0, "highlight 1"), Span(10.5, 12.0, "highlight 2; a=b\n#c")]


def counted_drop_codes(count: int, base: int, left_out: int):
    """Drop-frame codes by counting every frame: the first numbers of a minute are left out, but of each tenth."""
    hours = minutes = seconds = frames = 0
    for _ in range(count):
        yield f"{hours:02d}:{minutes:02d}:{seconds:02d};{frames:02d}"
        frames += 1
        if frames == base:
            frames, seconds = 0, seconds + 1
        if seconds == 60:
            seconds, minutes = 0, minutes + 1
            if minutes == 60:
                minutes, hours = 0, hours + 1
            if minutes % 10:
                frames = left_out


@pytest.mark.parametrize(("rate", "base", "left_out"), [(NTSC, 30, 2), (NTSC_60, 60, 4)])
def test_drop_frame_codes_equal_counting(rate, base, left_out):
    for number, code in enumerate(counted_drop_codes(21 * 60 * base, base, left_out)):
        if number % 97 == 0 or number % (60 * base) in (0, 1, base - 1) or code.endswith(f";{left_out:02d}"):
            assert timecode(number, rate, drop=True) == code


def test_codes_without_drop():
    assert timecode(0, Fraction(25)) == "00:00:00:00"
    assert timecode(25 * 3661 + 7, Fraction(25)) == "01:01:01:07"
    assert timecode(1800, NTSC, drop=True) == "00:01:00;02"  # the numbers 00 and 01 do not exist there
    with pytest.raises(UsageError, match="29.97"):
        timecode(0, Fraction(25), drop=True)
    with pytest.raises(UsageError):
        timecode(-1, Fraction(25))


def test_an_hour_of_drop_frame_is_an_hour_of_clock():
    frames = frames_of(3600.0, NTSC)
    assert timecode(frames, NTSC, drop=True) == "01:00:00;00"


def test_rates_are_those_of_editors():
    assert edit_rate(29.97) == NTSC
    assert edit_rate(29.97003) == NTSC
    assert edit_rate(30.0) == 30
    assert edit_rate(23.976) == Fraction(24000, 1001)
    assert edit_rate(None) == 25
    assert edit_rate(10.0) == Fraction(24000, 1001)


EVENT = re.compile(
    r"^(\d{3})\s+(\S+)\s+([VAB]\S*)\s+C\s+(\d\d:\d\d:\d\d[:;]\d\d) (\d\d:\d\d:\d\d[:;]\d\d) "
    r"(\d\d:\d\d:\d\d[:;]\d\d) (\d\d:\d\d:\d\d[:;]\d\d)$"
)


def frame_of(code: str, base: int) -> int:
    """Frame number of a code, drop-frame when it has a semicolon."""
    hours, minutes, seconds, frames = (int(part) for part in re.split("[:;]", code))
    total = ((hours * 60 + minutes) * 60 + seconds) * base + frames
    whole_minutes = 60 * hours + minutes
    return total - (base // 15) * (whole_minutes - whole_minutes // 10) if ";" in code else total


def parse_edl(text: str, base: int) -> list[dict]:
    events = []
    for line in text.splitlines():
        match = EVENT.match(line)
        if match:
            codes = [frame_of(code, base) for code in match.groups()[3:]]
            events.append({"number": int(match[1]), "channels": match[3], "codes": codes, "comments": []})
        elif line.startswith("*"):
            events[-1]["comments"].append(line)
    return events


@pytest.mark.parametrize("fps", [25.0, 29.97, 59.94, 24.0, 23.976])
def test_an_edl_reads_back(fps):
    text = cmx3600(SPANS, fps=fps, title="my\nfilm", source="clip.mp4")
    rate = edit_rate(fps)
    drop = rate in (NTSC, NTSC_60)
    assert text.splitlines()[:2] == ["TITLE: my film", f"FCM: {'DROP FRAME' if drop else 'NON-DROP FRAME'}"]
    base = -(-rate.numerator // rate.denominator)
    events = parse_edl(text, base)
    assert [event["number"] for event in events] == [1, 2]
    record = frame_of("01:00:00;00" if drop else "01:00:00:00", base)
    for event, span in zip(events, SPANS, strict=True):
        source_in, source_out, record_in, record_out = event["codes"]
        assert (source_in, source_out) == (frames_of(span.start_s, rate), frames_of(span.end_s, rate))
        assert record_in == record
        assert record_out - record_in == source_out - source_in
        record = record_out
        assert event["channels"] == "B"
        assert "* FROM CLIP NAME: clip.mp4" in event["comments"]


def test_edl_channels_and_limits():
    assert parse_edl(cmx3600(SPANS, fps=25, has_sound=False), 25)[0]["channels"] == "V"
    with pytest.raises(UsageError, match="999"):
        cmx3600([Span(float(i), i + 0.5) for i in range(1000)], fps=25)
    with pytest.raises(UsageError, match="start_s"):
        Span(3.0, 3.0)


def test_ffmetadata_reads_back():
    text = chapters_ffmetadata(SPANS, 20.0)
    lines = text.splitlines()
    assert lines[0] == ";FFMETADATA1"
    chapters = []
    for line in lines[1:]:
        if line == "[CHAPTER]":
            chapters.append({})
        else:
            key, _, value = line.partition("=")
            chapters[-1][key] = re.sub(r"\\(.)", r"\1", value)
    assert [(int(c["START"]), int(c["END"])) for c in chapters] == [
        (0, 2000),
        (2000, 4000),
        (4000, 10500),
        (10500, 12000),
        (12000, 20000),
    ]
    assert chapters[3]["title"] == "highlight 2; a=b #c"
    assert {c["TIMEBASE"] for c in chapters} == {"1/1000"}


def test_webvtt_reads_back():
    text = chapters_webvtt([Span(0.5, 3725.25, "a <b> & c")])
    assert text.startswith("WEBVTT\n\n")
    match = re.search(r"(\d\d):(\d\d):(\d\d\.\d{3}) --> (\d\d):(\d\d):(\d\d\.\d{3})\n(.*)\n", text)
    times = [float(x) for x in match.groups()[:6]]
    assert times[0] * 3600 + times[1] * 60 + times[2] == pytest.approx(0.5)
    assert times[3] * 3600 + times[4] * 60 + times[5] == pytest.approx(3725.25)
    assert match[7] == "a &lt;b> &amp; c"


def test_csv_reads_back_and_holds_no_formula():
    text = spans_csv([{"name": "=1+1", "start_s": 1.5}, {"name": "b,c", "start_s": 2}])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == ["'=1+1", "b,c"]
    assert float(rows[0]["start_s"]) == 1.5
