"""What a media file holds: container, length, picture and sound, without reading it through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from genmm.core.errors import MediaError
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.containers import Notes, decoded, largest_video, main_audio, open_container
from genmm.media.pictures import PictureMaker
from genmm.media.source import MediaInput, MediaSource, open_source

__all__ = ["AudioInfo", "MediaInfo", "VideoInfo", "average_fps", "probe"]


@dataclass(frozen=True)
class VideoInfo:
    """The picture part of a file, as its header declares it (measured values come from reading)."""

    codec: str
    width: int
    """Pixels as shown: upright, with square pixels."""
    height: int
    fps: float | None
    """Average frame rate; None when unknown."""
    rotation: int
    """Degrees, counter-clockwise, by which stored pictures are turned for showing; 0, 90, 180 or 270."""


@dataclass(frozen=True)
class AudioInfo:
    """The sound part of a file, as its header declares it."""

    codec: str
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds."""

    format: str
    """FFmpeg's name of the container, such as 'mov,mp4,m4a,3gp,3g2,mj2'."""
    size_bytes: int
    duration_s: float | None
    """Declared length; None when the header does not say. Never a measure for memory."""
    video: VideoInfo | None
    audio: AudioInfo | None
    streams: int
    """Number of streams of all kinds."""


def probe(source: MediaInput, *, limits: Limits = DEFAULT_LIMITS) -> MediaInfo:
    """Tell what an audio or video file holds, from its header and its first picture.

    Raises: MediaError when it cannot be read or holds neither; LimitError past `limits`.
    """
    with open_source(source, limits) as media, open_container(media) as container:
        video, audio = largest_video(container, media), main_audio(container, media)
        if video is None and audio is None:
            raise MediaError(f"{media.name} holds neither pictures nor sound")
        # Plain values, taken before the container closes: PyAV's objects do not outlive it.
        audio_info = None
        if audio is not None:
            audio_info = AudioInfo(audio.codec_context.name, audio.sample_rate or 0, audio.channels or 0)
        name, duration = container.format.name, container.duration
        return MediaInfo(
            format=name,
            size_bytes=media.size_bytes,
            duration_s=duration / 1e6 if duration and duration > 0 else None,
            audio=audio_info,
            streams=len(container.streams),
            video=None if video is None else _video_info(container, video, media),
        )


def _video_info(container: Any, stream: Any, media: MediaSource) -> VideoInfo:
    codec, fps = stream.codec_context.name, average_fps(stream)
    for frame in decoded(container, stream, media, Notes()):
        maker = PictureMaker(frame, stream, media, max_side=None)
        return VideoInfo(codec, *maker.shown_size, fps, 90 * maker.quarter_turns)
    raise MediaError(f"{media.name}: no picture of the video could be decoded; it is damaged or cut off")


def average_fps(stream: Any) -> float | None:
    """Frames per second that the header of a stream declares or FFmpeg guesses; None without a usable one."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and 0 < float(rate) < 1000:
            return float(rate)
    return None
