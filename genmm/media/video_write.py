"""Video out: H.264 and AAC in MP4, whole or not at all, with flat memory and tags inside."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from genmm.core.errors import MediaError, ShapeError, UsageError
from genmm.core.files import atomic_path
from genmm.media.audio_write import as_samples
from genmm.media.channels import downmix
from genmm.media.image import as_picture
from genmm.media.resampling import resample
from genmm.media.tags import pack_tags

__all__ = ["write_video"]

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
"""Sample rates of AAC; other sound is converted to 48 kHz."""

AUDIO_BITS_PER_CHANNEL = 96_000
"""Bits per second."""

AUDIO_BLOCK = 4096
"""Samples given to the encoder at a time."""

MUXER = {"movflags": "faststart", "movie_timescale": "48000"}
"""The index in front, for playing while loading; lengths counted finely enough that sound is not cut to whole ms."""

MAX_SIDE = 8192
"""Longest side that is written, in pixels."""


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[Any],
    fps: float,
    *,
    audio: Any | None = None,
    crf: int = 18,
    preset: str = "medium",
    tags: Mapping[str, Any] | None = None,
) -> Path:
    """Write frames, and sound if given, as .mp4 (also .m4v or .mov); gives back the path.

    Shapes: each frame [H, W, 3] or [H, W], uint8 or floating in [0, 1], all of one size; any iterable, one frame is
    held at a time. Odd sizes get one more column or row, a copy of the last, since H.264 has even sizes.
    Args: `audio` is an `Audio` or a pair (samples [S] or [C, S], sample_rate), mixed to stereo at most; `crf` is the
    quality from 0 (lossless) to 51, 18 is visually clean; `preset` trades time for size (x264's names).
    Raises: UsageError for suffix, fps, crf, preset or no frames; ShapeError when a frame differs; MediaError for NaN.
    """
    path = Path(path)
    if path.suffix.lower() not in (".mp4", ".m4v", ".mov"):
        raise UsageError(f"video is written as .mp4, .m4v or .mov, got {path.suffix!r}; change the suffix")
    if not 0 < fps <= 1000:
        raise UsageError(f"fps must be above 0 and at most 1000, got {fps!r}")
    if not 0 <= crf <= 51:
        raise UsageError(f"crf must be from 0 to 51, got {crf!r}; 18 is visually clean")
    sound = None if audio is None else _as_sound(audio)
    with atomic_path(path) as temporary:
        try:
            # With "file:" FFmpeg takes the rest literally, whatever characters the name has.
            url = "file:" + os.path.abspath(temporary)
            with av.open(url, "w", format="mp4", options=MUXER) as out:
                out.metadata.update(pack_tags(tags))
                _write(out, iter(frames), Fraction(fps).limit_denominator(100_000), sound, crf, preset)
        except av.FFmpegError as error:
            raise MediaError(f"{path.name} cannot be written: {error.strerror or error}") from error
    return path


def _as_sound(audio: Any) -> tuple[np.ndarray, int]:
    samples, rate = (audio.samples, audio.sample_rate) if hasattr(audio, "samples") else audio
    array = as_samples(samples)
    array = array if array.shape[0] <= 2 else downmix(array, 2)
    if rate not in AAC_RATES:
        return resample(array, rate, 48_000).clip(-1.0, 1.0), 48_000
    return array.clip(-1.0, 1.0), int(rate)


def _write(
    out: Any, frames: Iterator[Any], rate: Fraction, sound: tuple[np.ndarray, int] | None, crf: int, preset: str
) -> None:
    video, audio, shape, reformatter = None, None, None, VideoReformatter()
    for index, frame in enumerate(frames):
        picture = as_picture(frame)
        if video is None:
            shape, video = picture.shape, _video_stream(out, _even(picture).shape, rate, crf, preset)
            audio = None if sound is None else _AudioTrack(out, *sound)
        elif picture.shape != shape:
            raise ShapeError(f"frame {index} is {picture.shape}, the frames before it {shape}; scale them to one size")
        out.mux(video.encode(_yuv(_even(picture), index, video, reformatter)))
        if audio is not None:
            audio.write_until((index + 1) / float(rate))  # side by side, so that players need little buffer
        del frame, picture  # before the next one is made
    if video is None:
        raise UsageError("a video needs at least one frame, got none")
    out.mux(video.encode(None))
    if audio is not None:
        audio.finish()


def _video_stream(out: Any, shape: tuple[int, ...], rate: Fraction, crf: int, preset: str) -> Any:
    height, width = shape[:2]
    if max(height, width) > MAX_SIDE:
        raise UsageError(f"video is written up to {MAX_SIDE} pixels a side, got {width}x{height}; scale it down")
    options = {"crf": str(crf), "preset": preset}
    try:
        video = out.add_stream("libx264", rate=rate, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        context = video.codec_context
        context.time_base = 1 / rate
        # Named colours: without them players guess by size, and guess differently.
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.open()
    except av.FFmpegError as error:
        reason = error.strerror or error
        raise UsageError(f"x264 refused preset {preset!r} or size {width}x{height}: {reason}") from error
    return video


def _yuv(picture: np.ndarray, index: int, video: Any, reformatter: VideoReformatter) -> Any:
    frame = reformatter.reformat(
        av.VideoFrame.from_ndarray(picture, format="rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )
    frame.pts, frame.time_base = index, video.codec_context.time_base
    return frame


def _even(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return picture
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


class _AudioTrack:
    """Sound that is encoded bit by bit, as far as the pictures have come."""

    def __init__(self, out: Any, samples: np.ndarray, rate: int) -> None:
        self._out, self._samples, self._rate, self._next = out, samples, rate, 0
        self._layout = "mono" if samples.shape[0] == 1 else "stereo"
        self._stream = out.add_stream("aac", rate=rate, layout=self._layout)
        self._stream.bit_rate = AUDIO_BITS_PER_CHANNEL * samples.shape[0]

    def write_until(self, time_s: float) -> None:
        """Encode everything before that time, in seconds."""
        end = min(self._samples.shape[1], int(time_s * self._rate))
        while self._next < end:
            block = self._samples[:, self._next : min(end, self._next + AUDIO_BLOCK)]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._next, Fraction(1, self._rate)
            self._next += block.shape[1]
            self._out.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Encode the rest and what the encoder holds back."""
        self.write_until(self._samples.shape[1] / self._rate + 1.0)
        self._out.mux(self._stream.encode(None))
