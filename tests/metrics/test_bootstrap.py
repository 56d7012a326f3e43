from __future__ import annotations

import numpy as np
import pytest

from genmm.core.errors import UsageError
from genmm.metrics.bootstrap import bootstrap_mean, bootstrap_ratio


def test_the_interval_of_a_mean_agrees_with_the_normal_one():
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05)
    assert interval.items == 400


def test_ninety_five_percent_intervals_cover_the_truth_about_that_often():
    draw = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        words = draw.integers(1, 8, 60)
        errors = draw.binomial(words, 0.2)
        interval = bootstrap_ratio(errors, words, resamples=400, seed=trial)
        covered += interval.low <= 0.2 <= interval.high
    assert 178 <= covered <= 199


def test_the_ratio_is_of_sums_and_repeats_with_its_seed():
    first = bootstrap_ratio([1, 0, 3], [2, 5, 3], seed=1)
    assert first.value == pytest.approx(0.4)
    assert first == bootstrap_ratio([1, 0, 3], [2, 5, 3], seed=1)


@pytest.mark.parametrize(("top", "bottom"), [([], []), ([1.0], [0.0]), ([1.0, 2.0], [1.0])])
def test_unusable_items_are_refused(top, bottom):
    with pytest.raises(UsageError):
        bootstrap_ratio(top, bottom)


def test_an_impossible_level_is_refused():
    with pytest.raises(UsageError, match="level"):
        bootstrap_mean([1.0, 2.0], level=1.0)
