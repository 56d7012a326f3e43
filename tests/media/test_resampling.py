"""Sample rate conversion: exact lengths, no delay, clean bands, and the way for rates without a common divisor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genmm.core.errors import ShapeError, UsageError
from genmm.media.resampling import resample, resampled_length


def sine(hertz: float, rate: int, count: int) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(count, dtype=torch.float64) / rate)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 3000),
    st.sampled_from([8000, 11025, 16000, 22050, 24000, 44100, 48000, 96000, 192000]),
    st.sampled_from([8000, 16000, 22050, 24000, 32000, 44100, 48000]),
)
def test_lengths_are_the_ceiling_of_the_exact_length(count, from_rate, to_rate):
    converted = resample(np.zeros((2, count), np.float32), from_rate, to_rate)
    assert converted.shape == (2, math.ceil(count * to_rate / from_rate))
    assert converted.shape[1] == resampled_length(count, from_rate, to_rate)
    assert converted.dtype == np.float32


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 16000), (16000, 24000), (48000, 44100), (8000, 48000)])
def test_a_tone_inside_the_band_comes_out_unchanged_and_in_place(from_rate, to_rate):
    hertz = 0.3 * min(from_rate, to_rate)
    converted = resample(sine(hertz, from_rate, from_rate), from_rate, to_rate)
    exact = sine(hertz, to_rate, len(converted))
    middle = slice(len(exact) // 4, 3 * len(exact) // 4)
    assert float((converted - exact)[middle].abs().max()) < 1e-5


def test_what_the_lower_rate_cannot_hold_is_gone():
    converted = resample(sine(9000, 44100, 44100), 44100, 16000)
    assert float(converted[4000:12000].abs().max()) < 1e-5  # -100 dB; folded back it would lie at 7 kHz


@pytest.mark.parametrize("from_rate", [44099, 191999, 7919, 16001])
def test_rates_without_a_common_divisor_come_out_right_without_a_giant_kernel(from_rate):
    converted = resample(sine(1000, from_rate, 3 * from_rate), from_rate, 16000)
    assert len(converted) == 48000
    assert float((converted - sine(1000, 16000, 48000))[300:-300].abs().max()) < 1e-5
    above = resample(sine(min(8100, 0.45 * from_rate), from_rate, from_rate), from_rate, 9973)
    assert float(above[300:-300].abs().max()) < (1e-5 if from_rate > 16000 else 1.1)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 16000), (16000, 44100), (3, 2), (7, 11), (1, 30), (30, 1)])
def test_both_ways_agree_inside_the_band(from_rate, to_rate, monkeypatch):
    lower = min(1, to_rate / from_rate)  # of the input's rate
    time = torch.arange(math.ceil(4000 / lower), dtype=torch.float64)
    signal = sum(torch.sin(2 * math.pi * 0.5 * share * lower * time) for share in (0.1, 0.5, 0.85))
    polyphase = resample(signal, from_rate, to_rate)
    monkeypatch.setattr("genmm.media.resampling.MAX_KERNEL", 0)
    spectral = resample(torch.stack([signal, -signal]).reshape(2, 1, -1), from_rate, to_rate)
    assert spectral.shape == (2, 1, len(polyphase)) and torch.equal(spectral[0], -spectral[1])
    edge = len(polyphase) // 5
    torch.testing.assert_close(spectral[0, 0, edge:-edge], polyphase[edge:-edge], atol=2e-5, rtol=0)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 300), st.integers(100, 192000), st.sampled_from([8000, 16000, 44100]))
def test_any_pair_of_rates_is_converted(count, from_rate, to_rate):
    converted = resample(np.ones((1, count), np.float32), from_rate, to_rate)
    assert converted.shape == (1, math.ceil(count * to_rate / from_rate)) and np.isfinite(converted).all()


def test_kind_and_dtype_stay_and_whole_numbers_become_float32():
    assert resample(torch.zeros(5, dtype=torch.float64), 2, 1).dtype == torch.float64
    assert resample(np.zeros(5, np.float64), 2, 1).dtype == np.float64
    assert resample(torch.zeros(5, dtype=torch.int16), 2, 1).dtype == torch.float32
    assert resample(torch.zeros(1, 0), 2, 1).shape == (1, 0)
    same = torch.randn(3)
    assert torch.equal(resample(same, 7, 7), same)


def test_gradients_pass_through():
    signal = torch.randn(400, requires_grad=True)
    resample(signal, 16000, 24000).square().sum().backward()
    assert bool(torch.isfinite(signal.grad).all()) and float(signal.grad.abs().sum()) > 0


@pytest.mark.parametrize("rates", [(0, 8000), (8000, -1), (8000.5, 8000), (True, 8000)])
def test_wrong_rates_are_refused(rates):
    with pytest.raises(UsageError):
        resample(np.zeros(4, np.float32), *rates)


def test_a_scalar_is_refused():
    with pytest.raises(ShapeError):
        resample(torch.tensor(1.0), 1, 2)
