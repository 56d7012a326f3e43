"""Loudness against the standard's own test tones, against pyloudnorm, and the torch twin against both."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pyloudnorm
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genmm.core.errors import MediaError, ShapeError, UsageError
from genmm.media.loudness import integrated_loudness, integrated_loudness_torch, normalise


def sine(level_db: float, seconds: float, rate: int = 48000, hertz: float = 997.0) -> np.ndarray:
    return 10 ** (level_db / 20) * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def both(samples: np.ndarray, rate: int) -> list[float]:
    return [integrated_loudness(samples, rate), float(integrated_loudness_torch(torch.as_tensor(samples), rate))]


def test_full_scale_tone_of_the_standard():
    """BS.1770: a 0 dB FS sine of 997 Hz in one channel reads -3.01 LKFS; pyloudnorm's filter lies 0.04 below."""
    for measured in both(sine(0, 4), 48000):
        assert measured == pytest.approx(-3.01, abs=0.05)


def test_conformance_signals_of_the_broadcast_union():
    """EBU Tech 3341, cases 1-4 (stereo, 1000 Hz): tolerance there is 0.1 LU."""
    parts = {
        1: ([(-23, 20)], -23.0),
        2: ([(-33, 20)], -33.0),
        3: ([(-36, 10), (-23, 60), (-36, 10)], -23.0),
        4: ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23.0),
    }
    for pieces, expected in parts.values():
        one = np.concatenate([sine(level, seconds, 16000, 1000.0) for level, seconds in pieces])
        for measured in both(np.stack([one, one]).astype(np.float32), 16000):
            assert measured == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_the_twin_agrees_with_pyloudnorm(rate, channels):
    generator = np.random.default_rng(rate + channels)
    shape = np.linspace(0.001, 0.3, rate * 2 + 17)
    samples = generator.standard_normal((channels, len(shape))) * shape + 0.05  # grows; with an offset
    direct = pyloudnorm.Meter(rate).integrated_loudness(samples.T)
    for measured in both(samples, rate):
        assert measured == pytest.approx(direct, abs=0.01)


def test_batches_are_measured_row_by_row():
    samples = torch.randn(3, 2, 16000) * torch.tensor([0.1, 0.01, 0.0])[:, None, None]
    measured = integrated_loudness_torch(samples, 16000)
    assert measured.shape == (3,) and measured[2] == -math.inf
    for row in range(2):
        assert float(measured[row]) == pytest.approx(float(integrated_loudness_torch(samples[row], 16000)), abs=1e-9)


def test_silence_is_minus_infinity_without_warnings_and_stays_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in ((16000,), (2, 16000), (1, 10), (6, 100)):
            samples = np.zeros(shape, np.float32)
            assert both(samples, 16000) == [-math.inf, -math.inf]
            assert np.array_equal(normalise(samples, 16000), samples)
            assert torch.equal(normalise(torch.from_numpy(samples), 16000), torch.from_numpy(samples))
        faint = np.full(16000, 1e-6, np.float32) * np.sign(np.sin(np.arange(16000)))
        assert both(faint, 16000) == [-math.inf, -math.inf], "below the gate of -70"
        assert np.isfinite(normalise(faint, 16000)).all()


def test_short_sounds_are_measured_over_their_own_length():
    long = both(sine(-20, 3, 16000), 16000)[0]
    for seconds in (0.1, 0.25, 0.39):
        for measured in both(sine(-20, seconds, 16000), 16000):
            assert measured == pytest.approx(long, abs=0.3)


def test_slow_rates_and_many_channels_have_a_loudness():
    for channels, count, rate in (
        (1, 900, 100),
        (1, 9000, 4000),
        (4, 16000, 16000),
        (6, 16000, 16000),
        (8, 16000, 16000),
    ):
        values = both(np.random.default_rng(0).standard_normal((channels, count)) * 0.1, rate)
        assert all(math.isfinite(v) for v in values) and abs(values[0] - values[1]) < 0.01


def test_the_low_frequency_channel_does_not_count():
    samples = np.random.default_rng(0).standard_normal((6, 16000)) * 0.1
    quiet = samples.copy()
    quiet[3] = 0
    assert integrated_loudness(samples, 16000) == integrated_loudness(quiet, 16000)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(-60, 0), st.floats(-40, -5), st.booleans())
def test_normalising_reaches_the_target_or_the_peak(level_db, target, as_tensor):
    samples = sine(level_db, 1.0, 16000).astype(np.float32)
    given_samples = torch.from_numpy(samples) if as_tensor else samples
    result = normalise(given_samples, 16000, target, peak_db=-3.0)
    assert type(result) is type(given_samples) and result.dtype == given_samples.dtype
    array = np.asarray(result)
    peak, measured, highest = np.abs(array).max(), integrated_loudness(array, 16000), 10 ** (-3 / 20)
    assert array.shape == samples.shape and peak <= highest + 1e-5
    assert measured == pytest.approx(target, abs=0.02) or (measured < target and abs(peak - highest) < 1e-4)


def test_batches_are_normalised_row_by_row():
    samples = torch.randn(2, 1, 16000) * torch.tensor([0.1, 0.001])[:, None, None]
    measured = integrated_loudness_torch(normalise(samples, 16000, -25.0), 16000)
    torch.testing.assert_close(measured, torch.full((2,), -25.0, dtype=torch.float64), atol=0.01, rtol=0)


def test_the_twin_is_differentiable():
    samples = (torch.randn(1, 16000) * 0.1).requires_grad_()
    integrated_loudness_torch(samples, 16000).backward()
    assert bool(torch.isfinite(samples.grad).all()) and float(samples.grad.abs().sum()) > 0


def test_wrong_input_is_refused():
    for function in (integrated_loudness, integrated_loudness_torch):
        with pytest.raises(MediaError):
            function(torch.tensor([0.0, float("nan")]), 16000)
        with pytest.raises(ShapeError):
            function(torch.zeros(2, 0), 16000)
        with pytest.raises(UsageError):
            function(torch.zeros(2, 10), 0)
    with pytest.raises(UsageError):
        normalise(np.zeros(10), 16000, 3.0)
