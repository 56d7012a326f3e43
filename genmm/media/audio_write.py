"""Sound out: WAV, FLAC, Ogg Vorbis and MP3, to a file (whole or not at all) or to bytes, with tags inside."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile

from genmm.core.errors import LimitError, MediaError, ShapeError, UsageError
from genmm.core.files import atomic_path
from genmm.media.tags import pack_tags

__all__ = ["AUDIO_FORMATS", "SampleFormat", "as_samples", "encode_audio_bytes", "write_audio"]

SampleFormat = Literal["int16", "int24", "float32"]

AUDIO_FORMATS: Mapping[str, tuple[SampleFormat, ...]] = {
    "wav": ("int16", "int24", "float32"),
    "flac": ("int16", "int24"),
    "ogg": (),
    "mp3": (),
}
"""Suffix without its dot -> sample formats, the default first; none where the coding has its own."""

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Sample rates of MPEG audio."""

MAX_CHANNELS = {"wav": 8, "flac": 8, "ogg": 2, "mp3": 2}
"""Channels written per format; Vorbis could hold more, in an order that readers disagree about."""

BLOCK = 65_536
"""Sample frames written at a time; libsndfile's Vorbis encoder needs stack in proportion."""

_WAV_TAGS = {
    "title": b"INAM",
    "artist": b"IART",
    "album": b"IPRD",
    "date": b"ICRD",
    "genre": b"IGNR",
    "copyright": b"ICOP",
    "comment": b"ICMT",
}
_ID3_TAGS = {"title": "TIT2", "artist": "TPE1", "album": "TALB", "date": "TDRC", "genre": "TCON", "copyright": "TCOP"}


def as_samples(samples: Any) -> np.ndarray:
    """Any array or tensor [S] or [C, S] as float32 [C, S] on the CPU; integers are taken as full-scale steps.

    Raises: ShapeError for other shapes and types, no samples, or more than 64 channels; MediaError for NaN or Inf.
    """
    array = samples.detach().cpu().float().numpy() if hasattr(samples, "detach") else np.asarray(samples)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 1:
        raise ShapeError(f"sound must be [S] or [C, S] with at least one sample, got shape {array.shape}")
    if array.shape[0] > 64:
        raise ShapeError(f"sound must be [C, S], got {array.shape}; transpose it if it is [S, C]")
    if np.issubdtype(array.dtype, np.signedinteger):
        array = array.astype(np.float64) / -float(np.iinfo(array.dtype).min)
    if not np.issubdtype(array.dtype, np.floating):
        raise ShapeError(f"sound must be floating or signed whole numbers, got {array.dtype}")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise MediaError("the sound holds NaN or infinite samples and was not written")
    return array


def write_audio(
    path: str | os.PathLike[str],
    samples: Any,
    sample_rate: int,
    *,
    tags: Mapping[str, Any] | None = None,
    sample_format: SampleFormat | None = None,
) -> Path:
    """Write a sound; the suffix (.wav, .flac, .ogg, .mp3) chooses the format. Gives back the path.

    Shapes: samples [S] or [C, S], array or tensor, full scale at 1.0; what goes above is clipped in every format
    but WAV float32. The file appears whole or not at all. WAV and FLAC bytes repeat exactly for equal input.
    Tags: see `genmm.media.tags`; `read_tags` gives them back.
    Raises: UsageError for a suffix, rate, channel count or sample format that cannot be written; ShapeError; MediaError
    for NaN; OSError as the system reports it.
    """
    path = Path(path)
    kind, coded = _checked_format(path.suffix.lower().removeprefix("."), sample_format)
    array, rate = as_samples(samples), _checked_rate(sample_rate, kind)
    fields = pack_tags(tags)
    with atomic_path(path) as temporary, open(temporary, "w+b") as stream:
        _encode(stream, array, rate, kind, coded, fields)
    return path


def encode_audio_bytes(
    samples: Any,
    sample_rate: int,
    format: str = "wav",
    *,
    tags: Mapping[str, Any] | None = None,
    sample_format: SampleFormat | None = None,
) -> bytes:
    """The bytes of the file that `write_audio` would write; `format` is "wav", "flac", "ogg" or "mp3"."""
    kind, coded = _checked_format(format.lower().removeprefix("."), sample_format)
    stream = io.BytesIO()
    _encode(stream, as_samples(samples), _checked_rate(sample_rate, kind), kind, coded, pack_tags(tags))
    return stream.getvalue()


def _checked_format(kind: str, sample_format: str | None) -> tuple[str, str | None]:
    if kind not in AUDIO_FORMATS:
        raise UsageError(f"sound is written as .wav, .flac, .ogg or .mp3, got {kind!r}; change the suffix")
    allowed = AUDIO_FORMATS[kind]
    if sample_format is not None and sample_format not in allowed:
        choices = ", ".join(allowed) or "none (the format has its own)"
        raise UsageError(f"{kind} takes sample formats: {choices}; got {sample_format!r}")
    return kind, sample_format or (allowed[0] if allowed else None)


