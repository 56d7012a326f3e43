"""Latents and crops of rendered music: splits that share nothing, posteriors kept as the codec gives them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.music_latents import MusicLatentData, load_codec
from datamodules.music_store import MusicSources
from datamodules.music_waveforms import MusicWaveformData
from datamodules.rendered_music import MusicRenderer
from datamodules.rendered_music_score import is_held_out, random_caption
from datamodules.rendered_music_synthesis import RATE
from datamodules.sampler import Pick
from genmm.systems.melodyflow.config import SeanetConfig
from genmm.systems.melodyflow.spectral_codec import SpectralCodec, SpectralCodecConfig
from genmm.systems.melodyflow.vae import SeanetCodec


def noise_piece(self: MusicRenderer, seed: int, *, split: str = "train") -> SimpleNamespace:
    """Noise in place of a rendered piece, with a caption of the split."""
    rng = np.random.default_rng(seed)
    samples = 0.2 * rng.standard_normal((2, round(self.seconds * RATE)), dtype=np.float32)
    return SimpleNamespace(samples=samples.clip(-1, 1), caption=random_caption(rng, split=split), seed=seed)


@pytest.fixture(autouse=True)
def rendered(monkeypatch, tmp_path) -> list[int]:
    """Seeds of the pieces that the test renders; no shared data is needed."""
    seeds: list[int] = []

    def piece(self: MusicRenderer, seed: int, **options: str) -> SimpleNamespace:
        seeds.append(seed)
        return noise_piece(self, seed, **options)

    monkeypatch.setenv("GENMM_DATA", str(tmp_path / "no-data"))
    monkeypatch.setattr(MusicRenderer, "piece", piece)
    return seeds


@pytest.fixture(scope="module")
def codecs(tmp_path_factory) -> dict[str, str]:
    """Folders of an untrained codec of each kind."""
    folder = tmp_path_factory.mktemp("codecs")
    torch.manual_seed(3)
    SpectralCodec(
        SpectralCodecConfig(channels=6, width=16, latent_width=16, mel_bands=24, onset_bands=8, deviation=0.25)
    ).save(folder / "spectral")
    SeanetCodec(SeanetConfig(dimension=4, n_filters=2, ratios=(10, 8, 6, 5))).save(folder / "variational")
    return {name: str(folder / name) for name in ("spectral", "variational")}


def make_data(codec: str, tmp_path, **changes) -> MusicLatentData:
    options = {"rendered": 2, "held_out": 1, "seconds": 1.0, "crop_frames": 8, "batch_size": 2}
    return MusicLatentData(codec, cache=str(tmp_path / "cache"), **{**options, **changes})


def posterior(codec: str, split: str, seed: int):
    piece = noise_piece(MusicRenderer(seconds=1.0), seed, split=split)
    with torch.inference_mode():
        return load_codec(codec).encode(torch.from_numpy(piece.samples)[None])


def test_a_variational_posterior_is_sampled_with_a_deviation_for_each_value(codecs, tmp_path):
    data = make_data(codecs["variational"], tmp_path)
    items = data.dataset("train")
    expected = posterior(codecs["variational"], "train", 5_000_001)
    assert float(expected.deviation.std()) > 0  # one number would not do
    np.testing.assert_allclose(items.mean[1], expected.mean[0].T, atol=2e-3, rtol=2e-3)
    np.testing.assert_allclose(items.deviations[1], expected.deviation[0].T, atol=2e-3, rtol=2e-3)
    assert items.deviations.dtype == np.float16
    assert torch.equal(items[Pick(1, 0)]["latents"], items[Pick(1, 0)]["latents"])
    whole = make_data(codecs["variational"], tmp_path, crop_frames=1000).dataset("train")
    draws = torch.stack([whole[Pick(1, seed)]["latents"] for seed in range(600)])
    torch.testing.assert_close(draws.mean(0), expected.mean[0].T, atol=0.2, rtol=0)
    torch.testing.assert_close(draws.std(0), expected.deviation[0].T, atol=2e-3, rtol=0.15)
    assert items[Pick(1, 0)]["latents"].shape == (8, 4)
    batch = data.collate([items[Pick(n, n)] for n in range(2)])
    assert batch["deviation"].tolist() == [0.0, 0.0]  # samples already


def test_our_codec_has_one_deviation_and_the_training_draws_the_samples(codecs, tmp_path):
    data = make_data(codecs["spectral"], tmp_path)
    items = data.dataset("train")
    expected = posterior(codecs["spectral"], "train", 5_000_000)
    assert expected.deviation.unique().tolist() == [0.25]
    assert items.deviations is None and items.deviation == 0.25
    whole = make_data(codecs["spectral"], tmp_path, crop_frames=1000).dataset("train")
    torch.testing.assert_close(whole[Pick(0, 5)]["latents"], expected.mean[0].T, atol=2e-3, rtol=2e-3)
    assert data.collate([items[Pick(n, n)] for n in range(2)])["deviation"].tolist() == [0.25, 0.25]


@pytest.mark.parametrize("kind", ["spectral", "variational"])
def test_latent_statistics_are_those_of_posterior_samples(codecs, tmp_path, kind):
    data = make_data(codecs[kind], tmp_path)
    mean, deviation = data.latent_statistics()
    both = [posterior(codecs[kind], "train", 5_000_000 + n) for n in range(2)]
    torch.manual_seed(0)
    draws = [one.sample(torch.randn(400, *one.mean.shape[1:])) for one in both]  # [400, D, T]
    drawn = torch.cat(draws, 2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(mean, drawn.mean(0), atol=0.05, rtol=0.02)
    torch.testing.assert_close(deviation, drawn.std(0), atol=0.02, rtol=0.05)


def test_an_interrupted_build_goes_on_where_it_stopped(codecs, tmp_path, monkeypatch, rendered):
    monkeypatch.setattr("datamodules.music_latents.KEPT_EVERY", 2)
    whole = make_data(codecs["variational"], tmp_path / "whole", rendered=4).dataset("train")
    parts, counted = make_data(codecs["variational"], tmp_path / "parts", rendered=4), MusicRenderer.piece

    def interrupted(self: MusicRenderer, seed: int, **options: str) -> SimpleNamespace:
        if seed == 5_000_003:
            raise KeyboardInterrupt
        return counted(self, seed, **options)

    monkeypatch.setattr(MusicRenderer, "piece", interrupted)
    with pytest.raises(KeyboardInterrupt):
        parts.dataset("train")
    monkeypatch.setattr(MusicRenderer, "piece", counted)
    rendered.clear()
    items = parts.dataset("train")
    assert rendered == [5_000_002, 5_000_003]
    for name in ("mean", "deviations"):
        assert np.array_equal(getattr(items, name), getattr(whole, name))
    assert items.captions == whole.captions


def test_test_latents_are_held_out_pieces_that_validation_has_not(codecs, tmp_path, rendered):
    data = make_data(codecs["spectral"], tmp_path, held_out=3)
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="test"))
    data.prepare_data()
    assert rendered == [17_500_000, 17_500_001, 17_500_002]  # neither training nor validation is needed
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    data.prepare_data()
    assert rendered[3:] == [5_000_000, 5_000_001, 15_000_000, 15_000_001, 15_000_002]
    test, val = data.dataset("test"), data.dataset("val")
    assert all(map(is_held_out, test.captions)) and len(test) == len(val) == 3
    assert not np.array_equal(test.mean, val.mean)


def test_test_crops_come_from_pieces_of_their_own(tmp_path):
    sources = MusicSources(rendered=2, held_out=2, seconds=1.0)
    data = MusicWaveformData(sources, crop_samples=9600, repeats=1, batch_size=2, cache=str(tmp_path))
    splits = {name: data.dataset(name) for name in ("train", "val", "test")}
    assert [len(crops) for crops in splits.values()] == [2, 2, 2]
    seeds = {name: {crops.store.table[i]["seed"] for i in crops.chosen} for name, crops in splits.items()}
    assert seeds["train"] == {10_000_000, 10_000_001} and seeds["val"] == {10_000_002, 10_000_003}
    assert not seeds["test"] & (seeds["train"] | seeds["val"])
    assert all(is_held_out(splits["test"].store.caption(i)) for i in splits["test"].chosen)
    nothing = MusicWaveformData(MusicSources(rendered=1, held_out=0, seconds=0.5), crop_samples=9600,
                                cache=str(tmp_path))  # fmt: skip
    assert nothing.dataset("test") is None


def test_replaced_samples_and_tracks_are_rendered_and_read_again(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "music_tracks"
    folder.mkdir(parents=True)
    monkeypatch.setenv("GENMM_DATA", str(tmp_path / "data"))
    (folder / "metadata.tsv").write_text("file\tlicence\na.ogg\tCC0\n")
    (folder / "a.ogg").write_bytes(b"a")
    sampled = tmp_path / "samples.zip"
    sampled.write_bytes(b"a")
    plain, real = MusicSources(), MusicSources(real=True)
    silent, bank = SimpleNamespace(files=()), SimpleNamespace(files=(sampled,))
    before = [plain.fingerprint(silent), real.fingerprint(silent), plain.fingerprint(bank)]
    assert before == [plain.fingerprint(silent), real.fingerprint(silent), plain.fingerprint(bank)]
    (folder / "a.ogg").write_bytes(b"other")
    sampled.write_bytes(b"other")
    after = [plain.fingerprint(silent), real.fingerprint(silent), plain.fingerprint(bank)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False]
