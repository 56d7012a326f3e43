"""The causal speech codec: exact streaming, causality, padding, folders."""

import json

import pytest
import torch

from genmm.core.errors import CheckpointError, ConfigError, ShapeError
from genmm.systems.sled.codec import SpeechCodec, SpeechCodecConfig
from genmm.systems.sled.latents import LatentCodec

TINY = SpeechCodecConfig(channels=6, encoder_width=8, encoder_latent_width=8, decoder_width=12, encoder_depth=1,
                         encoder_latent_depth=1, decoder_latent_depth=2, decoder_depth=2)  # fmt: skip


@pytest.fixture
def codec() -> SpeechCodec:
    torch.manual_seed(0)
    codec = SpeechCodec(TINY)
    codec.latents(torch.randn(4, 6400))  # one training pass fills the standardisation
    return codec.eval()


def test_it_meets_the_codec_protocol(codec):
    assert isinstance(codec, LatentCodec)
    assert (codec.frame_rate, codec.hop_samples, codec.channels) == (25.0, 640, 6)


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 5000])
def test_a_waveform_of_s_samples_becomes_ceil_s_over_hop_latents(codec, samples):
    latents = codec.encode(torch.randn(2, samples))
    assert latents.shape == (2, -(-samples // 640), 6)
    assert codec.decode(latents).shape == (2, latents.shape[1] * 640)


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7], [12], [2, 0, 10]])
def test_streaming_in_any_pieces_equals_one_decode(codec, sizes):
    latents = torch.randn(2, sum(sizes), 6)
    stream = codec.stream(batch=2)
    pieces = [stream.push(part) for part in latents.split(sizes, dim=1)] + [stream.flush()]
    torch.testing.assert_close(torch.cat(pieces, dim=1), codec.decode(latents), atol=2e-6, rtol=1e-5)
    assert [piece.shape[1] for piece in pieces[:-1]] == [640 * size for size in sizes]


def test_decoding_is_causal(codec):
    latents = torch.randn(1, 10, 6)
    changed = latents.clone()
    changed[:, 6:] += 1.0
    difference = (codec.decode(latents) - codec.decode(changed)).abs()[0]
    assert difference[: 6 * 640].max() < 1e-6 and difference[6 * 640 :].max() > 1e-4


def test_encoding_looks_ahead_no_further_than_it_says(codec):
    waveform = torch.randn(1, 6400)
    changed = waveform.clone()
    look_ahead = (TINY.analysis_window + TINY.synthesis_window) // 2 - TINY.spectral_hop
    changed[:, 4 * 640 + look_ahead :] += 1.0
    difference = (codec.encode(waveform) - codec.encode(changed)).abs().amax(dim=(0, 2))
    assert difference[:4].max() < 1e-6 and difference[4:].max() > 1e-4


def test_padding_of_a_batch_changes_no_real_latent(codec):
    short, long = torch.randn(1, 3000), torch.randn(1, 6000)
    padded = torch.cat([torch.nn.functional.pad(short, (0, 3000), value=0.7), long])
    batched = codec.encode(padded, torch.tensor([3000, 6000]))
    torch.testing.assert_close(batched[:1, :5], codec.encode(short), atol=1e-5, rtol=1e-5)


def test_a_saved_folder_gives_the_same_codec_back(codec, tmp_path):
    codec.save(tmp_path / "codec")
    again = SpeechCodec.from_folder(tmp_path / "codec")
    latents = torch.randn(1, 5, 6)
    torch.testing.assert_close(again.decode(latents), codec.decode(latents))
    waveform = torch.randn(1, 3200)
    torch.testing.assert_close(again.encode(waveform), codec.encode(waveform))


def test_a_folder_of_something_else_is_refused_by_name(codec, tmp_path):
    codec.save(tmp_path / "codec")
    config = json.loads((tmp_path / "codec/config.json").read_text())
    (tmp_path / "codec/config.json").write_text(json.dumps(config | {"system": "sled"}))
    with pytest.raises(CheckpointError, match="speech-codec"):
        SpeechCodec.from_folder(tmp_path / "codec")


def test_bad_sizes_and_shapes_say_what_is_wrong(codec):
    with pytest.raises(ConfigError, match="decoder_width"):
        SpeechCodecConfig(decoder_width=0)
    with pytest.raises(ConfigError, match="multiple"):
        SpeechCodecConfig(synthesis_window=650)
    with pytest.raises(ShapeError, match=r"\[B, S\]"):
        codec.encode(torch.randn(1, 1, 640))
    with pytest.raises(ShapeError, match="6"):
        codec.decode(torch.randn(1, 4, 5))
    with pytest.raises(ShapeError, match=r"\[1, k, D\]"):
        codec.stream().push(torch.randn(2, 1, 6))
