"""Media that the tests make themselves, good and hostile, without the code under test."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest


def tone(seconds: float = 0.5, rate: int = 16000, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    """A sine of 0.5, [C, S] float32, each channel a little higher than the one before."""
    time_s = np.arange(round(seconds * rate)) / rate
    turns = hertz * (1 + 0.25 * np.arange(channels))[:, None] * time_s
    return (0.5 * np.sin(2 * np.pi * turns)).astype(np.float32)


def wav(
    data: bytes,
    *,
    rate: int = 16000,
    channels: int = 1,
    bits: int = 16,
    code: int = 1,
    claimed: int | None = None,
) -> bytes:
    """A WAV file with any header above any data."""
    layout = struct.pack("<HHIIHH", code, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits)
    size = len(data) if claimed is None else claimed
    body = b"WAVEfmt " + struct.pack("<I", 16) + layout + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(0xFFFFFFFF, 36 + size)) + body


def int16(samples: np.ndarray) -> bytes:
    """Samples [C, S] as interleaved 16-bit steps."""
    return np.rint(samples.T * 32767).astype("<i2").tobytes()


def ramp_frames(count: int = 10, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Pictures of one grey each, 10, 20, 30 ...: frame i is recognised by its brightness."""
    return [np.full((height, width, 3), 10 + 10 * (i % 24), np.uint8) for i in range(count)]


def frame_number(picture: np.ndarray) -> int:
    """Which of `ramp_frames` a decoded picture is."""
    return round((float(picture.mean()) - 10) / 10)


def video(
    frames: Sequence[np.ndarray],
    *,
    fps: float = 10,
    form: str = "mp4",
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    stamps: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    audio: np.ndarray | None = None,
    audio_rate: int = 48000,
    audio_codec: str = "aac",
    more_frames: Sequence[np.ndarray] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> bytes:
    """The bytes of a video; `stamps` in units of `time_base` make its rate variable, `more_frames` a second stream."""
    unit = time_base or 1 / Fraction(fps).limit_denominator(1000)
    folder = tempfile.TemporaryDirectory()  # a real file, since the index can only then be moved to the front
    path = Path(folder.name) / "video"
    with folder, av.open(str(path), "w", format=form, options=container_options or {}) as out:
        tracks = []
        for pictures in [frames, *([more_frames] if more_frames is not None else [])]:
            track = out.add_stream(codec, rate=Fraction(fps).limit_denominator(1000), options=options or {})
            track.height, track.width = pictures[0].shape[:2]
            track.pix_fmt = pix_fmt
            track.codec_context.time_base = unit
            tracks.append((track, pictures))
        sound = None
        if audio is not None:
            sound = out.add_stream(audio_codec, rate=audio_rate, layout="mono" if len(audio) == 1 else "stereo")
        for track, pictures in tracks:
            for i, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = (stamps[i] if stamps else i), unit
                out.mux(track.encode(frame))
            out.mux(track.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio), format="fltp", layout=sound.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = audio_rate, 0, Fraction(1, audio_rate)
            out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
        out.close()
        return path.read_bytes()


def sound_file(samples: np.ndarray, rate: int, form: str, codec: str) -> bytes:
    """Sound in any container that FFmpeg writes."""
    stream = io.BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
    with av.open(stream, "w", format=form) as out:
        track = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return stream.getvalue()


def turned(mp4: bytes, matrix: Sequence[int]) -> bytes:
    """The MP4 with another display matrix (a, b, c, d as whole numbers) in its first track header."""
    place = mp4.index(b"tkhd") + 4
    place += 4 + 20 + 16  # version and flags; times, id, duration; reserved, layer, group, volume
    a, b, c, d = (value * 0x10000 for value in matrix)
    changed = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    return mp4[:place] + changed + mp4[place + 36 :]


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """All makers of this module."""
    return SimpleNamespace(
        tone=tone,
        wav=wav,
        int16=int16,
        ramp_frames=ramp_frames,
        frame_number=frame_number,
        video=video,
        sound_file=sound_file,
        turned=turned,
    )
