"""Video in: frames one at a time by time stamp (flat memory), or all of it with its sound.

Shapes: pictures [H, W, 3] uint8 RGB, upright, square pixels. Times are seconds from the start of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from genmm.core.errors import LimitError, MediaError, UsageError
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.audio import Audio, read_audio_source
from genmm.media.containers import DAMAGE, Notes, largest_video, open_container, zero_s
from genmm.media.frame_times import FALLBACK_FPS, MAX_FPS, TimedFrames, on_grid
from genmm.media.media_info import AudioInfo, MediaInfo, VideoInfo, average_fps, probe
from genmm.media.pictures import PictureMaker
from genmm.media.source import DecodeClock, MediaInput, MediaSource, memory_limit, open_source
from genmm.media.video_write import write_video

__all__ = [
    "AudioInfo",
    "Frame",
    "FrameReader",
    "MediaInfo",
    "Video",
    "VideoInfo",
    "iter_frames",
    "probe",
    "read_video",
    "write_video",
]


SEEK_FROM_S = 2.0
"""A start later than this is looked up in the index rather than decoded up to."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture and when it is shown."""

    time_s: float
    image: np.ndarray
    """[H, W, 3] uint8."""


@dataclass(frozen=True, eq=False)
class Video:
    """A whole video in memory."""

    frames: np.ndarray
    """[T, H, W, 3] uint8."""
    times_s: np.ndarray
    """[T] float64, ascending."""
    fps: float
    """Frames per second: as asked for, else the average of the file."""
    audio: Audio | None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length in seconds: up to the end of the last frame."""
        return float(self.times_s[-1]) + 1.0 / self.fps


def iter_frames(
    source: MediaInput | MediaSource,
    *,
    fps: float | None = None,
    max_side: int | None = None,
    start_s: float = 0.0,
    end_s: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> FrameReader:
    """Iterate over the frames of a video, holding one at a time.

    Args: without `fps` every frame of the file at its own time; with it, the picture shown at 0, 1/fps, 2/fps ...
    seconds (repeated or left out as needed, so variable rates come out right). `max_side` scales larger pictures down
    to that longer side. Only frames with start_s <= time < end_s are given.
    The file is opened here and closed at the end of the iteration, by `close()`, or by leaving a `with` block.
    Raises: UsageError for wrong arguments; MediaError without pictures; LimitError past `limits` - time, size and
    number are counted on what is decoded. While iterating: LimitError when decoding takes too long (the time that the
    caller spends does not count).
    """
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise UsageError(f"fps must be above 0 and at most {MAX_FPS:g}, got {fps!r}")
    if max_side is not None and max_side < 1:
        raise UsageError(f"max_side must be at least 1 pixel, got {max_side!r}")
    if not 0 <= start_s < (math.inf if end_s is None else end_s):
        until = "the end" if end_s is None else f"{end_s:g} s"
        raise UsageError(f"a part of a video starts at 0 s or later and ends behind that, got {start_s:g} s to {until}")
    return FrameReader(source, fps, max_side, (start_s, math.inf if end_s is None else end_s), limits)


class FrameReader:
    """The iterator that `iter_frames` gives back; it runs once. Leave it with `close()` or a `with` block."""

    def __init__(
        self,
        source: MediaInput | MediaSource,
        fps: float | None,
        max_side: int | None,
        span_s: tuple[float, float],
        limits: Limits,
    ) -> None:
        self._notes = Notes()
        self._average_fps: float | None = None
        self._clock: DecodeClock | None = None
        self._frames = self._read(source, fps, max_side, span_s, limits)
        next(self._frames)  # opens the file, so that errors of the header come at once
        self._pause()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was unusual, as far as the file has been read."""
        return tuple(self._notes.items)

    @property
    def average_fps(self) -> float | None:
        """Frames per second as the header declares them; None when it does not."""
        return self._average_fps

    def close(self) -> None:
        """Close the file; the iteration ends."""
        self._frames.close()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> FrameReader:
        return self

    def __next__(self) -> Frame:
        if self._clock is not None:
            self._clock.resume()
        try:
            return next(self._frames)
        finally:
            self._pause()

    def _pause(self) -> None:
        if self._clock is not None:
            self._clock.pause()

    def _read(
        self,
        source: MediaInput | MediaSource,
        fps: float | None,
        max_side: int | None,
        span_s: tuple[float, float],
        limits: Limits,
    ) -> Iterator[Any]:
        """First yields None when the file is open, then its frames."""
        with open_source(source, limits) as media, open_container(media) as container:
            stream = largest_video(container, media)
            if stream is None:
                raise MediaError(f"{media.name} has no pictures; it is a sound file or empty")
            self._clock, self._average_fps = media.clock, average_fps(stream)
            yield None
            _seek(container, span_s[0])
            timed = TimedFrames(container, stream, media, self._notes)
            shown: Iterable[tuple[float, Any]] = timed if fps is None else on_grid(timed, fps)
            maker: PictureMaker | None = None
            for time_s, frame in shown:
                if time_s >= span_s[1]:
                    break
                if time_s < span_s[0]:
                    continue
                if maker is None:
                    maker = PictureMaker(frame, stream, media, max_side)
                yield Frame(time_s, maker(frame))
            if maker is None and timed.count == 0:
                raise MediaError(f"{media.name}: no picture of the video could be decoded; it is damaged or cut off")


