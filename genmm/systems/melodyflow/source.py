"""Sounds that are handed in: checked, made stereo at the codec's rate, and put back where they must stay exact.

Shapes: samples [C, S]; keep masks [T] over latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genmm.core.errors import LimitError, MediaError, UsageError
from genmm.media.audio import Audio
from genmm.systems.melodyflow.request import LONGEST_S, SHORTEST_S

SILENCE = 1e-4
"""Peak below which a sound counts as silence (-80 dB)."""
JOIN_S = 0.02
"""Length of the cross-fade between new and exact samples."""


@dataclass(frozen=True, eq=False)
class Source:
    """A sound as the codec takes it."""

    samples: np.ndarray
    """[C, S] float32 at the codec's rate."""
    notes: tuple[str, ...]
    """What was changed about it."""

    def tensor(self, device: torch.device) -> Tensor:
        """[1, C, S] on a device."""
        return torch.from_numpy(self.samples)[None].to(device)


def prepared(audio: Audio, sample_rate: int, channels: int, longest_s: float = LONGEST_S) -> Source:
    """A sound at the codec's rate and channels.

    Raises: UsageError when it is shorter than half a second, LimitError when it is too long, MediaError when it is
    silent or not finite.
    """
    if not isinstance(audio, Audio):
        raise UsageError(f"give a sound that genmm.media.audio.read_audio made, got {type(audio).__name__}")
    if audio.seconds < SHORTEST_S:
        raise UsageError(f"the sound is {audio.seconds:.2f} s long; at least {SHORTEST_S:g} s are needed")
    if audio.seconds > longest_s:
        raise LimitError(
            f"the sound is {audio.seconds:.0f} s long, the limit is {longest_s:g} s; cut out the part to work on"
        )
    if not np.isfinite(audio.samples).all():
        raise MediaError("the sound holds NaN or infinite samples; read it with read_audio, which repairs them")
    if float(np.abs(audio.samples).max()) < SILENCE:
        raise MediaError("the sound is silent, so there is nothing to work on")
    notes = list(audio.notes)
    if audio.channels != channels:
        notes.append(f"the sound has {audio.channels} channel{'s'[: audio.channels > 1]}; it was mixed to {channels}")
    if audio.sample_rate < sample_rate:
        notes.append(f"the sound has {audio.sample_rate} samples a second; what it lacks above was not invented")
    ready = (audio.stereo() if channels == 2 else audio.mono()).resampled(sample_rate)
    return Source(np.ascontiguousarray(ready.samples, dtype=np.float32), tuple(notes))


def keep_mask(frames: int, hop_samples: int, sample_rate: int, spans: Sequence[tuple[float, float]]) -> Tensor:
    """[T] float32: 0 for frames that touch a region to make anew, 1 elsewhere.

    Raises: UsageError when nothing of the sound would stay.
    """
    keep = torch.ones(frames)
    for start_s, end_s in spans:
        first = int(start_s * sample_rate // hop_samples)
        last = int(-(-end_s * sample_rate // hop_samples))
        keep[first:last] = 0.0
    if not bool(keep.any()):
        raise UsageError("the regions cover the whole sound, so nothing would stay; generate new music instead")
    return keep


def reinserted(
    made: np.ndarray, source: np.ndarray, spans: Sequence[tuple[float, float]], sample_rate: int
) -> np.ndarray:
    """The made sound [C, S] inside the regions and the exact source samples outside, joined by short cross-fades.

    The fades lie inside the regions, so that outside every sample is the source's.
    """
    total = source.shape[1]
    share = np.zeros(total, dtype=np.float32)  # of the made sound
    for start_s, end_s in spans:
        first, last = round(start_s * sample_rate), min(total, round(end_s * sample_rate))
        fade = min(round(JOIN_S * sample_rate), max(1, (last - first) // 2))
        ramp = np.linspace(0.0, 1.0, fade + 2, dtype=np.float32)[1:-1]
        share[first:last] = 1.0
        if first > 0:
            share[first : first + fade] = ramp
        if last < total:
            share[last - fade : last] = ramp[::-1]
    return np.where(share == 0.0, source, source + share * (made[:, :total] - source)).astype(np.float32)
