from __future__ import annotations

import numpy as np
import pytest

from genmm.metrics.pitch import track_pitch


@pytest.mark.parametrize("f0", [75.0, 110.0, 180.0, 310.0])
def test_a_steady_vowel_has_its_pitch(sounds, f0):
    track = track_pitch(sounds.harmonic(f0, 0.6), sounds.RATE)
    inside = slice(5, 55)
    assert track.is_voiced[inside].all()
    np.testing.assert_allclose(track.f0_hz[inside], f0, rtol=0.005)


def test_a_glide_is_followed_in_time(sounds):
    count = sounds.RATE
    f0 = np.linspace(100.0, 200.0, count)
    track = track_pitch(sounds.harmonic(f0, 1.0), sounds.RATE)
    frames = np.arange(10, 90)
    np.testing.assert_allclose(track.f0_hz[frames], f0[frames * 160], rtol=0.02)


def test_noise_and_silence_are_not_voiced(sounds):
    assert track_pitch(sounds.hiss(0.5, 0.1), sounds.RATE).is_voiced.mean() < 0.05
    assert not track_pitch(sounds.silence(0.5), sounds.RATE).is_voiced.any()


def test_a_vowel_between_silences_is_voiced_where_it_is(sounds):
    sound = np.concatenate((sounds.silence(0.4), sounds.harmonic(140.0, 0.4), sounds.silence(0.4)))
    voiced = track_pitch(sound, sounds.RATE).is_voiced
    assert voiced[44:76].all() and not voiced[:36].any() and not voiced[84:].any()


def test_one_frame_for_each_ten_milliseconds(sounds):
    track = track_pitch(sounds.hiss(0.123, 0.1), sounds.RATE)
    assert len(track.f0_hz) == len(track.is_voiced) == 13
