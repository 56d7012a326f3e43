"""Tiny random SLED networks, a tiny codec and a tiny tokenizer."""

from collections.abc import Callable

import pytest
import torch

from genmm.systems.sled.codec import SpeechCodec, SpeechCodecConfig
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.network import SledNetwork
from genmm.systems.sled.pipeline import SledPipeline
from genmm.systems.sled.tokenizer import SledTokenizer, train_bpe

SIZES = {
    "vocab_size": 300,
    "max_position_embeddings": 256,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vae_embed_dim": 6,
    "diffloss_d": 2,
    "diffloss_w": 16,
    "noise_channels": 5,
}


def random_network(seed: int = 0, **changes) -> SledNetwork:
    """A network whose every weight is random, so that no path is silent; the same for the same arguments."""
    network = SledNetwork(SledConfig(**{**SIZES, **changes})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
            if "norm" in name or name.endswith("_ln.weight"):
                weight.add_(1.0)
        # A random stop head would end most utterances at once.
        network.eos_head.weight.mul_(0.2)
    return network.requires_grad_(False)


@pytest.fixture(scope="session")
def make_network() -> Callable[..., SledNetwork]:
    return random_network


@pytest.fixture(scope="session")
def tiny_codec() -> SpeechCodec:
    torch.manual_seed(3)
    config = SpeechCodecConfig(
        sample_rate=8000,
        channels=6,
        mel_bands=20,
        encoder_width=8,
        encoder_latent_width=8,
        encoder_depth=1,
        encoder_latent_depth=1,
        decoder_width=8,
        decoder_latent_depth=1,
        decoder_depth=1,
    )
    return SpeechCodec(config).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> SledTokenizer:
    return train_bpe([" seven four one hello there, this is a test."] * 3, 290)


@pytest.fixture(scope="session")
def make_pipeline(tiny_codec, tiny_tokenizer) -> Callable[..., SledPipeline]:
    def make(*, network=None, **options) -> SledPipeline:
        sizes = options.pop("sizes", {})
        return SledPipeline(network or random_network(**sizes), tiny_codec, tiny_tokenizer, **options)

    return make
