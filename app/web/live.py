"""Sound that plays while it is being made: pieces through one AAC encoder, as segments of an HLS stream."""

from __future__ import annotations

import io
import wave
from typing import ClassVar

import av
import gradio as gr
import numpy as np
from gradio.data_classes import MediaStreamChunk

__all__ = ["AacStream", "LiveSound"]

ADTS_RATES = (
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350,
)  # fmt: skip
"""Samples per second that an ADTS header can name (ISO/IEC 14496-3, table 1.18)."""
FRAME_SAMPLES = 1024
"""Samples in one AAC frame."""
CLOCK_HZ = 90_000
"""Unit of the time stamps of HLS segments."""
TIME_STAMP_OWNER = b"com.apple.streaming.transportStreamTimestamp\0"


class AacStream:
    """One AAC encoder for a whole stream, so that pieces join without a gap.

    Each segment begins with the time of its first sample, as RFC 8216 section 3.4 asks of packed audio.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.coded_rate = min(ADTS_RATES, key=lambda rate: abs(rate - sample_rate))
        """Samples per second of what comes out."""
        self._file = io.BytesIO()
        self._writer = av.open(self._file, "w", format="adts", options={"flush_packets": "1"})
        self._encoder = self._writer.add_stream("aac", rate=self.coded_rate, layout="mono")
        self._pushed = self._frames = 0

    def push(self, samples: np.ndarray) -> MediaStreamChunk | None:
        """Add samples [S] int16; gives back the frames that are now complete, or None."""
        if not len(samples):
            return None
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = self.sample_rate, self._pushed
        self._pushed += len(samples)
        return self._segment(self._encoder.encode(frame))

    def flush(self) -> MediaStreamChunk | None:
        """The rest; the stream is then closed."""
        last = self._segment(self._encoder.encode(None)) if self._pushed else None
        self.close()
        return last

    def close(self) -> None:
        """Release the encoder; what it still holds is lost."""
        self._writer.close()

    def _segment(self, packets: list[av.Packet]) -> MediaStreamChunk | None:
        self._writer.mux(packets)
        frames = self._file.getvalue()
        if not frames:
            return None
        self._file.seek(0)
        self._file.truncate()
        start = round(self._frames * FRAME_SAMPLES * CLOCK_HZ / self.coded_rate)
        self._frames += len(packets)
        duration_s = len(packets) * FRAME_SAMPLES / self.coded_rate
        return MediaStreamChunk(data=_time_stamp(start) + frames, duration=duration_s, extension=".aac")


class LiveSound(gr.Audio):
    """gr.Audio(streaming=True) for wav pieces (`bytes`) that are yielded one after the other.

    Gradio's own starts an ffmpeg program for every stream. Where that needs more than a tenth of a second, the browser
    is sent a playlist without a segment, which its player gives up on; and there may be no ffmpeg.
    """

    is_template = True  # the browser side is that of gr.Audio

    _streams: ClassVar[dict[str, AacStream | None]] = {}
    """By session, run and component, so that streams of all pages can share it."""

    async def stream_output(
        self, value: bytes | None, output_id: str, first_chunk: bool
    ) -> tuple[MediaStreamChunk | None, dict[str, object]]:
        """Encode a piece for the stream of one run."""
        if first_chunk:
            self.end_stream_output(output_id)
            self._streams[output_id] = None
        chunk = self._encode(output_id, value) if value and output_id in self._streams else None
        return chunk, {
            "path": output_id,
            "is_stream": True,
            "orig_name": "live.aac",
            "meta": {"_type": "gradio.FileData"},
        }

    async def flush_stream_output(self, output_id: str) -> MediaStreamChunk | None:
        """The end of the stream of one run."""
        stream = self._streams.pop(output_id, None)
        return stream.flush() if stream else None

    def end_stream_output(self, output_id: str) -> None:
        """Drop the stream of a run that was cancelled or whose visitor left."""
        stream = self._streams.pop(output_id, None)
        if stream:
            stream.close()

    def _encode(self, output_id: str, piece: bytes) -> MediaStreamChunk | None:
        with wave.open(io.BytesIO(piece)) as reader:
            rate = reader.getframerate()
            samples = np.frombuffer(reader.readframes(reader.getnframes()), "<i2")
        stream = self._streams[output_id] = self._streams[output_id] or AacStream(rate)
        return stream.push(samples)


def _time_stamp(ticks: int) -> bytes:
    """An ID3 tag that holds the time of a segment's first sample, in units of 1/90,000 s."""
    frame = TIME_STAMP_OWNER + (ticks % 2**33).to_bytes(8, "big")
    private = b"PRIV" + _syncsafe(len(frame)) + b"\0\0" + frame
    return b"ID3\4\0\0" + _syncsafe(len(private)) + private


def _syncsafe(number: int) -> bytes:
    """Four bytes of seven bits each, as ID3 writes lengths."""
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))
