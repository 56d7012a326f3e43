"""Sound that leaves while it is being made: 16-bit PCM to stdout or to a file that grows, raw or as WAV.

The WAV header of a stream cannot know the length, so it states the largest one, which players take as "until the
end"; in a file it is set right when the sound is whole.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np

from genmm.core.events import PartialAudio

StreamKind = Literal["wav", "raw"]
UNKNOWN_BYTES = 0xFFFFFFFF
"""What a WAV header says of a length that nobody knows yet."""


class AudioStream:
    """A context manager that writes PartialAudio pieces as they come; mono, little endian, flushed at once."""

    def __init__(self, target: Path | str, kind: StreamKind) -> None:
        """`target` is a path, or "-" for standard output."""
        self.target, self.kind = target, kind
        self.bytes_written = 0
        self.sample_rate = 0
        self._file: BinaryIO | Any = None

    def __enter__(self) -> AudioStream:
        self._file = sys.stdout.buffer if self.target == "-" else open(self.target, "wb")
        return self

    def write(self, piece: PartialAudio) -> None:
        """Append a piece [S] or [1, S]; the first one decides the sample rate of the header."""
        if not self.sample_rate:
            self.sample_rate = piece.sample_rate
            if self.kind == "wav":
                self._file.write(wav_header(piece.sample_rate, UNKNOWN_BYTES))
        data = pcm16(piece.samples)
        self._file.write(data)
        self._file.flush()
        self.bytes_written += len(data)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.target == "-":
            return
        if self.kind == "wav" and self.sample_rate:
            self._file.seek(0)
            self._file.write(wav_header(self.sample_rate, self.bytes_written))
        self._file.close()


def pcm16(samples: Any) -> bytes:
    """float32 samples [S] or [1, S] in [-1, 1] as 16-bit little endian; what goes above is clipped."""
    array = samples.detach().cpu().float().numpy() if hasattr(samples, "detach") else np.asarray(samples, np.float32)
    return np.clip(np.rint(array.reshape(-1) * 32768.0), -32768, 32767).astype("<i2").tobytes()


def wav_header(sample_rate: int, data_bytes: int) -> bytes:
    """The 44 bytes before the samples of a mono 16-bit WAV file."""
    riff_bytes = min(UNKNOWN_BYTES, data_bytes + 36)
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WAVE") + fmt + struct.pack("<4sI", b"data", data_bytes)
