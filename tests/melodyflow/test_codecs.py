"""Both codecs: pieces equal the whole, lengths, posterior, weight norm, folders."""

from dataclasses import replace

import pytest
import torch
from tiny_music import tiny_codec

from genmm.core.errors import CheckpointError, ConfigError, ShapeError
from genmm.systems.melodyflow.config import SeanetConfig
from genmm.systems.melodyflow.latents import Posterior
from genmm.systems.melodyflow.spectral_codec import SpectralCodec, SpectralCodecConfig
from genmm.systems.melodyflow.vae import SeanetCodec

SMALL = SeanetConfig(sample_rate=2400, dimension=6, n_filters=4, ratios=(4, 3, 2))


def vae(config=SMALL) -> SeanetCodec:
    torch.manual_seed(2)
    return SeanetCodec(config).eval().requires_grad_(False)


@pytest.mark.parametrize("residual", [1, 3])
def test_decoding_and_encoding_in_pieces_is_exact(residual):
    codec = vae(SeanetConfig(sample_rate=2400, dimension=6, n_filters=4, ratios=(4, 3, 2), n_residual_layers=residual))
    latents, wave = torch.randn(1, 6, 41), torch.randn(1, 2, 24 * 40 + 5)
    whole = codec.decode(latents, 1000)
    assert whole.shape == (1, 2, 41 * 24)
    output = codec.encoder_output(wave, 1000)
    assert output.shape == (1, 12, 41)
    for piece in (1, 7, 20):
        torch.testing.assert_close(codec.decode(latents, piece), whole, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(codec.encoder_output(wave, piece), output, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("samples", [1, 3, 23, 24, 25])
def test_any_length_gives_whole_frames(samples):
    codec = vae()
    posterior = codec.encode(torch.randn(1, 2, samples))
    assert posterior.mean.shape[2] == -(-samples // 24)
    assert codec.decode(posterior.mean).shape[2] == 24 * posterior.mean.shape[2]


def test_the_released_configuration_has_the_published_size():
    with torch.device("meta"):
        codec = SeanetCodec()
    count = sum(parameter.numel() for parameter in codec.parameters())
    merged_biases = 2 * 2 * 4096  # the published count adds the two biases of every LSTM layer up
    alphas = sum(value.numel() for name, value in codec.named_parameters() if name.endswith("alpha"))  # and has 1/alpha
    assert count - merged_biases + alphas == 59_660_354
    assert codec.hop_samples == 1920 and codec.channels == 128


def test_weight_norm_changes_nothing_until_trained_and_folds_away():
    codec = vae()
    latents = torch.randn(1, 6, 9)
    before = codec.decode(latents)
    torch.testing.assert_close(codec.with_weight_norm().decode(latents), before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(codec.without_weight_norm().decode(latents), before, atol=1e-5, rtol=1e-4)
    assert not [name for name in codec.state_dict() if "parametrizations" in name]


def test_the_posterior_samples_and_its_divergence_is_zero_at_the_prior():
    mean, deviation = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    assert float(Posterior(mean, deviation).divergence()) == 0.0
    assert float(Posterior(mean + 1, deviation).divergence()) == pytest.approx(3.0)
    noise = torch.randn(2, 3, 4)
    torch.testing.assert_close(Posterior(mean + 2, deviation * 0.5).sample(noise), 2 + 0.5 * noise)
    made = Posterior.from_encoder(torch.full((1, 2, 1), -100.0))
    assert float(made.deviation) == pytest.approx(1e-4)


def test_the_small_codec_decodes_long_music_in_pieces():
    codec = tiny_codec()
    latents = torch.randn(1, 8, 60)
    whole = codec.decode(latents, 1000)
    assert whole.shape == (1, 2, 60 * 640)
    torch.testing.assert_close(codec.decode(latents, 9), whole, atol=1e-5, rtol=1e-4)
    assert codec.encode(torch.randn(1, 2, 640 * 3 + 1)).mean.shape == (1, 8, 4)


def test_below_the_crossing_oscillators_alone_sound():
    torch.manual_seed(4)
    plain = tiny_codec()
    high = SpectralCodec(replace(plain.config, synthesis_from_hz=1000)).eval().requires_grad_(False)
    high.load_state_dict(plain.state_dict())
    with torch.no_grad():
        plain.decoder.loudness.weight.zero_()  # silent oscillators
        high.decoder.loudness.weight.zero_()
    latents = torch.randn(1, 8, 40)
    full, cut = (torch.fft.rfft(codec.decode(latents)[0, 0]).abs() for codec in (plain, high))
    hertz = torch.fft.rfftfreq(40 * 640, 1 / 8000)
    assert float(cut[hertz < 450].square().mean()) < 0.01 * float(full[hertz < 450].square().mean())
    torch.testing.assert_close(cut[hertz > 1100], full[hertz > 1100], atol=0.05 * float(full.max()), rtol=0.2)


def test_a_crossing_needs_oscillators():
    with pytest.raises(ConfigError, match="needs oscillators"):
        SpectralCodecConfig(synthesis_from_hz=1000)


def test_the_small_codec_encodes_long_music_in_pieces():
    codec, wave = tiny_codec(), torch.randn(1, 2, 640 * 60 + 5)
    whole = codec.encode(wave, 1000).mean
    assert whole.shape == (1, 8, 61)
    torch.testing.assert_close(codec.encode(wave, 9).mean, whole, atol=1e-5, rtol=1e-4)


def test_channels_keep_their_side():
    codec, wave = tiny_codec(), torch.randn(1, 2, 6400)
    a = codec.encode(wave).mean
    assert not torch.allclose(a, codec.encode(wave.flip(1)).mean, atol=1e-3)


@pytest.mark.parametrize("make", [vae, tiny_codec])
def test_folders_round_trip_and_foreign_ones_are_refused(make, tmp_path):
    codec = make()
    codec.save(tmp_path / "codec")
    again = type(codec).from_folder(tmp_path / "codec")
    latents = torch.randn(1, codec.channels, 5)
    torch.testing.assert_close(again.decode(latents), codec.decode(latents))
    other = SeanetCodec if isinstance(codec, SpectralCodec) else SpectralCodec
    with pytest.raises(CheckpointError, match="expected"):
        other.from_folder(tmp_path / "codec")


@pytest.mark.parametrize("codec", [vae(), tiny_codec()])
def test_wrong_shapes_are_refused(codec):
    for bad in (torch.zeros(1, 1, 100), torch.zeros(2, 100), torch.zeros(1, 2, 0)):
        with pytest.raises(ShapeError):
            codec.encode(bad)
    with pytest.raises(ShapeError):
        codec.decode(torch.zeros(1, codec.channels + 1, 4))


def test_foreign_codec_configurations_are_refused():
    with pytest.raises(ConfigError):
        SeanetConfig.from_official({"seanet": {"dimension": 8, "causal": True}})
    with pytest.raises(ConfigError):
        SeanetConfig(ratios=(0,))