def _seek(container: Any, time_s: float) -> None:
    """Skip to a key frame before the time, where the container has an index of them; others are read through."""
    if time_s < SEEK_FROM_S or not container.format.name.startswith(("mov", "matroska")):
        return
    with suppress(*DAMAGE):
        container.seek(int((time_s + zero_s(container)) * 1e6), backward=True)


def read_video(
    source: MediaInput,
    *,
    fps: float | None = None,
    max_side: int | None = None,
    sample_rate: int | None = None,
    sound: bool = True,
    limits: Limits = DEFAULT_LIMITS,
) -> Video:
    """Read a video whole, with its sound when there is some. For long ones use `iter_frames`, which holds one frame.

    Args: as `iter_frames`; `sample_rate` converts the sound to that rate; `sound=False` leaves it out.
    Sound and pictures share time zero. Sound that cannot be decoded is left out with a note.
    Raises: as `iter_frames`; LimitError also when the pictures would take too much memory.
    """
    with open_source(source, limits) as media:
        with iter_frames(media, fps=fps, max_side=max_side, limits=limits) as reader:
            frames, times_s = _collect(reader, media)
            notes = Notes(list(reader.notes))
            rate = fps or _rate_of(times_s) or reader.average_fps or FALLBACK_FPS
        media.clock.resume()  # the reader leaves it stopped
        audio = _sound_of(media, sample_rate, notes) if sound else None
    return Video(frames, times_s, float(rate), audio, tuple(notes.items))


def _collect(reader: FrameReader, media: MediaSource) -> tuple[np.ndarray, np.ndarray]:
    images: list[np.ndarray] = []
    times_s: list[float] = []
    size = 0
    for frame in reader:
        size += frame.image.nbytes
        if size > memory_limit(media.limits):
            raise LimitError(
                f"{media.name} unfolds to more than {memory_limit(media.limits)} bytes of pictures; "
                "read it with a lower fps or max_side, or with iter_frames"
            )
        images.append(frame.image)
        times_s.append(frame.time_s)
    return np.stack(images), np.array(times_s, np.float64)


def _rate_of(times_s: np.ndarray) -> float | None:
    if len(times_s) < 2 or times_s[-1] <= times_s[0]:
        return None
    return min(MAX_FPS, (len(times_s) - 1) / float(times_s[-1] - times_s[0]))


def _sound_of(media: MediaSource, sample_rate: int | None, notes: Notes) -> Audio | None:
    with open_container(media) as container:
        if not len(container.streams.audio):
            return None
    try:
        audio = read_audio_source(media, sample_rate=sample_rate)
    except LimitError:
        raise
    except MediaError as error:
        notes.add(f"the sound was left out: {error}")
        return None
    for note in audio.notes:
        notes.add(note)
    return audio
