"""One pass over a file: pictures, sound and shots of any length with flat memory, by time stamps.

Pictures and sound are demuxed together and described as they come; nothing is kept but a row of features a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from genmm.core.errors import LimitError, MediaError
from genmm.core.events import CancelToken, Event, Finished, Progress, drain
from genmm.core.limits import LONG_FOOTAGE, Limits
from genmm.media.containers import DAMAGE, Notes, largest_video, main_audio, open_container, zero_s
from genmm.media.frame_times import TimedFrames
from genmm.media.media_info import average_fps
from genmm.media.shots import ShotFinder, brightness_thumbnail
from genmm.media.source import MediaInput, MediaSource, open_source
from genmm.systems.rasl.audio_features import DB_SCALE, LOUDNESS_COLUMN, RATE, SoundDescriber
from genmm.systems.rasl.extractors import HANDCRAFTED, VisualExtractor
from genmm.systems.rasl.feature_table import STEP_S, FeatureTable
from genmm.systems.rasl.visual_features import SIDE, motion_features

__all__ = ["PICTURES_PER_STEP", "extract_features", "extraction_events"]

PICTURES_PER_STEP = 3
"""Pictures a second that are described; cuts are looked for in every frame."""
GAP_S = 0.06
"""Sound that begins later than where the sound so far ended, by more than this, leaves a silence between them."""
LEAST_STEP_S = 0.15
"""A rest at the end that is shorter belongs to the step before it."""
UNEVEN = 0.2
"""Frame distances whose deviation is above this share of their mean make the frame rate variable."""


def extract_features(
    source: MediaInput,
    *,
    extractor: VisualExtractor = HANDCRAFTED,
    limits: Limits = LONG_FOOTAGE,
    cancel: CancelToken | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> FeatureTable:
    """Describe a video (or a sound file) in one pass; see `extraction_events`."""
    return drain(extraction_events(source, extractor=extractor, limits=limits, cancel=cancel), on_event)


def extraction_events(
    source: MediaInput,
    *,
    extractor: VisualExtractor = HANDCRAFTED,
    limits: Limits = LONG_FOOTAGE,
    cancel: CancelToken | None = None,
) -> Iterator[Event]:
    """Describe a video (or a sound file) in one pass: a Progress a second of it, then Finished with a FeatureTable.

    Every step of one second is described by three pictures, those shown at 0, 1/3 and 2/3 of it, and by the sound
    whose windows have their centre in it. A missing or unreadable stream is left out with a note.
    Raises: MediaError when there are neither pictures nor sound; LimitError past `limits`; Cancelled.
    """
    with open_source(source, limits) as media, open_container(media) as container:
        notes, news = Notes(), _News(_declared_s(container), cancel)
        video = _video_of(container, media, notes)
        sound = _SoundReader(container, media, notes)
        if video is None and sound.stream is None:
            raise MediaError(f"{media.name} holds neither pictures nor sound that can be read")
        pictures = _PictureReader(extractor)
        if video is not None:
            timed = TimedFrames(_JointDemux(container, sound), video, media, notes)
            for time_s, frame in timed:
                pictures.push(time_s, frame)
                yield from news.at(time_s)
            pictures.finish(timed.end_s)
        else:
            for packet in container.demux(sound.stream):
                sound.push(packet)
                yield from news.at(sound.seconds)
        audio = sound.finish()
        info = _info(media, video, sound.stream, pictures)
    yield Finished(_table(media.name, pictures, audio, sound.seconds, info, notes, extractor.name))


class _News:
    """Says how far the reading is, once a second of footage, and stops it when asked to."""

    def __init__(self, total_s: float | None, cancel: CancelToken | None) -> None:
        self._total = None if total_s is None else max(1, int(total_s))
        self._cancel, self._said = cancel, -1

    def at(self, time_s: float) -> Iterator[Progress]:
        """What there is to say at a time of the footage. Raises: Cancelled."""
        if int(time_s) == self._said:
            return
        self._said = int(time_s)
        if self._cancel is not None:
            self._cancel.check()
        total = None if self._total is None else max(self._total, self._said)
        yield Progress(self._said, total, "seconds", "reading the video")


def _video_of(container: Any, media: MediaSource, notes: Notes) -> Any | None:
    try:
        stream = largest_video(container, media)
    except LimitError:
        raise
    except MediaError as error:
        notes.add(f"the pictures were left out: {error}")
        return None
    tracks = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if len(tracks) > 1:
        notes.add(f"the file has {len(tracks)} video streams; the largest one is used")
    return stream


def _declared_s(container: Any) -> float | None:
    return container.duration / 1e6 if container.duration and container.duration > 0 else None


class _JointDemux:
    """Stands for a container whose only stream is the video: packets of the sound go another way as they come."""

    def __init__(self, container: Any, sound: _SoundReader) -> None:
        self._container, self._sound = container, sound
        self.streams = container.streams

    def demux(self, video: Any) -> Iterator[Any]:
        """Packets of the video in order; those of the sound are decoded on the way."""
        streams = [video] if self._sound.stream is None else [video, self._sound.stream]
        for packet in self._container.demux(*streams):
            if packet.stream is video or packet.stream.index == video.index:
                yield packet
            else:
                self._sound.push(packet)


class _SoundReader:
    """Decodes the sound to mono at RATE, puts it at its time, and describes it."""

    def __init__(self, container: Any, media: MediaSource, notes: Notes) -> None:
        self._media, self._notes = media, notes
        self._zero_s = zero_s(container)
        self._resampler: Any = None
        self._shape: Any = None
        self._fifo = av.AudioFifo()
        self._describer = SoundDescriber()
        self._lost = 0
        self._begun = False
        try:
            self.stream = main_audio(container, media)
        except MediaError as error:
            notes.add(f"the sound was left out: {error}")
            self.stream = None
        if self.stream is not None:
            self.stream.codec_context.thread_count = 1
            if len(container.streams.audio) > 1:
                notes.add(f"the file has {len(container.streams.audio)} sound tracks; the first one is used")

    @property
    def seconds(self) -> float:
        """Length of the sound so far."""
        waiting_s = self._fifo.samples / self._shape[2] if self._fifo.samples else 0.0
        return self._describer.samples / RATE + waiting_s

    def push(self, packet: Any) -> None:
        """Decode one packet; damaged ones are counted and passed over."""
        self._media.clock.check()
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except DAMAGE:
            self._lost += 1
            return
        for frame in frames:
            self._place(frame)

    def finish(self) -> np.ndarray:
        """The description [T, AUDIO_SIZE] of all sound."""
        self._end_part()
        if self._lost:
            self._notes.add(f"{self._lost} damaged packets of the sound were skipped")
        return self._describer.finish()

    def _place(self, frame: Any) -> None:
        """Fill the time up to a frame with silence where there is a gap, then add the frame."""
        if frame.time is not None:
            begin_s = frame.time - self._zero_s
            gap_s = begin_s - self.seconds
            if GAP_S < gap_s <= self._media.limits.audio_s:
                self._end_part()
                missing = round(begin_s * RATE) - self._describer.samples
                if not self._begun:
                    self._notes.add(f"the sound begins {begin_s:.2f} s after the picture")
                else:
                    self._notes.add("missing parts of the sound count as silence")
                self._silence(missing)
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or shape != self._shape:
            self._end_part()
            self._resampler, self._shape = av.AudioResampler("flt", layout="mono", rate=RATE), shape
        self._begun = True
        frame.pts = None
        self._fifo.write(frame)
        if self._fifo.samples >= frame.sample_rate:  # a second at a time, because a call costs more than a frame
            self._take(self._resampler.resample(self._fifo.read()))
        if self.seconds > self._media.limits.audio_s:
            raise LimitError(f"{self._media.name} is longer than {self._media.limits.audio_s:g} s; cut it into parts")

    def _end_part(self) -> None:
        """Convert what is waiting; what follows is placed anew, or is of another kind."""
        if self._resampler is None:
            return
        if self._fifo.samples:
            self._take(self._resampler.resample(self._fifo.read()))
        self._take(self._resampler.resample(None))
        self._resampler, self._fifo = None, av.AudioFifo()

    def _take(self, frames: Any) -> None:
        for frame in frames:
            self._describer.push(frame.to_ndarray().reshape(-1))

    def _silence(self, samples: int) -> None:
        while samples > 0:
            part = min(samples, RATE)
            self._describer.push(np.zeros(part, np.float32))
            samples -= part


class _PictureReader:
    """Takes every frame in order; describes three a second, looks for cuts in all."""

    def __init__(self, extractor: VisualExtractor) -> None:
        self._extractor = extractor
        self._reformatter = VideoReformatter()
        self._shots = ShotFinder()
        self._held: Any = None
        self._held_picture: np.ndarray | None = None
        self._tick = 0
        self._step: list[np.ndarray] = []
        self._before: np.ndarray | None = None
        self._last_s: float | None = None
        self._distances = [0, 0.0, 0.0]  # count, sum, sum of squares
        self.visual: list[np.ndarray] = []
        self.motion: list[np.ndarray] = []
        self.end_s = 0.0
        self.size: tuple[int, int] | None = None

    def push(self, time_s: float, frame: Any) -> None:
        """Take one decoded frame."""
        if self.size is None:
            turned = round(frame.rotation / 90) % 2
            self.size = (frame.height, frame.width) if turned else (frame.width, frame.height)
        while self._held is not None and self._tick / PICTURES_PER_STEP < time_s - 1e-3:
            self._describe()
        self._held, self._held_picture = frame, None
        self._shots.push(time_s, brightness_thumbnail(frame))
        if self._last_s is not None:
            distance = time_s - self._last_s
            self._distances = [
                self._distances[0] + 1,
                self._distances[1] + distance,
                self._distances[2] + distance * distance,
            ]
        self._last_s = time_s

    def finish(self, end_s: float) -> None:
        """Describe what the last frame still stands for."""
        self.end_s = end_s
        while self._held is not None and (self._tick == 0 or self._tick / PICTURES_PER_STEP < end_s - 1e-3):
            self._describe()
        if self._step and (not self.visual or end_s - len(self.visual) * STEP_S >= LEAST_STEP_S):
            self._close_step()
        self._held = None

    @property
    def is_uneven(self) -> bool:
        """Whether the frame rate varies."""
        count, total, squares = self._distances
        if count < 8 or total <= 0:
            return False
        mean = total / count
        return max(0.0, squares / count - mean * mean) ** 0.5 > UNEVEN * mean

    def cuts(self) -> tuple[float, ...]:
        """Times at which shots begin."""
        return self._shots.finish()

    def _describe(self) -> None:
        """The held frame is what is shown at the current tick."""
        if self._held_picture is None:
            self._held_picture = self._picture(self._held)
        self._step.append(self._held_picture)
        self._tick += 1
        if self._tick % PICTURES_PER_STEP == 0:
            self._close_step()

    def _picture(self, frame: Any) -> np.ndarray:
        converted = self._reformatter.reformat(
            frame, width=SIDE, height=SIDE, format="rgb24", interpolation=Interpolation.AREA, threads=1
        ).to_ndarray()
        return np.ascontiguousarray(np.rot90(converted, round(frame.rotation / 90) % 4))

    def _close_step(self) -> None:
        pictures = np.stack(self._step)
        motion = motion_features(pictures, self._before)
        self.visual.append(self._extractor(pictures, motion))
        self.motion.append(motion)
        self._before, self._step = pictures[-1], []


@dataclass(frozen=True)
class _Length:
    steps: int
    seconds: float


def _length(pictures: _PictureReader, sound_s: float) -> _Length:
    """How long the file is: as long as its pictures; as its sound where there are none."""
    if pictures.visual:
        return _Length(len(pictures.visual), max(pictures.end_s, 1e-3))
    return _Length(max(1, int(np.ceil((sound_s - LEAST_STEP_S) / STEP_S))), sound_s)


def _table(
    name: str,
    pictures: _PictureReader,
    audio: np.ndarray,
    sound_s: float,
    info: dict[str, Any],
    notes: Notes,
    extractor: str,
) -> FeatureTable:
    length = _length(pictures, sound_s)
    if pictures.is_uneven:
        notes.add("the frame rate is variable; frames were placed by their time stamps")
    if not len(audio) and not pictures.visual:
        raise MediaError(f"{name} holds neither a picture nor a sound that can be decoded; it is damaged or cut off")
    if not len(audio):
        notes.add("there is no sound; the scores come from the pictures alone")
    elif pictures.visual and sound_s < length.seconds - 1.0:
        notes.add(f"the sound ends after {sound_s:.2f} s of {length.seconds:.2f} s")
    rows = np.zeros((length.steps, audio.shape[1]), np.float32)
    rows[: len(audio)] = audio[: length.steps]
    valid = np.arange(length.steps) < len(audio)
    return FeatureTable(
        visual=np.stack(pictures.visual) if pictures.visual else None,
        motion=np.stack(pictures.motion) if pictures.visual else None,
        audio=rows if len(audio) else None,
        audio_valid=valid if len(audio) else None,
        loudness_db=rows[:, LOUDNESS_COLUMN] * DB_SCALE if len(audio) else None,
        duration_s=length.seconds,
        cuts_s=pictures.cuts(),
        source=os.path.basename(name),
        info=info,
        notes=tuple(notes.items),
        extractor=extractor,
    )


def _info(media: MediaSource, video: Any, audio: Any, pictures: _PictureReader) -> dict[str, Any]:
    """Plain facts about the file, taken while it is open."""
    facts: dict[str, Any] = {"size_bytes": media.size_bytes, "fps": None, "width": None, "height": None}
    if video is not None:
        facts |= {"fps": average_fps(video), "video_codec": video.codec_context.name}
        if pictures.size is not None:
            facts |= {"width": pictures.size[0], "height": pictures.size[1]}
    if audio is not None:
        facts |= {"audio_codec": audio.codec_context.name, "sample_rate": audio.sample_rate or 0}
    return facts
