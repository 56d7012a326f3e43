"""Decoding sound to float32 blocks: libsndfile for plain audio files, FFmpeg for the rest; all counted as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import soundfile

from genmm.core.errors import LimitError, MediaError
from genmm.media.channels import downmix
from genmm.media.containers import Notes, decoded, main_audio, open_container, zero_s
from genmm.media.source import MediaSource, memory_limit

__all__ = ["Decoded", "decode_audio"]

BLOCK = 16_384
"""Sample frames per read from libsndfile, all of which are lost when it finds damage among them."""

GAP_S = 0.06
"""Sound that lies behind its time stamps by more than this has a gap, in seconds. Vorbis in WebM alone shows 0.024."""
MAX_GAP_S = 10.0
"""Longer gaps inside the sound are a broken clock rather than silence, and are closed."""

SHORTFALL_S = 0.25
"""Sound that ends earlier than declared by more than this (and by 2 %) is called incomplete."""

AAC_PADDING = 2048
"""Most samples that an AAC encoder adds at the end."""

_BOUNDS = {"u8": (128.0, 128.0), "s16": (0.0, 2.0**15), "s32": (0.0, 2.0**31), "s64": (0.0, 2.0**63)}


@dataclass
class Decoded:
    """Sound as it comes out of a file: blocks of [C, n] float32 with one rate and one channel count."""

    media: MediaSource
    sample_rate: int
    channels: int
    mono: bool
    notes: Notes
    blocks: list[np.ndarray] = field(default_factory=list)
    frames: int = 0
    is_whole: bool = True
    """False where the decoder stopped at damage; another one may get further."""

    def __post_init__(self) -> None:
        limits, name = self.media.limits, self.media.name
        if self.channels < 1 or self.sample_rate < 1:
            raise MediaError(f"{name} declares {self.channels} channels at {self.sample_rate} Hz; it is damaged")
        if self.channels > limits.audio_channels:
            raise LimitError(f"{name} has {self.channels} channels, the limit is {limits.audio_channels}; mix it down")
        if self.sample_rate > limits.sample_rate:
            raise LimitError(f"{name} has {self.sample_rate} Hz, the limit is {limits.sample_rate}; convert it")

    def append(self, block: np.ndarray) -> None:
        """Count and keep a block [C, n]. Raises: LimitError for time, length or memory."""
        self.media.clock.check()
        limits, name = self.media.limits, self.media.name
        kept = downmix(block, 1) if self.mono else block.astype(np.float32, copy=False)
        self.frames += kept.shape[1]
        if self.frames > limits.audio_s * self.sample_rate:
            raise LimitError(f"{name} is longer than {limits.audio_s:g} s, the limit for sound; cut it into parts")
        if self.frames * kept.shape[0] * 4 > memory_limit(limits):
            raise LimitError(f"{name} unfolds to more than {memory_limit(limits)} bytes; use fewer channels or cut it")
        self.blocks.append(kept)

    def drop_padding(self, end_s: float) -> None:
        """Cut what an encoder added to fill its last packet, which lies behind the declared end."""
        extra = self.frames - round(end_s * self.sample_rate)
        if self.blocks and 0 < extra <= AAC_PADDING and extra < self.blocks[-1].shape[1]:
            self.blocks[-1] = self.blocks[-1][:, :-extra]
            self.frames -= extra

    def samples(self) -> np.ndarray:
        """Everything so far, [C, S] float32."""
        if not self.blocks:
            return np.zeros((1 if self.mono else self.channels, 0), np.float32)
        return np.ascontiguousarray(np.concatenate(self.blocks, axis=1))


def decode_audio(media: MediaSource, *, mono: bool) -> Decoded:
    """Decode the sound of a source, chosen by its content and never by its name.

    Raises: MediaError without sound or when it is unreadable; LimitError past the limits.
    """
    sound = _with_libsndfile(media, mono) if _is_for_libsndfile(media.head) else None
    if sound is not None and sound.is_whole:
        return sound
    try:
        return _with_ffmpeg(media, mono)
    except LimitError:
        raise
    except MediaError:
        if sound is None or sound.frames == 0:
            raise
        return sound


def _is_for_libsndfile(head: bytes) -> bool:
    """MP3 goes to FFmpeg: libmpg123 writes to the terminal about damaged files."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return head[8:12] == b"WAVE"
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC")
    return head[:4] in (b"fLaC", b"OggS", b".snd", b"NIST") or head[:4] == b"riff"


