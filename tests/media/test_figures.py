"""Pictures of sound: sizes as asked for, sound where it is, themes, silence, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torchaudio.functional import melscale_fbanks

from genmm.core.errors import MediaError, ShapeError, UsageError
from genmm.media.figures import DARK, LIGHT, log_mel, mel_filters, mel_picture, sound_picture, waveform_picture


def colour(text: str) -> tuple[int, ...]:
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


@pytest.mark.parametrize("draw", [sound_picture, waveform_picture, mel_picture])
def test_size_and_theme(draw, make):
    for dark, theme in ((False, LIGHT), (True, DARK)):
        picture = draw(make.tone(channels=2), 16000, width=400, height=220, dark=dark)
        assert picture.shape == (220, 400, 3) and picture.dtype == np.uint8
        assert tuple(picture[0, 0]) == colour(theme.page)


def test_the_wave_is_drawn_where_it_sounds():
    samples = np.zeros(16000, np.float32)
    samples[12000:] = 0.8 * np.sign(np.sin(np.arange(4000)))
    picture = waveform_picture(samples, 16000, width=600, height=200).astype(int)
    blue = np.abs(picture - colour(LIGHT.wave)).sum(-1) < 60
    columns = np.flatnonzero(blue.sum(0) > 50)
    assert len(columns) > 80 and columns.min() > 420, "the last quarter only"


def test_log_mel_finds_the_tone_and_its_time():
    samples = np.zeros(32000, np.float32)
    samples[16000:] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    levels = log_mel(samples, 16000, columns=1000)
    assert levels.shape == (80, 201) and levels.max() == 0.0 and levels.min() == -80.0
    assert (levels[:, :90] == -80).all()
    mel = 2595 * np.log10(1 + 1000 / 700) / (2595 * np.log10(1 + 8000 / 700)) * 81 - 1
    assert abs(levels[:, 150].argmax() - mel) <= 1


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_mel_filters_agree_with_torchaudio(rate):
    expected = melscale_fbanks(513, 0.0, rate / 2, 40, rate).numpy()
    np.testing.assert_allclose(mel_filters(513, rate, 40), expected, atol=1e-4)


def test_long_sounds_stay_small():
    assert log_mel(np.zeros(16000 * 300, np.float32), 16000, columns=500).shape[1] <= 502
    assert waveform_picture(np.ones(16000 * 300, np.float32), 16000, width=200, height=120).shape == (120, 200, 3)


@pytest.mark.parametrize("samples", [np.zeros(5), np.ones((2, 1)), torch.zeros(1, 16000), np.full(10, -3.0)])
@pytest.mark.parametrize("rate", [1, 100, 192000])
def test_any_sound_has_a_picture(samples, rate):
    assert sound_picture(samples, rate, width=200, height=150, title="$\\frac{x").shape == (150, 200, 3)


def test_threads_draw_the_same():
    samples = np.random.default_rng(0).standard_normal(4000) * 0.1
    alone = sound_picture(samples, 8000, width=200, height=150)
    with ThreadPoolExecutor(4) as pool:
        for picture in pool.map(lambda _: sound_picture(samples, 8000, width=200, height=150), range(4)):
            assert np.array_equal(picture, alone)


def test_wrong_input_is_refused():
    with pytest.raises(MediaError):
        sound_picture(np.array([0.0, np.nan]), 8000)
    with pytest.raises(ShapeError):
        sound_picture(np.zeros(0), 8000)
    for arguments in ({"width": 10}, {"height": 100_000}):
        with pytest.raises(UsageError):
            waveform_picture(np.zeros(10), 8000, **arguments)
    with pytest.raises(UsageError):
        mel_picture(np.zeros(10), 0)
