"""Sound while it is being made: segments that any HLS player can join."""

from __future__ import annotations

import asyncio
import io

import av
import numpy as np
import pytest

from app.web.live import ADTS_RATES, CLOCK_HZ, FRAME_SAMPLES, AacStream, LiveSound
from app.web.sound import wav_bytes

TAG_BYTES = 73
"""ID3 header, frame header, owner and eight bytes of time."""


def tone(seconds: float, rate: int) -> np.ndarray:
    return np.rint(12_000 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


def encoded(sound: np.ndarray, rate: int, step: int) -> list[dict]:
    stream = AacStream(rate)
    chunks = [stream.push(sound[start : start + step]) for start in range(0, len(sound), step)]
    return [chunk for chunk in (*chunks, stream.flush()) if chunk]


def decoded(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data), format="aac") as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


@pytest.mark.parametrize("step", [400, 5_600, 16_000])
def test_segments_join_to_the_whole_sound(step):
    sound = tone(3.0, 16_000)
    chunks = encoded(sound, 16_000, step)
    whole = decoded(b"".join(chunk["data"][TAG_BYTES:] for chunk in chunks))
    assert len(sound) <= len(whole) <= len(sound) + 3 * FRAME_SAMPLES
    delayed = whole[FRAME_SAMPLES : FRAME_SAMPLES + len(sound)]  # an encoder begins one frame before the sound
    inner = slice(2_000, -2_000)
    assert np.corrcoef(delayed[inner], sound[inner])[0, 1] > 0.99
    assert sum(chunk["duration"] for chunk in chunks) == pytest.approx(len(whole) / 16_000)


def test_every_segment_says_when_it_begins():
    chunks = encoded(tone(3.0, 24_000), 24_000, 24_000)
    begin_s = 0.0
    for chunk in chunks:
        assert chunk["data"].startswith(b"ID3\4")
        assert b"com.apple.streaming.transportStreamTimestamp\0" in chunk["data"][:TAG_BYTES]
        assert int.from_bytes(chunk["data"][TAG_BYTES - 8 : TAG_BYTES], "big") == round(begin_s * CLOCK_HZ)
        assert chunk["data"][TAG_BYTES] == 0xFF  # the first frame follows at once
        begin_s += chunk["duration"]


def test_a_rate_that_aac_does_not_know_is_resampled():
    assert 18_000 not in ADTS_RATES
    chunks = encoded(tone(2.0, 18_000), 18_000, 9_000)
    assert sum(chunk["duration"] for chunk in chunks) == pytest.approx(2.0, abs=0.25)


def test_a_short_first_piece_comes_out_at_once():
    assert AacStream(16_000).push(tone(0.35, 16_000))["duration"] > 0.2


def test_streams_of_two_runs_are_apart_and_end():
    async def run() -> None:
        player = LiveSound(streaming=True)
        piece = wav_bytes(np.zeros(16_000, np.float32), 16_000)
        opened, file = await player.stream_output(None, "a/1/5", True)
        assert (opened, file["path"], file["is_stream"]) == (None, "a/1/5", True)
        assert (await player.stream_output(piece, "a/1/5", False))[0]["extension"] == ".aac"
        assert (await player.stream_output(piece, "b/2/5", True))[0] is not None
        player.end_stream_output("b/2/5")
        assert (await player.stream_output(piece, "b/2/5", False))[0] is None  # cancelled while a piece was on its way
        assert await player.flush_stream_output("b/2/5") is None
        assert (await player.flush_stream_output("a/1/5"))["duration"] > 0
        assert await player.flush_stream_output("a/1/5") is None

    asyncio.run(run())


def test_a_stream_without_sound_ends_without_a_segment():
    stream = AacStream(16_000)
    assert stream.push(np.zeros(0, np.int16)) is None
    assert stream.flush() is None
