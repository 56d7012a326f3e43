"""Cutting silence: what is sound stays, with its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genmm.core.errors import ShapeError, UsageError
from genmm.media.silence import sound_bounds, trim_silence

RATE = 16000


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 30000), st.integers(200, 8000), st.integers(0, 30000), st.integers(1, 2), st.floats(0.01, 1.0))
def test_sound_is_kept_with_its_edges_and_the_rest_is_cut(before, count, after, channels, level):
    samples = np.zeros((channels, before + count + after), np.float32)
    samples[-1, before : before + count] = level * np.sign(np.sin(np.arange(count) + 0.5))
    first, end = sound_bounds(samples, RATE)
    assert before - 160 < first <= before and before + count <= end < before + count + 160
    trimmed = trim_silence(samples, RATE, edge_s=0.05)
    assert trimmed.shape[1] == min(samples.shape[1], end + 800) - max(0, first - 800)
    assert np.abs(trimmed).sum() == pytest.approx(np.abs(samples).sum(), rel=1e-5)


def test_quiet_noise_around_speech_counts_as_silence_and_pauses_inside_stay():
    generator = np.random.default_rng(0)
    samples = generator.standard_normal(RATE * 3).astype(np.float32) * 1e-4
    samples[RATE : RATE + 2000] += 0.3
    samples[2 * RATE : 2 * RATE + 2000] += 0.3
    trimmed = trim_silence(samples, RATE, edge_s=0.1)
    assert abs(len(trimmed) - (RATE + 2000 + 3200)) <= 320


def test_true_silence_comes_back_as_it_is():
    for samples in (np.zeros(100, np.float32), np.zeros((2, RATE), np.float32), np.full((1, RATE), 1e-5, np.float32)):
        assert sound_bounds(samples, RATE) is None and trim_silence(samples, RATE) is samples
    assert sound_bounds(np.zeros((1, 0), np.float32), RATE) is None


def test_tensors_come_back_as_tensors():
    samples = torch.zeros(2, RATE)
    samples[:, 8000:9600] = 0.5
    trimmed = trim_silence(samples, RATE, edge_s=0)
    assert isinstance(trimmed, torch.Tensor) and trimmed.shape == (2, 1600)


def test_one_sample_and_odd_rates():
    assert trim_silence(np.ones(1, np.float32), 7).shape == (1,)
    assert trim_silence(np.ones((1, 3), np.float32), 192000).shape == (1, 3)


def test_wrong_arguments_are_refused():
    samples = np.ones(10, np.float32)
    for arguments in ({"threshold_db": 0}, {"edge_s": -1}):
        with pytest.raises(UsageError):
            trim_silence(samples, RATE, **arguments)
    with pytest.raises(UsageError):
        trim_silence(samples, 0)
    with pytest.raises(ShapeError):
        trim_silence(np.ones((1, 2, 3), np.float32), RATE)
