"""From a feature table to what the network reads: every video measured against itself.

Letters: T steps, Dv and Da sizes of the features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genmm.systems.rasl.audio_features import SILENCE_DB
from genmm.systems.rasl.feature_table import FeatureTable

__all__ = ["Inputs", "centred", "network_inputs"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Centred features of one video."""

    visual: np.ndarray | None
    """[T, Dv] float32, None without pictures."""
    audio: np.ndarray | None
    """[T, Da] float32, zero where there is no sound; None without sound."""
    audio_valid: np.ndarray | None
    """[T] bool, steps with sound."""
    audible: np.ndarray | None
    """[T] bool, steps that are louder than silence; only these teach what belongs together."""

    @property
    def steps(self) -> int:
        """T."""
        return len(self.visual if self.visual is not None else self.audio)  # type: ignore[arg-type]


def centred(rows: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Rows [T, D] minus their median over the valid steps; steps that are not valid become 0.

    What stays the same through a video (its place, its light, the level of its recording) says nothing about which of
    its moments stand out; without this step the latents spend themselves on telling videos apart.
    """
    kept = rows if valid is None else rows[valid]
    if not len(kept):
        return np.zeros_like(rows, np.float32)
    out = (rows - np.median(kept, axis=0)).astype(np.float32)
    if valid is not None:
        out[~valid] = 0.0
    return out


def network_inputs(table: FeatureTable) -> Inputs:
    """Centre both streams of a table; a stream in which nothing is valid counts as missing."""
    visual = None if table.visual is None else centred(table.visual)
    if not table.has_sound:
        return Inputs(visual, None, None, None)
    valid = np.asarray(table.audio_valid, bool)
    loud = np.ones_like(valid) if table.loudness_db is None else table.loudness_db > SILENCE_DB
    return Inputs(visual, centred(table.audio, valid), valid, valid & loud)  # type: ignore[arg-type]
