"""Writing sound: read back as written, whole or not at all, with its tags."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genmm.core.errors import GenmmError, MediaError, ShapeError, UsageError
from genmm.media.audio import as_samples, encode_audio_bytes, read_audio, write_audio
from genmm.media.tag_reader import read_tags

LOSSLESS = [("wav", "int16", 16), ("wav", "int24", 24), ("flac", "int16", 16), ("flac", "int24", 24)]


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(("form", "sample_format", "bits"), LOSSLESS)
def test_whole_number_formats_are_within_half_a_step(make, tmp_path, form, sample_format, bits, channels):
    samples = make.tone(0.3, 44100, channels)
    path = write_audio(tmp_path / f"x.{form}", samples, 44100, sample_format=sample_format)
    audio = read_audio(path)
    assert audio.sample_rate == 44100 and audio.samples.shape == samples.shape
    assert np.abs(audio.samples - samples).max() <= 0.5 / 2 ** (bits - 1) + 1e-7
    outside, rate = soundfile.read(path, dtype="float32", always_2d=True)  # an independent reader agrees
    assert rate == 44100 and np.array_equal(outside.T, audio.samples)


def test_float_wav_is_exact_even_above_full_scale(make, tmp_path):
    samples = make.tone(channels=2) * 3
    path = write_audio(tmp_path / "x.wav", samples, 16000, sample_format="float32")
    assert np.array_equal(read_audio(path).samples, samples)


@pytest.mark.parametrize(("form", "sample_format", "bits"), LOSSLESS)
def test_a_second_writing_changes_nothing(form, sample_format, bits):
    extremes = np.array([-1.0, 1.0, 0.999999, -0.999999, 1.5, -1.5, 0.0, 1e-5], np.float32)
    once = encode_audio_bytes(extremes, 8000, form, sample_format=sample_format)
    samples = read_audio(once).samples
    assert samples.min() == -1.0 and samples.max() == 1.0 - 2.0 ** (1 - bits), "clipped, not wrapped around"
    assert encode_audio_bytes(samples, 8000, form, sample_format=sample_format) == once


@pytest.mark.parametrize("form", ["ogg", "mp3"])
def test_lossy_formats_keep_length_and_sound(make, tmp_path, form):
    samples = make.tone(1.0, 44100, 2)
    audio = read_audio(write_audio(tmp_path / f"x.{form}", samples, 44100))
    assert audio.sample_rate == 44100 and audio.samples.shape == samples.shape
    error = (audio.samples - samples)[:, 2000:-2000]
    assert 10 * np.log10((error**2).mean() / (samples**2).mean()) < -25


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 3000),
    st.integers(1, 2),
    st.sampled_from([8000, 16000, 22050, 44100, 48000]),
    st.sampled_from(["wav", "flac", "ogg", "mp3"]),
)
def test_any_length_survives_a_round_trip(count, channels, rate, form):
    samples = np.full((channels, count), 0.25, np.float32)
    audio = read_audio(encode_audio_bytes(samples, rate, form))
    assert audio.sample_rate == rate and audio.channels == channels
    assert audio.samples.shape[1] == count if form != "mp3" else audio.samples.shape[1] >= count


def test_long_vorbis_is_written_without_exhausting_the_stack():
    audio = read_audio(encode_audio_bytes(np.zeros((1, 8000 * 300), np.float32), 8000, "ogg"))
    assert audio.seconds == 300


def test_wav_and_flac_bytes_repeat(make):
    for form, sample_format in (("wav", "int16"), ("wav", "float32"), ("flac", "int16")):
        first = encode_audio_bytes(make.tone(), 16000, form, sample_format=sample_format)
        assert first == encode_audio_bytes(make.tone(), 16000, form, sample_format=sample_format)


def test_tensors_arrays_and_whole_numbers_are_taken():
    assert as_samples(torch.ones(3, dtype=torch.bfloat16, requires_grad=True)).shape == (1, 3)
    assert as_samples([[0.5, -0.5]]).dtype == np.float32
    np.testing.assert_array_equal(as_samples(np.array([-32768, 0, 16384], np.int16)), [[-1.0, 0.0, 0.5]])
    for shape in ((2, 2, 2), (2, 0), (0,), (), (900, 2)):
        with pytest.raises(ShapeError):
            as_samples(np.zeros(shape))
    with pytest.raises(ShapeError, match="complex"):
        as_samples(np.zeros(4, complex))


def test_nan_is_not_written(make, tmp_path):
    samples = make.tone()
    samples[0, 5] = np.nan
    with pytest.raises(MediaError, match="NaN"):
        write_audio(tmp_path / "x.wav", samples, 16000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "rate", "more"),
    [
        ("x.aac", 16000, {}),
        ("x", 16000, {}),
        ("x.mp3", 16001, {}),
        ("x.mp3", 96000, {}),
        ("x.wav", 0, {}),
        ("x.wav", 16000.5, {}),
        ("x.flac", 16000, {"sample_format": "float32"}),
        ("x.mp3", 16000, {"sample_format": "int16"}),
        ("x.wav", 16000, {"sample_format": "int8"}),
        ("x.wav", 16000, {"tags": {"title": 3}}),
        ("x.wav", 16000, {"tags": {"recipe": object()}}),
    ],
)
def test_wrong_requests_leave_nothing_behind(make, tmp_path, name, rate, more):
    with pytest.raises(UsageError):
        write_audio(tmp_path / name, make.tone(), rate, **more)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("form", "channels"), [("mp3", 3), ("ogg", 3), ("flac", 9), ("wav", 9)])
def test_channel_counts_that_readers_would_mix_up_are_refused(form, channels):
    with pytest.raises(UsageError, match="channels"):
        encode_audio_bytes(np.zeros((channels, 100), np.float32), 16000, form)


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3"])
def test_a_failure_while_writing_leaves_the_old_file(make, tmp_path, monkeypatch, form):
    path = tmp_path / f"x.{form}"
    path.write_bytes(b"old")

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genmm.media.audio_write._steps", full_disk)
    monkeypatch.setattr("genmm.media.audio_write._encode_with_libsndfile", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_audio(path, make.tone(), 16000)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == [path.name]


RECIPE = {
    "genmm": "0.1.0",
    "task": "speech",
    "settings": {"text": "seven, \u00fcber \u65e5\u672c " + "x" * 20000, "guidance": 2.0, "voice": None},
    "seeds": [1, 2**62],
    "title": "T\u00eft\u013ce",
    "artist": "genmm",
}


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3"])
def test_a_recipe_comes_back_out_of_the_file(make, tmp_path, form):
    path = write_audio(tmp_path / f"x.{form}", make.tone(channels=2), 16000, tags=RECIPE)
    assert read_tags(path) == RECIPE
    audio = read_audio(path)
    assert audio.samples.shape == (2, 8000) and audio.notes == (), "tags do not disturb the sound"
    outside, _ = soundfile.read(path)
    assert outside.shape == (8000, 2)


def test_odd_names_are_written(make, tmp_path):
    for name in ("a b.wav", "take:1.wav", "\u65e5\u672c.flac", "x.WAV", "-rf.ogg"):
        assert read_audio(write_audio(tmp_path / "deep" / name, make.tone(), 16000)).channels == 1


def test_errors_are_of_the_right_kind(make, tmp_path):
    with pytest.raises(GenmmError):
        write_audio(tmp_path, make.tone(), 16000)
