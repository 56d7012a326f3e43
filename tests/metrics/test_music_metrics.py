"""Judges of music on sounds whose truth is known by construction."""

import numpy as np
import pytest

from genmm.core.errors import DataError, ShapeError
from genmm.metrics.music_distance import (
    frechet_distance,
    harmony_similarity,
    mel_distance,
    rhythm_similarity,
    si_sdr_db,
    stereo_image,
)
from genmm.metrics.music_instruments import InstrumentJudge
from genmm.metrics.music_key import estimate_key
from genmm.metrics.music_tempo import estimate_tempo, tempo_matches

RATE = 16_000


def clicks(bpm: float, seconds: float = 10.0) -> np.ndarray:
    """Short noises on every beat, [S]."""
    rng, sound = np.random.default_rng(1), np.zeros(int(seconds * RATE))
    for start in np.arange(0.0, seconds - 0.1, 60.0 / bpm):
        first = int(start * RATE)
        sound[first : first + 800] += rng.standard_normal(800) * np.exp(-np.arange(800) / 120)
    return sound.astype(np.float32)


def chord(*midi: int, seconds: float = 2.0) -> np.ndarray:
    """Tones with a few harmonics, [S]."""
    t = np.arange(int(seconds * RATE)) / RATE
    tones = [sum(np.sin(2 * np.pi * 440 * 2 ** ((m - 69) / 12) * k * t) / k for k in (1, 2, 3)) for m in midi]
    return (0.1 * sum(tones)).astype(np.float32)


@pytest.mark.parametrize("bpm", [80, 90, 113, 128, 140])
def test_tempo_of_clicks(bpm):
    assert tempo_matches(estimate_tempo(clicks(bpm), RATE), bpm, 0.02)


def test_matching_of_tempi():
    assert tempo_matches(104.0, 100.0) and not tempo_matches(105.0, 100.0) and not tempo_matches(200.0, 100.0)
    assert tempo_matches(199.0, 100.0, octaves=True) and tempo_matches(50.0, 100.0, octaves=True)


@pytest.mark.parametrize(
    ("progression", "signature", "tonic", "mode"),
    [
        ([(36, 60, 64, 67), (41, 65, 69, 72), (43, 67, 71, 74), (36, 60, 64, 67)], 0, 0, "major"),
        ([(33, 57, 60, 64), (38, 62, 65, 69), (40, 64, 67, 71), (33, 57, 60, 64)], 0, 9, "minor"),
        ([(38, 62, 66, 69), (43, 67, 71, 74), (45, 69, 73, 76), (38, 62, 66, 69)], 2, 2, "major"),
    ],
)
def test_keys_of_chords(progression, signature, tonic, mode):
    key = estimate_key(np.concatenate([chord(*notes) for notes in progression]), RATE)
    assert (key.signature, key.tonic, key.mode) == (signature, tonic, mode)


def test_harmony_and_rhythm_tell_same_from_other():
    a = np.concatenate([chord(60, 64, 67), chord(65, 69, 72)])
    b = np.concatenate([chord(61, 66, 70), chord(58, 63, 66)])
    assert harmony_similarity(a, 0.3 * a, RATE) > 0.99 > 0.6 > harmony_similarity(a, b, RATE)
    assert (
        rhythm_similarity(clicks(90), clicks(90) * 0.5, RATE)
        > 0.99
        > 0.5
        > rhythm_similarity(clicks(90), clicks(127), RATE)
    )


def test_signal_distances():
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 8000)), rng.standard_normal((2, 8000))
    assert si_sdr_db(x + 0.1 * noise, x) == pytest.approx(20.0, abs=0.5)
    assert si_sdr_db(3.0 * x, x) > 100
    assert mel_distance(x, x, RATE) == 0.0 and mel_distance(2 * x, x, RATE) == pytest.approx(np.log(2), abs=0.01)
    assert stereo_image(np.stack([x[0], x[0]])) == (0.0, pytest.approx(0.0))
    share, balance = stereo_image(np.stack([2 * x[0], x[1]]))
    assert share == pytest.approx(0.5, abs=0.05) and balance == pytest.approx(6.0, abs=0.3)


def test_frechet_distance_is_that_of_normal_distributions():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4000, 3)), 2.0 * rng.standard_normal((4000, 3)) + 1.0
    assert frechet_distance(a, b) == pytest.approx(3 * 1.0 + 3 * (2 - 1) ** 2, rel=0.1)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)


def test_wrong_shapes_and_too_little_are_refused():
    for call in (
        lambda: estimate_tempo(np.zeros(100), RATE),
        lambda: estimate_key(np.zeros(100), RATE),
        lambda: stereo_image(np.zeros(5)),
        lambda: frechet_distance(np.zeros((1, 2)), np.zeros((5, 2))),
        lambda: harmony_similarity(np.zeros(20000), np.zeros(40000), RATE),
    ):
        with pytest.raises(ShapeError):
            call()
    with pytest.raises(DataError, match="two"):
        InstrumentJudge.train(np.zeros((3, 2)), ["a", "a", "a"])
