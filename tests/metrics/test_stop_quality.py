from __future__ import annotations

import numpy as np
import pytest

from genmm.core.errors import UsageError
from genmm.metrics.stop_quality import SILENT_DB, stop_quality, tail_after_speech


def test_the_tail_begins_after_the_last_voiced_frame(sounds):
    sound = np.concatenate((sounds.harmonic(120.0, 0.6), sounds.hiss(0.4, 0.001)))
    tail = tail_after_speech(sound, sounds.RATE)
    assert tail.seconds == pytest.approx(0.4, abs=0.03)
    power = np.mean(np.square(sounds.harmonic(120.0, 0.6)))
    assert tail.level_db == pytest.approx(10 * np.log10(0.001**2 / power), abs=3.0)


def test_an_utterance_cut_in_a_vowel_has_no_tail(sounds):
    tail = tail_after_speech(sounds.harmonic(120.0, 0.6), sounds.RATE)
    assert tail.seconds < 0.03


def test_digital_silence_and_no_voice_have_levels(sounds):
    silent = np.concatenate((sounds.harmonic(120.0, 0.5), sounds.silence(0.5)))
    assert tail_after_speech(silent, sounds.RATE).level_db < -30
    assert tail_after_speech(sounds.silence(0.5), sounds.RATE).seconds == 0.5
    assert SILENT_DB < -100


def test_shares_and_length_ratios(sounds):
    recordings = [sounds.harmonic(120.0, seconds) for seconds in (0.5, 1.0, 1.5)]
    report = stop_quality(["stop", "length", "stop"], recordings, sounds.RATE, [0.5, 0.5, None])
    assert report.stopped == pytest.approx(2 / 3)
    assert report.length_ratio == pytest.approx(1.5)
    assert report.length_ratio_low == pytest.approx(1.1) and report.length_ratio_high == pytest.approx(1.9)
    assert report.utterances == 3


def test_without_references_there_is_no_length_ratio(sounds):
    assert stop_quality(["stop"], [sounds.harmonic(120.0, 0.5)], sounds.RATE).length_ratio is None


def test_lists_of_different_lengths_are_refused(sounds):
    with pytest.raises(UsageError):
        stop_quality(["stop"], [], sounds.RATE)
