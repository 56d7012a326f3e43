"""Cutting parts out of a video and joining them: re-encoded to H.264 and AAC, exact to the frame; or copied.

Letters: S samples, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from genmm.core.errors import MediaError, UsageError
from genmm.core.events import CancelToken
from genmm.core.files import atomic_path
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.channels import downmix
from genmm.media.containers import DAMAGE, Notes, decoded, largest_video, main_audio, open_container, zero_s
from genmm.media.edit_lists import Span, edit_rate
from genmm.media.media_info import probe
from genmm.media.source import MediaInput, open_source
from genmm.media.tags import pack_tags
from genmm.media.video import SEEK_FROM_S, iter_frames
from genmm.media.video_write import write_video

__all__ = ["FADE_S", "REEL_RATE", "REEL_SIDE", "copy_reel", "sound_between", "write_reel"]

FADE_S = 0.01
"""The sound of every part is faded in and out over this time, so that joints do not click."""
REEL_RATE = 48_000
"""Sample rate of a reel's sound."""
REEL_SIDE = 1280
"""Longest side of a reel in pixels, where none is asked for."""
MAX_REEL_S = 1800.0
"""Longest reel, in seconds; its sound is held in memory."""
COPYABLE = {"h264", "hevc", "aac", "mp3"}
"""Codecs that an MP4 file takes as they are."""


