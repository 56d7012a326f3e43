from __future__ import annotations

import numpy as np
import pytest

from genmm.core.errors import ShapeError, UsageError
from genmm.metrics.frames import BANDS
from genmm.metrics.utterance_distance import energy_distance, set_distance, utterance_statistics


def slow_energy_distance(left: np.ndarray, right: np.ndarray) -> float:
    cross = [np.linalg.norm(a - b) for a in left for b in right]
    within = [
        [np.linalg.norm(rows[i] - rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        for rows in (left, right)
    ]
    return 2 * np.mean(cross) - np.mean(within[0]) - np.mean(within[1])


def test_it_equals_the_written_out_sums():
    draw = np.random.default_rng(0)
    left, right = draw.normal(size=(7, 4)), draw.normal(1.0, 2.0, size=(5, 4))
    assert energy_distance(left, right) == pytest.approx(slow_energy_distance(left, right))


def test_one_dimension_agrees_with_the_distribution_functions():
    """In one dimension the energy distance is twice the integral of the squared difference of the two CDFs."""
    draw = np.random.default_rng(1)
    left, right = draw.normal(size=(3000, 1)), draw.normal(0.8, 1.0, size=(3000, 1))
    grid = np.linspace(-6, 7, 4001)
    cdf = [np.searchsorted(np.sort(rows[:, 0]), grid) / len(rows) for rows in (left, right)]
    integral = np.sum(np.square(cdf[0] - cdf[1])) * (grid[1] - grid[0])
    assert energy_distance(left, right) == pytest.approx(2 * integral, rel=0.03)


def test_sets_of_one_source_lie_within_the_floor_and_others_beyond():
    draw = np.random.default_rng(2)
    real = draw.normal(size=(60, 10))
    same = set_distance(draw.normal(size=(40, 10)), real)
    shifted = set_distance(draw.normal(0.7, 1.0, size=(40, 10)), real)
    assert abs(same.floor_mean) < 0.05
    assert same.distance < 2 * same.floor_high
    assert shifted.distance > 3 * shifted.floor_high
    assert (same.recordings, same.real_recordings) == (40, 60)


def test_the_unit_of_a_statistic_does_not_matter():
    draw = np.random.default_rng(3)
    real, made = draw.normal(size=(20, 3)), draw.normal(size=(20, 3))
    units = np.array([1.0, 1000.0, 0.001])
    assert set_distance(made * units, real * units).distance == pytest.approx(set_distance(made, real).distance)


def test_statistics_are_mean_and_deviation_over_speech(sounds):
    sound = sounds.harmonic(120.0, 0.5)
    padded = np.concatenate((sounds.silence(0.5), sound, sounds.silence(0.5)))
    rows = utterance_statistics([sound, padded], sounds.RATE)
    assert rows.shape == (2, 2 * BANDS)
    assert np.abs(rows[0, :BANDS] - rows[1, :BANDS]).max() < 0.5  # silence is left out


def test_too_small_sets_are_refused():
    with pytest.raises(ShapeError):
        energy_distance(np.zeros((1, 2)), np.zeros((3, 2)))
    with pytest.raises(UsageError, match="at least 4"):
        set_distance(np.zeros((3, 2)), np.zeros((3, 2)))
