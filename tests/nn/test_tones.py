"""Semitone bands and oscillators: pitch, level, pieces, loops."""

import math

import pytest
import torch

from genmm.nn.tones import LOWEST, SemitoneLevels, ToneBank, semitone_hz

RATE, HOP = 16_000, 160


def sine(midi: float, seconds: float = 1.0, amplitude: float = 1.0) -> torch.Tensor:
    hz = 440.0 * 2.0 ** ((midi - 69.0) / 12.0)
    return amplitude * torch.sin(2.0 * math.pi * hz * torch.arange(round(seconds * RATE)) / RATE)[None]


def test_the_scale_is_that_of_equal_temperament():
    hz = semitone_hz(60)
    assert float(hz[69 - LOWEST]) == pytest.approx(440.0) and float(hz[0]) == pytest.approx(32.703, abs=1e-3)
    torch.testing.assert_close(hz[12:] / hz[:-12], torch.full((48,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("midi", [45, 57, 60, 69, 88, 104])
def test_a_sine_is_loudest_at_its_semitone_and_equally_loud_at_every_pitch(midi):
    bands = SemitoneLevels(RATE, 4096, HOP, 84)
    found = bands(sine(midi, amplitude=0.5))
    assert found.shape == (1, 100, 84)
    middle = found[0, 50]
    assert int(middle.argmax()) + LOWEST == midi
    assert float(middle.max()) ** (1 / 0.3) == pytest.approx(0.4, rel=0.3)


def test_silence_is_nearly_zero_with_a_finite_gradient():
    silence = torch.zeros(2, 400, requires_grad=True)
    levels = SemitoneLevels(RATE, 1024, HOP, 60)(silence)
    assert levels.shape == (2, 3, 60) and 0.0 < float(levels.detach().max()) < 0.1
    levels.sum().backward()
    assert torch.isfinite(silence.grad).all()


def test_an_oscillator_plays_its_semitone_at_the_asked_amplitude():
    bank, asked = ToneBank(RATE, HOP, 84), torch.zeros(1, 100, 84)
    asked[..., 69 - LOWEST] = 0.3
    sound = bank(asked)[0]
    assert sound.shape == (16_000,)
    lines = torch.fft.rfft(sound[RATE // 4 : -RATE // 4]).abs()  # half a second: lines are 2 Hz apart
    assert int(lines.argmax()) * 2 == 440
    assert float(sound[HOP:].abs().max()) == pytest.approx(0.3, rel=0.01)


def test_pieces_are_the_whole():
    bank, asked = ToneBank(RATE, HOP, 84), torch.rand(2, 60, 84)
    whole, late = bank(asked), bank(asked[:, 19:], 19)
    torch.testing.assert_close(late[:, HOP:], whole[:, 20 * HOP :], atol=1e-4, rtol=1e-4)
    hours = 1_000_000_000
    assert torch.isfinite(bank(asked, hours)).all()


def test_a_cycle_has_no_seam_and_bends_pitch_by_less_than_half_a_turn():
    bank, asked = ToneBank(RATE, HOP, 84), torch.rand(1, 37, 84)
    twice = bank(asked.repeat(1, 2, 1), cycle=37)
    torch.testing.assert_close(twice[:, HOP : 37 * HOP], twice[:, 38 * HOP :], atol=1e-4, rtol=1e-4)
    one = torch.zeros(1, 400, 84)
    one[..., 69 - LOWEST] = 1.0
    lines = torch.fft.rfft(bank(one, cycle=37)[0]).abs()  # four seconds
    assert abs(int(lines.argmax()) / 4 - 440) <= 0.5 / 0.37


def test_tones_above_half_the_rate_are_refused():
    with pytest.raises(ValueError, match="84 semitones"):
        ToneBank(4000, HOP, 84)
