"""Shot changes in sequences of brightness thumbnails: cuts, fades, flashes, movement."""

from __future__ import annotations

import av
import numpy as np
import pytest

from genmm.core.errors import ShapeError
from genmm.media.shots import ShotFinder, brightness_thumbnail, thumbnail_of


def textured(seed: int, level: float = 120.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (level + 60 * rng.standard_normal((18, 32))).clip(0, 255).astype(np.float32)


def cuts_in(pictures, fps: float = 25.0) -> tuple[float, ...]:
    finder = ShotFinder()
    for number, picture in enumerate(pictures):
        finder.push(number / fps, picture)
    return finder.finish()


def test_hard_cuts_are_found_to_the_frame():
    pictures = [textured(0)] * 50 + [textured(1, 80.0)] * 40 + [textured(2, 160.0)] * 30
    assert cuts_in(pictures) == pytest.approx((2.0, 3.6))


def test_noise_and_slow_change_are_no_cuts():
    rng = np.random.default_rng(0)
    base = textured(0)
    pictures = [(base + 0.5 * i + 4 * rng.standard_normal(base.shape)).clip(0, 255) for i in range(100)]
    assert cuts_in(pictures) == ()


def test_a_flash_is_no_cut():
    base = textured(0)
    pictures = [base] * 30 + [np.full_like(base, 250.0)] * 3 + [base] * 40
    assert cuts_in(pictures) == ()


def test_a_fade_through_black_is_one_change():
    first, second = textured(0), textured(1)
    ramp = np.linspace(1, 0, 20)
    pictures = [first] * 25 + [first * r for r in ramp] + [second * r for r in ramp[::-1]] + [second] * 25
    found = cuts_in(pictures)
    assert len(found) == 1
    assert found[0] == pytest.approx(1.8, abs=0.2)


def test_changes_closer_than_the_shortest_shot_count_once():
    pictures = [textured(0)] * 30 + [textured(1, 70.0)] * 5 + [textured(2, 180.0)] * 40
    assert len(cuts_in(pictures)) == 1


def test_constant_pictures_have_no_cuts():
    assert cuts_in([np.zeros((18, 32), np.float32)] * 60) == ()
    assert cuts_in([]) == ()


@pytest.mark.parametrize("form", ["yuv420p", "yuv444p", "gray", "rgb24", "yuv420p10le"])
def test_thumbnails_of_frames_show_their_brightness(form):
    picture = np.zeros((90, 160, 3), np.uint8)
    picture[:, 80:] = 200
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=form)
    small = brightness_thumbnail(frame)
    assert small.shape == (18, 32)
    assert small[:, :15].mean() < 25
    assert small[:, 17:].mean() > 170


def test_thumbnails_of_odd_sizes():
    assert thumbnail_of(np.full((1, 1), 7, np.uint8)).mean() == 7
    with pytest.raises(ShapeError):
        thumbnail_of(np.zeros((0, 4), np.uint8))
