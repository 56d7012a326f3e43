"""Comparison of two recordings of one text: sound, melody, voicing and length.

These say how alike two readings are, not which is better; two people who read one text differ too, so report the
figures of two real readings beside them. They are not MOS, DNSMOS or SIM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from genmm.metrics.frames import log_mel, mel_cepstra, speech_frames
from genmm.metrics.pitch import track_pitch
from genmm.metrics.warping import warp

_DB = 20.0 / math.log(10.0)


@dataclass(frozen=True)
class PairedComparison:
    """How a recording differs from a reference that says the same."""

    mel_cepstral_db: float
    """Root mean square difference of the smoothed log spectra in dB, level apart, averaged over the warped path."""
    log_f0_rmse: float | None
    """Root mean square difference of ln F0 where both are voiced; 0.058 is a semitone. None when that never happens."""
    voicing_error: float
    """Share of the path where one is voiced and the other is not."""
    duration_error: float
    """Length from first to last speech frame against the reference: 0.1 is 10 % longer, -0.1 is 10 % shorter."""


def compare_readings(samples: np.ndarray, reference: np.ndarray, sample_rate: int) -> PairedComparison:
    """Compare mono samples [S] with a reference [S'] at one sample rate; silence at the ends is left out."""
    cepstra, f0, voiced = _measured(samples, sample_rate)
    cepstra_0, f0_0, voiced_0 = _measured(reference, sample_rate)
    path = warp(cepstra, cepstra_0)
    here, there = path[:, 0], path[:, 1]
    both = voiced[here] & voiced_0[there]
    steps = np.log(f0[here][both]) - np.log(f0_0[there][both])
    return PairedComparison(
        mel_cepstral_db=float(mel_cepstral_distance(cepstra[here], cepstra_0[there]).mean()),
        log_f0_rmse=float(np.sqrt(np.mean(np.square(steps)))) if len(steps) else None,
        voicing_error=float(np.mean(voiced[here] != voiced_0[there])),
        duration_error=len(cepstra) / len(cepstra_0) - 1.0,
    )


def mel_cepstral_distance(cepstra: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Distance in dB of aligned frames of cepstra without c0: both [T, C] -> [T].

    Source: Kubichek 1993, 10 / ln 10 sqrt(2 sum (mc - mc')^2), where mc is twice our cepstrum.
    """
    return _DB * np.sqrt(2.0 * np.square(cepstra - reference).sum(-1))


def _measured(samples: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cepstra without c0 [T, C], F0 [T] and voicing [T] from the first to the last speech frame."""
    mel = log_mel(samples, sample_rate)
    speech = np.flatnonzero(speech_frames(mel))
    inside = slice(speech[0], speech[-1] + 1)
    track = track_pitch(samples, sample_rate)
    return mel_cepstra(mel)[inside, 1:], track.f0_hz[inside], track.is_voiced[inside]
