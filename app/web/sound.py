"""Sound on its way to the browser: a player for finished files, and pieces cut for streaming."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.data_classes import FileData

__all__ = ["Cutter", "Sound", "wav_bytes"]

FIRST_S = 0.35
"""Length of the first piece in seconds: short, so that sound starts early."""
LATER_S = 1.0
"""Length of the later pieces; players stutter with much shorter ones."""
KEPT_S = 0.08
"""Held back until the end, because a player stays silent when a stream has one piece only."""


class Sound(gr.Audio):
    """gr.Audio that serves a file as it is, under its own name; Gradio's would ask ffprobe whether it is playable."""

    is_template = True  # the browser side is that of gr.Audio

    def postprocess(self, value: str | Path | None) -> FileData | None:  # type: ignore[override]
        """A path of a wav, mp3, flac or ogg file, or None."""
        return None if value is None else FileData(path=str(value), orig_name=Path(value).name)


class Cutter:
    """Collects samples of one take and cuts them into wav pieces of the right lengths."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.pieces = 0
        """Pieces given out."""
        self._waiting: list[np.ndarray] = []
        self._count = self._given = 0

    @property
    def given_s(self) -> float:
        """Seconds of sound given out so far."""
        return self._given / self.sample_rate

    def push(self, samples: np.ndarray) -> list[bytes]:
        """Add samples [S] float32 in [-1, 1]; gives back the wav pieces that are now complete, often none."""
        if len(samples):
            self._waiting.append(np.asarray(samples, np.float32))
            self._count += len(samples)
        done: list[bytes] = []
        while self._count >= (wanted := self._wanted()) + round(KEPT_S * self.sample_rate):
            done.append(self._take(wanted))
        return done

    def flush(self) -> list[bytes]:
        """The rest; together with earlier ones always two pieces or more, or none when there was no sound."""
        pieces: list[bytes] = []
        if self.pieces == 0 and self._count > 1:
            pieces.append(self._take(self._count // 2))
        if self._count:
            pieces.append(self._take(self._count))
        return pieces

    def _wanted(self) -> int:
        return round((LATER_S if self.pieces else FIRST_S) * self.sample_rate)

    def _take(self, count: int) -> bytes:
        joined = np.concatenate(self._waiting)
        self._waiting = [joined[count:]] if count < len(joined) else []
        self._count = len(joined) - count
        self.pieces += 1
        self._given += count
        return wav_bytes(joined[:count], self.sample_rate)


def wav_bytes(samples: np.ndarray, sample_rate: int) -> bytes:
    """16-bit mono wav of samples [S] float32; values beyond full scale are cut off."""
    steps = np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(steps.tobytes())
    return stream.getvalue()
