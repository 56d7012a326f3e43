"""Streams of sound: a header that players take while it grows, right in the end."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from app.audio_stream import UNKNOWN_BYTES, AudioStream, pcm16, wav_header
from genmm.core.events import PartialAudio

SOUND = np.sin(np.arange(3000) / 20).astype(np.float32)


def pieces():
    return [PartialAudio(SOUND[start : start + 700], 16000) for start in range(0, 3000, 700)]


def test_a_wav_file_reads_back_with_its_length(tmp_path):
    with AudioStream(tmp_path / "a.wav", "wav") as stream:
        for piece in pieces():
            stream.write(piece)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == 16000
    assert np.abs(samples - np.clip(SOUND, -1, 32767 / 32768)).max() <= 1 / 65536


def test_a_growing_wav_file_can_be_read_before_its_end(tmp_path):
    with AudioStream(tmp_path / "a.wav", "wav") as stream:
        stream.write(pieces()[0])
        data = (tmp_path / "a.wav").read_bytes()
        assert struct.unpack("<I", data[40:44]) == (UNKNOWN_BYTES,)
        assert len(soundfile.read(io.BytesIO(data))[0]) == 700


def test_raw_is_samples_alone(tmp_path):
    with AudioStream(tmp_path / "a.raw", "raw") as stream:
        for piece in pieces():
            stream.write(piece)
    assert (tmp_path / "a.raw").read_bytes() == pcm16(SOUND)


def test_samples_are_rounded_and_clipped():
    wanted = [32767, -32768, 0, 16384, 32767]
    assert np.frombuffer(pcm16(np.array([1.0, -1.0, 0.0, 0.5, 7.0])), "<i2").tolist() == wanted


def test_a_stream_that_breaks_leaves_a_right_header(tmp_path):
    with pytest.raises(RuntimeError), AudioStream(tmp_path / "a.wav", "wav") as stream:
        stream.write(pieces()[0])
        raise RuntimeError
    assert soundfile.info(tmp_path / "a.wav").frames == 700


def test_header_sizes():
    assert len(wav_header(8000, 10)) == 44
    assert wav_header(8000, 10)[4:8] == struct.pack("<I", 46)