def _with_libsndfile(media: MediaSource, mono: bool) -> Decoded | None:
    """None when libsndfile cannot open the file, or would mix up its channels; FFmpeg may still read it."""
    try:
        sound = soundfile.SoundFile(media.reader(clocked=False))
    except (soundfile.SoundFileError, OSError, ValueError, TypeError):
        return None
    with sound:
        if sound.format == "OGG" and sound.channels > 2:  # Vorbis orders 5.1 in its own way
            return None
        result = Decoded(media, sound.samplerate, sound.channels, mono, Notes())
        try:
            while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                result.append(block.T)
        except soundfile.SoundFileError:
            result.is_whole = False
            result.notes.add("the file breaks off or is damaged; what comes after that point is missing")
        log = sound.extra_info
        if "(should be" in log or "end-of-stream bit" in log.lower() or "Exiting parser" in log:
            result.notes.add("the file is cut off: it announces more sound than it holds")
    return result


def _with_ffmpeg(media: MediaSource, mono: bool) -> Decoded:
    with open_container(media) as container:
        stream = main_audio(container, media)
        if stream is None:
            raise MediaError(f"{media.name} has no sound")
        stream.codec_context.thread_count = 1
        notes, zero = Notes(), zero_s(container)
        declared = float(stream.duration * stream.time_base) if stream.duration else None
        begin = float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0
        result: Decoded | None = None
        for frame in decoded(container, stream, media, notes):
            if result is None:
                result = Decoded(media, frame.sample_rate or 0, len(frame.layout.channels), mono, notes)
                convert = _Converter(frame)
            _fill_gap(result, frame, zero)
            for block in convert(frame):
                result.append(block)
        for block in convert.finish() if result is not None else ():
            result.append(block)
        is_padded = stream.codec_context.name == "aac" and container.format.name.startswith("mov")
    if result is None:
        return Decoded(media, 1, 1, mono, notes)
    if declared is not None:
        end_s = declared + max(0.0, begin - zero)
        _note_shortfall(result, end_s)
        if is_padded:
            result.drop_padding(end_s)
    return result


def _fill_gap(result: Decoded, frame: Any, zero_s: float) -> None:
    """Put silence where the time stamps leave a hole, so that sound keeps its place beside the picture."""
    if frame.pts is None or frame.time_base is None:
        return
    missing_s = float(frame.pts * frame.time_base) - zero_s - result.frames / result.sample_rate
    if missing_s <= GAP_S:
        return
    if missing_s > (result.media.limits.audio_s if result.frames == 0 else MAX_GAP_S):
        result.notes.add("the time stamps of the sound jump; the parts were joined without a pause")
        return
    if result.frames == 0:
        result.notes.add(f"the sound begins {missing_s:.2f} s after the picture; silence stands before it")
    else:
        result.notes.add("missing parts of the sound were replaced by silence")
    result.append(np.zeros((result.channels, round(missing_s * result.sample_rate)), np.float32))


def _note_shortfall(result: Decoded, end_s: float) -> None:
    there_s = result.frames / result.sample_rate
    if end_s - there_s > max(SHORTFALL_S, 0.02 * end_s):
        result.notes.add(f"the sound is incomplete: {there_s:.2f} s of {end_s:.2f} s were there")


class _Converter:
    """PyAV audio frames of the first frame's rate and layout to float32 [C, n]; later changes are converted to it."""

    def __init__(self, first: Any) -> None:
        self._shape = _signature(first)
        self._layout, self._rate = first.layout, first.sample_rate
        self._current = self._shape
        self._resampler: Any = None

    def __call__(self, frame: Any) -> Iterator[np.ndarray]:
        """The samples of one frame."""
        signature = _signature(frame)
        if signature != self._current:
            yield from self.finish()
            self._current = signature
            if signature[1:] != self._shape[1:]:
                self._resampler = av.AudioResampler("fltp", layout=self._layout, rate=self._rate)
        if self._resampler is None:
            yield _to_float(frame)
            return
        frame.pts = None
        for piece in self._resampler.resample(frame):
            yield _to_float(piece)

    def finish(self) -> Iterator[np.ndarray]:
        """What the conversion still holds back."""
        if self._resampler is not None:
            for piece in self._resampler.resample(None):
                yield _to_float(piece)
        self._resampler = None


def _signature(frame: Any) -> tuple[str, int, str, int]:
    return frame.format.name, frame.sample_rate, frame.layout.name, len(frame.layout.channels)


def _to_float(frame: Any) -> np.ndarray:
    """A PyAV frame of any sample format as float32 [C, n] in [-1, 1]."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:  # [1, n * C] -> [C, n]
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    kind = frame.format.name.removesuffix("p")
    if kind in _BOUNDS:
        middle, scale = _BOUNDS[kind]
        exact = samples.astype(np.float64 if kind in ("s32", "s64") else np.float32)
        return ((exact - middle) / scale).astype(np.float32)
    return samples.astype(np.float32)
