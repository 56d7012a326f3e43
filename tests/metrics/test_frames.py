from __future__ import annotations

import numpy as np
import pytest

from genmm.core.errors import ShapeError
from genmm.metrics.frames import BANDS, log_mel, mel_cepstra, speech_frames


def test_ten_milliseconds_a_frame(sounds):
    assert log_mel(sounds.hiss(0.5, 0.1), sounds.RATE).shape == (50, BANDS)
    assert log_mel(sounds.hiss(0.505, 0.1), sounds.RATE).shape == (51, BANDS)


def test_louder_adds_to_the_log(sounds):
    sound = sounds.hiss(0.3, 0.05)
    difference = log_mel(2 * sound, sounds.RATE) - log_mel(sound, sounds.RATE)
    np.testing.assert_allclose(difference, np.log(2.0), atol=1e-4)


def test_cepstra_rebuild_a_smooth_spectrum():
    angles = (np.arange(80) + 0.5) * np.pi / 80
    spectrum = (1.5 + 2 * 0.7 * np.cos(3 * angles) - 2 * 0.2 * np.cos(7 * angles))[None]
    cepstra = mel_cepstra(spectrum, 10)[0]
    expected = np.zeros(11)
    expected[[0, 3, 7]] = 1.5, 0.7, -0.2
    np.testing.assert_allclose(cepstra, expected, atol=1e-12)


def test_speech_is_told_from_silence(sounds):
    sound = np.concatenate((sounds.silence(0.5), sounds.harmonic(120.0, 0.5), sounds.silence(0.5)))
    spoken = speech_frames(log_mel(sound, sounds.RATE))
    assert spoken[53:97].all() and not spoken[:47].any() and not spoken[103:].any()


def test_pure_silence_still_has_a_frame(sounds):
    assert speech_frames(log_mel(sounds.silence(0.2), sounds.RATE)).any()


@pytest.mark.parametrize("bad", [np.zeros((2, 100)), np.zeros(0), np.array([0.0, np.nan])])
def test_unusable_samples_are_refused(bad):
    with pytest.raises(ShapeError):
        log_mel(bad, 16000)
