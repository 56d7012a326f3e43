"""Mixing down."""

from __future__ import annotations

import numpy as np
import pytest

from genmm.core.errors import ShapeError
from genmm.media.channels import downmix, stereo_matrix


@pytest.mark.parametrize("channels", range(1, 13))
def test_full_scale_in_every_channel_stays_full_scale(channels):
    full = np.ones((channels, 4), np.float32)
    for count in (1, 2):
        mixed = downmix(full, count)
        assert mixed.shape == (count, 4) and mixed.dtype == np.float32
        np.testing.assert_allclose(mixed, 1.0, atol=1e-6)


def test_surround_follows_the_broadcast_weights():
    left, right = stereo_matrix(6)
    # ITU-R BS.775: centre and surround 3 dB down, no LFE; left only left, right only right.
    np.testing.assert_allclose(left / left[0], [1, 0, 0.5**0.5, 0, 0.5**0.5, 0], atol=1e-6)
    np.testing.assert_allclose(right / right[1], [0, 1, 0.5**0.5, 0, 0, 0.5**0.5], atol=1e-6)


def test_mono_of_stereo_is_the_mean_and_stereo_of_mono_two_equal_sides():
    sides = np.array([[1.0, 0.0, 0.5], [0.0, 0.0, -0.5]], np.float32)
    np.testing.assert_allclose(downmix(sides, 1), [[0.5, 0.0, 0.0]])
    np.testing.assert_allclose(downmix(sides[:1], 2), [sides[0], sides[0]])


def test_wrong_shapes_are_refused():
    for samples, count in ((np.ones(3), 1), (np.ones((0, 3)), 1), (np.ones((2, 3)), 3)):
        with pytest.raises(ShapeError):
            downmix(samples, count)
