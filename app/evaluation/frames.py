"""Teacher-forced measurement of a SLED model on real recordings: energy score and calibration.

Letters: T frames, D latent channels, C noise channels, M draws.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from datamodules.speech_latents import edges_of_speech
from genmm.core.seeds import derive_seed
from genmm.media.audio import resample
from genmm.metrics.calibration import CalibrationMeter, CalibrationReport
from genmm.metrics.recogniser import SAMPLE_RATE
from genmm.systems.sled.pipeline import SledPipeline
from genmm.systems.sled.text import model_text, spoken_text
from genmm.systems.sled.voice import Voice


@torch.inference_mode()
def measure_frames(
    pipeline: SledPipeline, items: Iterable[tuple[np.ndarray, str, Voice | None]], *, draws: int, seed: int
) -> CalibrationReport | None:
    """Energy score and r over all frames of 16 kHz recordings [S] with their texts; None when none was usable.

    The voice of an item should come from another recording, as in training. The noise follows from the seed.
    """
    meter, frames = CalibrationMeter(), 0
    config = pipeline.network.config
    for number, (samples, text, voice) in enumerate(items):
        latents = encode_speech(pipeline, samples)  # [1, T, D]
        ids = pipeline.tokenizer.encode(model_text(spoken_text(text, pipeline.text_rules), pipeline.text_rules))
        count = latents.shape[1]
        if not count or len(ids) + count > config.max_position_embeddings:
            continue
        generator = torch.Generator().manual_seed(derive_seed(seed, "frames", number))
        noise = torch.randn(draws * count, config.noise_channels, generator=generator)
        drawn = _draw(pipeline, ids, latents, voice, noise.to(pipeline.device)).view(draws, count, -1)
        meter.update(drawn, latents[0], (torch.arange(count) + 0.5) / count)
        frames += count
    return meter.report() if frames else None


def _draw(
    pipeline: SledPipeline, ids: list[int], latents: torch.Tensor, voice: Voice | None, noise: torch.Tensor
) -> torch.Tensor:
    """Draws [M T, D] for each true frame, draw by draw; latents [1, T, D], noise [M T, C]."""
    network, device, dtype = pipeline.network, pipeline.device, pipeline.engine.dtype
    text = torch.tensor([ids], device=device)
    statistics = voice.statistics[None].to(device, dtype) if voice and network.config.voice_channels else None
    forced = network.teacher_forcing(
        text,
        torch.ones_like(text, dtype=torch.bool),
        latents.to(dtype),
        torch.ones(latents.shape[:2], dtype=torch.bool, device=device),
        voice=statistics,
        drop_text=torch.zeros(1, dtype=torch.bool, device=device),
    )
    return network.head(forced.z[0].repeat(len(noise) // latents.shape[1], 1), noise.to(dtype))


def encode_speech(pipeline: SledPipeline, samples: np.ndarray) -> torch.Tensor:
    """Latents [1, T, D] float32 of a 16 kHz recording [S], silence at its ends cut as in training."""
    inside = samples[edges_of_speech(np.round(samples * 32767.0).astype(np.int16), SAMPLE_RATE)]
    waveform = torch.from_numpy(np.ascontiguousarray(resample(inside, SAMPLE_RATE, pipeline.sample_rate)))
    return pipeline.codec.encode(waveform[None].to(pipeline.device)).float()


@torch.inference_mode()
def through_codec(pipeline: SledPipeline, samples: np.ndarray) -> np.ndarray:
    """A 16 kHz recording [S] encoded and decoded again, at 16 kHz and of the same length."""
    waveform = torch.from_numpy(np.ascontiguousarray(resample(samples, SAMPLE_RATE, pipeline.sample_rate)))
    latents = pipeline.codec.encode(waveform[None].to(pipeline.device))
    decoded = pipeline.codec.decode(latents)[0].float().cpu().numpy()
    return resample(decoded, pipeline.sample_rate, SAMPLE_RATE)[: len(samples)]
