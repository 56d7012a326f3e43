"""A SLED checkpoint of a few thousand random weights: it says nothing sensible, in all the ways a real one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from genmm.systems.sled.codec import SpeechCodec, SpeechCodecConfig
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.network import SledNetwork
from genmm.systems.sled.pipeline import SledPipeline
from genmm.systems.sled.request import SpeechSettings
from genmm.systems.sled.tokenizer import train_bpe


def make_tiny_sled(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint, with one voice called "ann"; speech lasts at most 0.4 s a part."""
    torch.manual_seed(seed)
    tokenizer = train_bpe(["seven four one", "please hold the line"] * 4, 300)
    network = SledNetwork(
        SledConfig(
            vocab_size=tokenizer.vocab_size,
            max_position_embeddings=256,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            vae_embed_dim=6,
            diffloss_d=1,
            diffloss_w=16,
            noise_channels=4,
            voice_channels=12,
        )
    )
    codec = SpeechCodec(
        SpeechCodecConfig(
            sample_rate=8000, spectral_hop=80, channels=6, mel_bands=20, analysis_window=256, synthesis_window=160,
            encoder_width=8, encoder_latent_width=8, encoder_depth=1, encoder_latent_depth=1, decoder_width=16,
            decoder_latent_depth=1, decoder_depth=1,
        )
    )  # fmt: skip
    for parameter in [*network.parameters(), *codec.parameters()]:  # a fresh head is zero and would say nothing
        torch.nn.init.normal_(parameter, std=0.3)
    pipeline = SledPipeline(
        network.eval(), codec.eval(), tokenizer, defaults=SpeechSettings(max_s=0.4, retries=0), name="tiny"
    )
    time_s = np.arange(8000) / 8000
    sound = (0.3 * np.sin(2 * np.pi * 150 * time_s * (1 + 0.2 * time_s))).astype(np.float32)
    voice = pipeline.voice(np.tile(sound, 2), 8000, name="ann")
    pipeline = SledPipeline(
        pipeline.network, codec, tokenizer, defaults=pipeline.defaults, voices={"ann": voice}, name="tiny"
    )
    return pipeline.save(folder)
