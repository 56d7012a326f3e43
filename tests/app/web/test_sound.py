"""Cutting sound for streaming."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest

from app.web.sound import FIRST_S, LATER_S, Cutter, Sound, wav_bytes

RATE = 16_000


def samples_of(piece: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(piece)) as reader:
        assert (reader.getframerate(), reader.getnchannels(), reader.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2")


def cut(sound: np.ndarray, step: int) -> list[np.ndarray]:
    cutter = Cutter(RATE)
    pieces = [piece for start in range(0, len(sound), step) for piece in cutter.push(sound[start : start + step])]
    pieces += cutter.flush()
    assert cutter.pieces == len(pieces)
    assert cutter.given_s == pytest.approx(len(sound) / RATE)
    return [samples_of(piece) for piece in pieces]


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.5, 1.0, 3.7])
@pytest.mark.parametrize("step", [640, 7777])
def test_pieces_join_to_the_whole(seconds, step):
    sound = np.random.default_rng(1).uniform(-1, 1, round(seconds * RATE)).astype(np.float32)
    joined = np.concatenate(cut(sound, step))
    assert np.array_equal(joined, np.rint(sound * 32767).astype(np.int16))


@pytest.mark.parametrize("seconds", [0.01, 0.2, FIRST_S, FIRST_S + 0.05, FIRST_S + LATER_S, 5.0])
def test_a_stream_never_has_one_piece_alone(seconds):
    assert len(cut(np.zeros(round(seconds * RATE), np.float32), 640)) >= 2


def test_the_first_piece_is_short_and_the_others_near_a_second():
    lengths = [len(piece) / RATE for piece in cut(np.zeros(5 * RATE, np.float32), 640)]
    assert lengths[0] == pytest.approx(FIRST_S, abs=0.001)
    assert lengths[1:-1] == pytest.approx([LATER_S] * (len(lengths) - 2), abs=0.001)


def test_no_sound_gives_no_piece():
    assert Cutter(RATE).flush() == []


def test_too_loud_samples_are_cut_off():
    assert samples_of(wav_bytes(np.array([2.0, -2.0], np.float32), RATE)).tolist() == [32767, -32767]


def test_files_are_served_under_their_own_name(tmp_path):
    path = tmp_path / "Hello there.wav"
    path.write_bytes(wav_bytes(np.zeros(10, np.float32), RATE))
    data = Sound(render=False).postprocess(str(path))
    assert data.path == str(path)
    assert data.orig_name == "Hello there.wav"
    assert Sound(render=False).get_block_name() == "audio"
