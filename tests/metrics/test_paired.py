from __future__ import annotations

import numpy as np
import pytest

from genmm.metrics.paired import compare_readings, mel_cepstral_distance


def test_a_recording_does_not_differ_from_itself(sounds):
    sound = sounds.harmonic(150.0, 0.8)
    same = compare_readings(sound, sound, sounds.RATE)
    assert (same.mel_cepstral_db, same.log_f0_rmse, same.voicing_error, same.duration_error) == (0, 0, 0, 0)


def test_level_and_silence_at_the_ends_do_not_count(sounds):
    sound = sounds.harmonic(150.0, 0.8)
    padded = np.concatenate((sounds.silence(0.3), 0.25 * sound, sounds.silence(0.5)))
    same = compare_readings(padded, sound, sounds.RATE)
    assert same.mel_cepstral_db < 1.5 and same.log_f0_rmse < 0.01
    assert abs(same.duration_error) < 0.06 and same.voicing_error < 0.06


def test_pitch_differences_are_measured_in_logarithms(sounds):
    sound, higher = sounds.harmonic(120.0, 0.8), sounds.harmonic(120.0 * 2 ** (4 / 12), 0.8)
    assert compare_readings(higher, sound, sounds.RATE).log_f0_rmse == pytest.approx(4 * np.log(2) / 12, rel=0.05)


def test_length_is_signed_and_relative(sounds):
    short, long = sounds.harmonic(120.0, 0.5), sounds.harmonic(120.0, 1.0)
    assert compare_readings(long, short, sounds.RATE).duration_error == pytest.approx(1.0, abs=0.1)
    assert compare_readings(short, long, sounds.RATE).duration_error == pytest.approx(-0.5, abs=0.05)


def test_another_vowel_is_farther_than_the_same_at_another_pitch(sounds):
    sound = sounds.harmonic(120.0, 0.6)
    other_vowel = sounds.harmonic(120.0, 0.6, formants=(300.0, 2200.0, 3000.0))
    other_pitch = sounds.harmonic(127.0, 0.6)
    far = compare_readings(other_vowel, sound, sounds.RATE).mel_cepstral_db
    near = compare_readings(other_pitch, sound, sounds.RATE).mel_cepstral_db
    assert far > 2 * near


def test_voiced_against_noise_is_all_voicing_error(sounds):
    report = compare_readings(sounds.hiss(0.6, 0.1), sounds.harmonic(120.0, 0.6), sounds.RATE)
    assert report.voicing_error > 0.8


def test_the_distance_is_the_rms_difference_of_smooth_log_spectra_in_db():
    angles = (np.arange(4000) + 0.5) * np.pi / 4000
    difference = np.array([0.11, -0.07, 0.03])
    spectrum_db = 20 / np.log(10) * sum(2 * c * np.cos((m + 1) * angles) for m, c in enumerate(difference))
    expected = np.sqrt(np.mean(np.square(spectrum_db)))
    assert mel_cepstral_distance(difference, np.zeros(3)) == pytest.approx(expected, rel=1e-6)
