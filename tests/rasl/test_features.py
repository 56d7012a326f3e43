"""Features of pictures and sound against shifts, sines and hand counts; tables survive the disk."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from genmm.core.errors import DataError, ShapeError
from genmm.systems.rasl.audio_features import AUDIO_SIZE, DB_SCALE, LOUDNESS_COLUMN, RATE, SoundDescriber
from genmm.systems.rasl.extractors import HANDCRAFTED, CallableExtractor, ConvNet, NetExtractor, torchvision_extractor
from genmm.systems.rasl.feature_table import FeatureTable, load_table, save_table
from genmm.systems.rasl.footage import cached_table, content_hash, find_footage
from genmm.systems.rasl.inputs import centred, network_inputs
from genmm.systems.rasl.optical_flow import dense_flow
from genmm.systems.rasl.visual_features import SIDE, motion_features, static_features, visual_step


@pytest.mark.parametrize(("across", "down"), [(0.0, 0.0), (1.5, -0.5), (4.0, 3.0)])
def test_flow_finds_a_shift(across, down):
    texture = gaussian_filter(np.random.default_rng(0).random((64, 64)), 2.0)
    texture = 255 * (texture - texture.min()) / np.ptp(texture)
    moved = shift(texture, (down, across), order=3, mode="nearest")
    flow = dense_flow(texture[None], moved[None])[0, 16:48, 16:48]
    assert np.median(flow[..., 0]) == pytest.approx(across, abs=0.15)
    assert np.median(flow[..., 1]) == pytest.approx(down, abs=0.15)
    with pytest.raises(ShapeError):
        dense_flow(texture[None], moved[None, :32])


def test_one_colour_fills_one_bin_of_the_histogram():
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[..., 0] = 255  # pure red: hue 0, full saturation, full value
    row = static_features(picture)
    assert row.shape == (296,)
    assert row[:128].argmax() == 0 * 16 + 3 * 4 + 3
    assert row[:128].sum() == pytest.approx(1.0)
    assert np.all(row[128:256] == 0)  # no gradient anywhere
    assert row[256:272] == pytest.approx(np.full(16, 0.299), abs=1e-3)


def test_gradients_fall_into_their_cell_and_direction():
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[:32, 16:32] = 200  # an edge at column 16 of the first cell, another at its border
    cells = static_features(picture)[128:256].reshape(16, 8)
    assert cells[0].argmax() in (0, 3, 4, 7)  # across, either way
    assert cells[5:].sum() == pytest.approx(0.0, abs=1e-6)
    assert np.linalg.norm(cells) == pytest.approx(1.0, abs=1e-5)


def test_motion_is_zero_for_a_still_and_grows_with_speed():
    rng = np.random.default_rng(0)
    base = (255 * gaussian_filter(rng.random((SIDE, SIDE + 40)), (3, 3))).clip(0, 255)
    base = (255 * (base - base.min()) / np.ptp(base)).astype(np.uint8)
    still = np.repeat(base[None, :, :SIDE, None], 3, axis=0).repeat(3, axis=-1)
    slow = np.stack([base[:, 2 * i : 2 * i + SIDE] for i in range(3)])[..., None].repeat(3, axis=-1)
    fast = np.stack([base[:, 6 * i : 6 * i + SIDE] for i in range(3)])[..., None].repeat(3, axis=-1)
    flow = [motion_features(pictures)[1] for pictures in (still, slow, fast)]
    assert flow[0] < 1e-3
    assert flow[1] == pytest.approx(1.0, abs=0.2)  # two pixels of 128 are one of 64
    assert flow[2] == pytest.approx(3.0, abs=0.5)
    assert motion_features(still[:1]).tolist() == [0.0] * 8
    assert visual_step(still).shape == (304,)


def test_sound_in_pieces_is_described_as_in_one():
    rng = np.random.default_rng(0)
    samples = 0.1 * rng.standard_normal(int(3.3 * RATE)).astype(np.float32)
    whole, pieces = SoundDescriber(), SoundDescriber()
    whole.push(samples)
    for part in np.array_split(samples, 97):
        pieces.push(part)
    first, second = whole.finish(), pieces.finish()
    assert first.shape == (4, AUDIO_SIZE)
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-4)


def test_a_sine_is_loudest_in_its_band_and_has_its_level():
    time_s = np.arange(2 * RATE) / RATE
    describer = SoundDescriber()
    describer.push((0.5 * np.sin(2 * np.pi * 1000 * time_s)).astype(np.float32))
    rows = describer.finish()
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (40.0, 8000.0))
    expected = (2595 * np.log10(1 + 1000 / 700) - low) / (high - low) * 65 - 1
    assert rows[0, :64].argmax() == pytest.approx(expected, abs=1)
    assert rows[0, LOUDNESS_COLUMN] * DB_SCALE == pytest.approx(-9.03, abs=0.1)  # 0.5 peak is -6 dB, a sine 3 less


def test_silence_is_finite():
    describer = SoundDescriber()
    describer.push(np.zeros(RATE, np.float32))
    rows = describer.finish()
    assert np.isfinite(rows).all()
    assert rows[0, LOUDNESS_COLUMN] * DB_SCALE == pytest.approx(-80.0)
    assert SoundDescriber().finish().shape == (0, AUDIO_SIZE)


def test_centring_makes_level_and_place_play_no_part(make_table):
    rows = make_table().audio
    np.testing.assert_allclose(centred(rows), centred(rows + 3.0), atol=1e-5)
    valid = np.arange(len(rows)) < 10
    out = centred(rows, valid)
    assert np.all(out[10:] == 0)
    np.testing.assert_allclose(np.median(out[:10], axis=0), 0.0, atol=1e-6)
    assert network_inputs(make_table(sound=False)).audio is None


def test_tables_survive_the_disk(make_table, tmp_path):
    table = make_table(cuts=(3.5, 9.25))
    again = load_table(save_table(tmp_path / "t.safetensors", table))
    np.testing.assert_allclose(again.visual, table.visual, atol=1e-3)
    np.testing.assert_allclose(again.audio, table.audio, atol=3e-3)
    assert again.audio_valid.dtype == bool
    assert (again.cuts_s, again.duration_s, again.source, again.info) == (
        table.cuts_s,
        table.duration_s,
        table.source,
        table.info,
    )
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="no feature table"):
        load_table(tmp_path / "other.safetensors")
    with pytest.raises(ShapeError):
        FeatureTable(None, None, None, None, None, 1.0)


def test_other_extractors(tmp_path):
    pictures, motion = np.zeros((3, SIDE, SIDE, 3), np.uint8), np.zeros(8, np.float32)
    assert HANDCRAFTED(pictures, motion).shape == (HANDCRAFTED.size,)
    mean = CallableExtractor(lambda p: p.mean((0, 1, 2)), 3, "mean-colour")
    assert mean(pictures + 5, motion).tolist() == [5, 5, 5]
    with pytest.raises(ShapeError, match="mean-colour"):
        CallableExtractor(lambda p: p.mean(), 3, "mean-colour")(pictures, motion)
    assert NetExtractor(ConvNet(16), 16, "conv-16")(pictures, motion).shape == (24,)
    with pytest.raises(Exception, match="resnet18"):
        torchvision_extractor("alexnet", tmp_path / "w.safetensors")
    with pytest.raises(Exception, match="safetensors"):
        torchvision_extractor("resnet18", tmp_path / "w.pth")


def test_features_of_a_file_are_read_once(event_video, tmp_path, monkeypatch):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(event_video.read_bytes())
    assert content_hash(copy) == content_hash(event_video)
    assert find_footage(tmp_path) == [copy]
    first = cached_table(copy, tmp_path / "cache")
    monkeypatch.setattr("genmm.systems.rasl.footage.extract_features", lambda *a, **k: pytest.fail("read again"))
    second = cached_table(event_video, tmp_path / "cache")
    np.testing.assert_array_equal(first.visual, second.visual)
    with pytest.raises(DataError, match="no video"):
        find_footage(tmp_path / "cache")
