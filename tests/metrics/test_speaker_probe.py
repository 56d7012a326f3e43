from __future__ import annotations

import numpy as np
import pytest

from genmm.core.errors import UsageError
from genmm.metrics.speaker_probe import SpeakerProbe, speaker_levels, unit_vector


def voice(sounds, formants: tuple[float, ...], take: int) -> np.ndarray:
    """A speaker is a set of resonances; takes differ in pitch, level and noise."""
    tone = sounds.harmonic(100.0 + 7 * (take % 5), 0.4, formants=formants)
    return (0.5 + 0.1 * take) * tone + sounds.hiss(0.4, 0.002, seed=take)


@pytest.fixture(scope="module")
def voices(sounds) -> dict[str, list[np.ndarray]]:
    draw = np.random.default_rng(0)
    return {
        f"speaker {number}": [
            voice(sounds, tuple(draw_formants), take) for take in range(4)
        ]
        for number, draw_formants in enumerate(draw.uniform((300, 1000, 2300), (800, 2000, 3200), (9, 3)))
    }  # fmt: skip


def test_unseen_speakers_are_told_apart(sounds, voices):
    known, unseen = list(voices)[:6], list(voices)[6:]
    recordings = [(sound, name) for name in known for sound in voices[name]]
    probe = SpeakerProbe.train([sound for sound, _ in recordings], [name for _, name in recordings], sounds.RATE)
    pairs = [(probe.embed(sound, sounds.RATE), name) for name in unseen for sound in voices[name]]
    levels = speaker_levels(np.stack([vector for vector, _ in pairs]), [name for _, name in pairs])
    assert levels.same > levels.other + 0.4
    assert levels.equal_error_rate < 0.15
    assert (levels.speakers, levels.recordings) == (3, 12)


def test_level_does_not_change_a_voice(sounds, voices):
    sounds_of = [(sound, name) for name in voices for sound in voices[name]]
    probe = SpeakerProbe.train([sound for sound, _ in sounds_of], [name for _, name in sounds_of], sounds.RATE)
    sound = sounds_of[0][0]
    loud, quiet = probe.embed(sound, sounds.RATE), probe.embed(0.2 * sound, sounds.RATE)
    assert loud @ quiet > 0.999
    assert np.linalg.norm(loud) == pytest.approx(1.0)


def test_levels_of_known_vectors():
    left, right = np.array([1.0, 0.0]), unit_vector(np.array([0.6, 0.8]))
    levels = speaker_levels(np.stack([left, left, right, right]), ["a", "a", "b", "b"])
    assert levels.same == pytest.approx(1.0) and levels.other == pytest.approx(0.6)
    assert levels.equal_error_rate == 0.0


def test_chance_has_an_equal_error_rate_of_a_half():
    rows = np.random.default_rng(0).normal(size=(80, 16))
    vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert speaker_levels(vectors, [f"{n % 8}" for n in range(80)]).equal_error_rate == pytest.approx(0.5, abs=0.06)


def test_too_little_to_learn_from_is_refused(sounds):
    tone = sounds.harmonic(120.0, 0.3)
    with pytest.raises(UsageError, match="three speakers"):
        SpeakerProbe.train([tone, tone], ["a", "b"], sounds.RATE)
    with pytest.raises(UsageError):
        speaker_levels(np.eye(3), ["a", "a", "a"])


def test_another_sample_rate_is_refused(sounds, voices):
    recordings = [(sound, name) for name in list(voices)[:4] for sound in voices[name][:2]]
    probe = SpeakerProbe.train([sound for sound, _ in recordings], [name for _, name in recordings], sounds.RATE)
    with pytest.raises(UsageError, match="resample"):
        probe.embed(recordings[0][0], 24000)
