"""A tiny untrained music model, and a sound, for the tests of this folder."""

from __future__ import annotations

import numpy as np
import torch

from genmm.media.audio import Audio
from genmm.systems.melodyflow.config import FlowConfig
from genmm.systems.melodyflow.network import FlowNetwork
from genmm.systems.melodyflow.pipeline import MelodyFlowPipeline
from genmm.systems.melodyflow.prompts import CaptionReader
from genmm.systems.melodyflow.request import MusicSettings
from genmm.systems.melodyflow.score import SCORE_FEATURES
from genmm.systems.melodyflow.spectral_codec import SpectralCodec, SpectralCodecConfig
from genmm.systems.melodyflow.text import CaptionText, CaptionTextConfig

FAST = {"steps": 4, "edit_steps": 3, "guidance": 1.0}


def tiny_codec() -> SpectralCodec:
    """8 kHz stereo, 12.5 latents a second, 8 channels."""
    sizes = SpectralCodecConfig(
        sample_rate=8000, spectral_hop=80, analysis_window=512, onset_window=256, synthesis_window=320, channels=8,
        mel_bands=16, onset_bands=8, semitones=60, pitch_window=1024, width=16, latent_width=16, encoder_depth=1,
        latent_depth=1, decoder_depth=1,
    )  # fmt: skip
    return SpectralCodec(sizes).eval().requires_grad_(False)


def tiny_pipeline() -> MelodyFlowPipeline:
    """An untrained model whose windows last 4 seconds."""
    torch.manual_seed(5)
    network = FlowNetwork(
        FlowConfig(dim=32, latent_dim=8, num_heads=2, num_layers=4, hidden_scale=2, cond_dim=16,
                   score_features=SCORE_FEATURES, global_text=True)
    ).eval().requires_grad_(False)  # fmt: skip
    text = CaptionText(CaptionTextConfig(width=16, layers=1, heads=2)).eval().requires_grad_(False)
    defaults = MusicSettings(**FAST)
    return MelodyFlowPipeline(network, tiny_codec(), CaptionReader(text), window_s=4.0, defaults=defaults)


def chirp(seconds: float = 2.0, rate: int = 8000, channels: int = 2) -> Audio:
    """A rising tone."""
    t = np.arange(round(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (200 + 100 * t) * t)
    return Audio(np.stack([tone * (1 - 0.3 * c) for c in range(channels)]).astype(np.float32), rate)