def _checked_rate(sample_rate: int, kind: str) -> int:
    if isinstance(sample_rate, bool) or int(sample_rate) != sample_rate or not 1 <= sample_rate <= 655_350:
        raise UsageError(f"sample_rate must be a whole number from 1 to 655350 Hz, got {sample_rate!r}")
    if kind == "mp3" and sample_rate not in MP3_RATES:
        raise UsageError(f"mp3 knows the rates {', '.join(map(str, MP3_RATES))} Hz, got {sample_rate}; resample first")
    return int(sample_rate)


def _encode(
    stream: BinaryIO, array: np.ndarray, rate: int, kind: str, coded: str | None, fields: dict[str, str]
) -> None:
    most = MAX_CHANNELS[kind]
    if array.shape[0] > most:
        raise UsageError(f"{kind} is written with up to {most} channels, got {array.shape[0]}; mix it down")
    if kind == "wav":
        _encode_wav(stream, array, rate, coded or "int16", fields)
    elif kind == "flac":
        _encode_with_libsndfile(stream, array, rate, "FLAC", "PCM_24" if coded == "int24" else "PCM_16", fields)
    elif kind == "ogg":
        _encode_with_libsndfile(stream, array, rate, "OGG", "VORBIS", fields)
    else:
        stream.write(_id3(fields))
        coded_mp3 = io.BytesIO()  # the encoder goes back to the start of the file for its index
        _encode_with_libsndfile(coded_mp3, array, rate, "MP3", "MPEG_LAYER_III", {})
        stream.write(coded_mp3.getbuffer())


def _encode_with_libsndfile(
    stream: BinaryIO, array: np.ndarray, rate: int, form: str, subtype: str, fields: dict[str, str]
) -> None:
    lossy = {} if form == "FLAC" else {"compression_level": 0.2}  # about 200 kbit/s for stereo at 44.1 kHz
    try:
        with soundfile.SoundFile(
            stream, "w", samplerate=rate, channels=array.shape[0], format=form, subtype=subtype, **lossy
        ) as sound:
            for key, value in fields.items():
                setattr(sound, key, value)
            for start in range(0, array.shape[1], BLOCK):
                block = array[:, start : start + BLOCK].T  # [n, C]
                if subtype == "PCM_16":
                    block = _steps(block, 16).astype(np.int16)
                elif subtype == "PCM_24":
                    block = _steps(block, 24) << 8
                else:
                    block = block.clip(-1.0, 1.0)
                sound.write(np.ascontiguousarray(block))
    except soundfile.SoundFileError as error:
        raise MediaError(f"the sound cannot be written as {form} at {rate} Hz: {error}") from error


def _steps(block: np.ndarray, bits: int) -> np.ndarray:
    """Samples as whole steps, int32; reading divides by the same number, so that a second writing changes nothing."""
    full = 2 ** (bits - 1)
    return np.rint(block.astype(np.float64) * full).clip(-full, full - 1).astype(np.int32)


def _encode_wav(stream: BinaryIO, array: np.ndarray, rate: int, coded: str, fields: dict[str, str]) -> None:
    """RIFF by hand: the same bytes for the same input (libsndfile adds the time of day), long comments included."""
    channels, count = array.shape
    width = {"int16": 2, "int24": 3, "float32": 4}[coded]
    code = 3 if coded == "float32" else 1
    byte_rate, align = rate * channels * width, channels * width
    layout = struct.pack("<HHIIHH", code, channels, rate, byte_rate, align, 8 * width)
    head = _chunk(b"fmt ", layout + (b"\0\0" if code == 3 else b""))
    if code == 3:
        head += _chunk(b"fact", struct.pack("<I", count))
    info = b"".join(_chunk(_WAV_TAGS[key], value.encode() + b"\0") for key, value in fields.items())
    tail = _chunk(b"LIST", b"INFO" + info) if info else b""
    size = count * align
    total = 4 + len(head) + 8 + size + size % 2 + len(tail)
    if total > 0xFFFFFFFF:
        raise LimitError(f"a WAV file holds 4 GiB, this sound needs {total} bytes; write .flac")
    stream.write(b"RIFF" + struct.pack("<I", total) + b"WAVE" + head + b"data" + struct.pack("<I", size))
    for start in range(0, count, BLOCK):
        stream.write(_wav_bytes(array[:, start : start + BLOCK].T, coded))
    stream.write(b"\0" * (size % 2) + tail)


def _wav_bytes(block: np.ndarray, coded: str) -> bytes:
    if coded == "float32":
        return block.astype("<f4").tobytes()
    if coded == "int16":
        return _steps(block, 16).astype("<i2").tobytes()
    return np.ascontiguousarray(_steps(block, 24).astype("<i4"))[..., None].view(np.uint8)[..., :3].tobytes()


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _id3(fields: dict[str, str]) -> bytes:
    """An ID3v2.4 tag in UTF-8, which libsndfile writes as Latin-1 only."""
    frames = b""
    for key, value in fields.items():
        text = value.encode()
        if key == "comment":
            frames += _id3_frame("COMM", b"\x03eng\0" + text)
        else:
            frames += _id3_frame(_ID3_TAGS[key], b"\x03" + text)
    return b"ID3\x04\0\0" + _syncsafe(len(frames)) + frames if frames else b""


def _id3_frame(name: str, content: bytes) -> bytes:
    return name.encode() + _syncsafe(len(content)) + b"\0\0" + content


def _syncsafe(size: int) -> bytes:
    return bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