def write_reel(
    path: str | os.PathLike[str],
    source: MediaInput,
    spans: Sequence[Span],
    *,
    max_side: int | None = REEL_SIDE,
    fps: float | None = None,
    crf: int = 21,
    preset: str = "veryfast",
    tags: Mapping[str, Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    cancel: CancelToken | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Path:
    """Write the spans of a video one after the other as an .mp4 file; gives back the path.

    Args: `max_side` scales larger pictures down; `fps` is by default that of the file, in the nearest common rate and
    at most 60; `on_progress` hears the seconds that are written.
    Each span gets a whole number of frames, and sound of exactly that length. Pictures whose size changes within the
    file are brought to the first size. Raises: UsageError without spans, past MAX_REEL_S or without pictures;
    MediaError, LimitError as reading and writing do; Cancelled.
    """
    if not spans:
        raise UsageError("a reel needs at least one segment, got none")
    total_s = sum(span.end_s - span.start_s for span in spans)
    if total_s > MAX_REEL_S:
        raise UsageError(f"a reel is at most {MAX_REEL_S:g} s long, these segments are {total_s:.0f} s; keep less")
    facts = probe(source, limits=limits)
    if facts.video is None:
        raise UsageError("a reel needs pictures and this file has none; write the segments as JSON, CSV or EDL")
    rate = Fraction(fps).limit_denominator(100_000) if fps else min(Fraction(60), edit_rate(facts.video.fps))
    counts = [max(1, round((span.end_s - span.start_s) * float(rate))) for span in spans]
    samples = None
    if facts.audio is not None:
        samples = _sound_of(source, spans, counts, rate, limits)
    frames = _frames_of(source, spans, counts, rate, max_side, limits, cancel, on_progress)
    sound = None if samples is None else (samples, REEL_RATE)
    return write_video(path, frames, float(rate), audio=sound, crf=crf, preset=preset, tags=tags)


def _frames_of(
    source: MediaInput,
    spans: Sequence[Span],
    counts: Sequence[int],
    rate: Fraction,
    max_side: int | None,
    limits: Limits,
    cancel: CancelToken | None,
    on_progress: Callable[[float], None] | None,
) -> Iterator[np.ndarray]:
    """The pictures of all spans at a constant rate."""
    written, shape = 0, None
    for span, count in zip(spans, counts, strict=True):
        ticks = span.start_s + np.arange(count) / float(rate)
        for picture in _shown_at(source, ticks, max_side, limits):
            if cancel is not None:
                cancel.check()
            shape = shape or picture.shape
            if picture.shape != shape:
                picture = np.asarray(Image.fromarray(picture).resize((shape[1], shape[0])))
            yield picture
            written += 1
            if on_progress is not None and written % 10 == 0:
                on_progress(written / float(rate))


def _shown_at(source: MediaInput, times_s: np.ndarray, max_side: int | None, limits: Limits) -> Iterator[np.ndarray]:
    """The picture that is shown at each of some rising times; the last one also stands for times after the end."""
    held, tick = None, 0
    with iter_frames(source, max_side=max_side, start_s=max(0.0, times_s[0] - 1.0), limits=limits) as reader:
        for frame in reader:
            while held is not None and tick < len(times_s) and times_s[tick] < frame.time_s - 1e-3:
                yield held
                tick += 1
            held = frame.image
            if tick == len(times_s):
                return
    if held is None:
        raise MediaError(f"no picture could be read at {times_s[0]:.2f} s; the file may end before that")
    for _ in range(tick, len(times_s)):
        yield held


def _sound_of(
    source: MediaInput, spans: Sequence[Span], counts: Sequence[int], rate: Fraction, limits: Limits
) -> np.ndarray | None:
    """The sound of all spans [2, S], each faded at both ends and exactly as long as its pictures."""
    parts, edge = [], 0
    for span, end in zip(spans, np.cumsum(counts), strict=True):
        wanted = round(int(end) * REEL_RATE / rate) - edge
        edge += wanted
        part = sound_between(source, span.start_s, span.start_s + wanted / REEL_RATE, limits=limits)
        if part is None:
            return None
        fitted = np.zeros((2, wanted), np.float32)
        fitted[:, : part.shape[1]] = part[:, :wanted]
        fade = min(wanted // 2, round(FADE_S * REEL_RATE))
        ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
        fitted[:, :fade] *= ramp
        fitted[:, wanted - fade :] *= ramp[::-1]
        parts.append(fitted)
    return np.concatenate(parts, axis=1)


def sound_between(
    source: MediaInput, start_s: float, end_s: float, *, sample_rate: int = REEL_RATE, limits: Limits = DEFAULT_LIMITS
) -> np.ndarray | None:
    """The sound of a file from start_s to end_s as stereo [2, S] float32, silent where there is none.

    Returns None when the file has no sound that can be decoded. Only the asked part is held in memory.
    """
    out = np.zeros((2, max(1, round((end_s - start_s) * sample_rate))), np.float32)
    with open_source(source, limits) as media, open_container(media) as container:
        try:
            stream = main_audio(container, media)
        except MediaError:
            return None
        if stream is None:
            return None
        stream.codec_context.thread_count = 1
        zero = zero_s(container)
        _seek_before(container, start_s + zero)
        for begin_s, samples in _resampled(container, stream, media, sample_rate):
            first = round((begin_s - zero - start_s) * sample_rate)
            if first >= out.shape[1]:
                break
            low, high = max(0, first), min(out.shape[1], first + samples.shape[1])
            if low < high:
                out[:, low:high] = samples[:, low - first : high - first]
    return np.nan_to_num(out, nan=0.0, posinf=0.0, neginf=0.0)


def _seek_before(container: Any, time_s: float) -> None:
    if time_s < SEEK_FROM_S or not container.format.name.startswith(("mov", "matroska")):
        return
    try:
        container.seek(int(max(0.0, time_s - 1.0) * 1e6), backward=True)
    except DAMAGE:
        return


def _resampled(container: Any, stream: Any, media: Any, rate: int) -> Iterator[tuple[float, np.ndarray]]:
    """Start in seconds and samples [2, S] of every decoded frame."""
    resampler, shape, begin_s = None, None, 0.0
    for frame in decoded(container, stream, media, Notes()):
        own = (frame.format.name, frame.layout.name, frame.sample_rate)
        stamp_s = float(frame.pts * frame.time_base) if frame.pts is not None and frame.time_base else None
        if resampler is None or own != shape:
            resampler, shape = av.AudioResampler("fltp", layout=frame.layout, rate=rate), own
            begin_s = stamp_s if stamp_s is not None else begin_s
        elif stamp_s is not None and abs(stamp_s - begin_s) > 0.1:
            begin_s = stamp_s
        frame.pts = None
        for piece in resampler.resample(frame):
            samples = piece.to_ndarray()
            yield begin_s, downmix(samples, 2)
            begin_s += samples.shape[1] / rate


def copy_reel(
    path: str | os.PathLike[str],
    source: MediaInput,
    spans: Sequence[Span],
    *,
    tags: Mapping[str, Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Path:
    """Write the spans without encoding anew: fast and without loss, but every part begins at a key frame before it, and
    ends up to a few pictures late where those before its end are made of later ones.

    Raises: UsageError for a file whose codecs an MP4 file does not take; write_reel takes any.
    """
    if not spans:
        raise UsageError("a reel needs at least one segment, got none")
    path = Path(path)
    with atomic_path(path) as temporary, open_source(source, limits) as media, open_container(media) as container:
        # the same streams that scores and encoded reels come from; a cover picture is none of them
        video, sound = largest_video(container, media), main_audio(container, media)
        streams = [stream for stream in (video, sound) if stream is not None]
        names = [s.codec_context.codec.canonical_name for s in streams]  # "mp3", not its decoder "mp3float"
        odd = [name for name in names if name not in COPYABLE]
        if odd or video is None:
            raise UsageError(f"parts can be copied from H.264, HEVC, AAC and MP3 only, not {', '.join(odd) or 'this'}")
        with av.open("file:" + os.path.abspath(temporary), "w", format="mp4") as out:
            out.metadata.update(pack_tags(tags))
            tracks = {s.index: out.add_stream_from_template(s) for s in streams}
            at_s = 0.0
            for span in spans:
                at_s += _copy_span(container, out, streams, tracks, span, at_s, zero_s(container))
    return path


def _copy_span(
    container: Any, out: Any, streams: Sequence[Any], tracks: dict[int, Any], span: Span, at_s: float, zero: float
) -> float:
    """Copy the packets of one span to `at_s` of the output; gives back how long the part became."""
    video = streams[0]
    container.seek(int((span.start_s + zero) / video.time_base), stream=video, backward=True)
    base_s, end_s, waiting, needed = None, 0.0, [], 0
    for packet in container.demux(*streams):
        if packet.dts is None or packet.pts is None:
            continue
        time_s = float(packet.pts * packet.time_base) - zero
        if base_s is None:
            if packet.stream.index != video.index or not packet.is_keyframe:
                continue
            base_s = float(packet.dts * packet.time_base)
            begin_s = time_s
        is_video = packet.stream.index == video.index
        if is_video and time_s >= span.end_s + 1.0:
            break
        if time_s < begin_s - 1e-6 or (not is_video and time_s >= span.end_s):
            continue
        waiting.append((packet, time_s))
        if is_video and time_s < span.end_s:  # later pictures that come before it in the file are what it is made of
            needed = len(waiting)
    waiting = [one for n, one in enumerate(waiting) if n < needed or one[0].stream.index != video.index]
    for packet, time_s in waiting:
        duration_s = float((packet.duration or 0) * packet.time_base)
        end_s = max(end_s, time_s + duration_s - begin_s)
        offset = round((at_s - base_s) / packet.time_base)
        packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
        packet.stream = tracks[packet.stream.index]
        out.mux(packet)
    return end_s
