"""All that is known about one video before it is scored: a row of features a second, its cuts, what was odd.

Letters: T steps of one second, Dv and Da sizes of the visual and the audio features.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from genmm.core.errors import DataError, ShapeError
from genmm.core.files import atomic_path
from genmm.core.weights import WeightLimits, read_header, read_tensors

__all__ = ["STEP_S", "FeatureTable", "load_table", "save_table"]

STEP_S = 1.0
"""Length of a step in seconds."""
TABLE_LIMITS = WeightLimits()


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of one video. Either stream may be missing, not both."""

    visual: np.ndarray | None
    """[T, Dv] float32."""
    audio: np.ndarray | None
    """[T, Da] float32; zeros where `audio_valid` is False."""
    audio_valid: np.ndarray | None
    """[T] bool, steps in which there is sound at all."""
    motion: np.ndarray | None
    """[T, 8] float32, see `motion_features`; for the heuristic scores."""
    loudness_db: np.ndarray | None
    """[T] float32, mean loudness in dB of full scale."""
    duration_s: float
    """Length in seconds; the last step may be shorter than the others."""
    cuts_s: tuple[float, ...] = ()
    """Times at which new shots begin."""
    source: str = ""
    """Name of the file."""
    info: dict[str, Any] | None = None
    """Frame rate, size and codecs of the file."""
    notes: tuple[str, ...] = ()
    """Sentences about what was odd."""
    extractor: str = "handcrafted-1"
    """Which features these are."""

    def __post_init__(self) -> None:
        lengths = {len(part) for part in (self.visual, self.audio, self.audio_valid, self.motion) if part is not None}
        if len(lengths) != 1 or 0 in lengths or (self.visual is None and self.audio is None):
            raise ShapeError(f"the parts of a feature table need one length above 0, got {sorted(lengths)}")

    @property
    def steps(self) -> int:
        """T."""
        return len(self.visual if self.visual is not None else self.audio)  # type: ignore[arg-type]

    @property
    def has_picture(self) -> bool:
        """Whether there are visual features."""
        return self.visual is not None

    @property
    def has_sound(self) -> bool:
        """Whether any step has sound."""
        return self.audio is not None and bool(self.audio_valid.any())  # type: ignore[union-attr]

    def only(self, modality: str) -> FeatureTable:
        """The same video with pictures alone ("v"), sound alone ("a"), or both ("av")."""
        if modality == "v":
            return replace(self, audio=None, audio_valid=None, loudness_db=None)
        if modality == "a":
            return replace(self, visual=None, motion=None)
        return self


def save_table(path: str | os.PathLike[str], table: FeatureTable) -> Path:
    """Write a table as one .safetensors file (features as float16), whole or not at all."""
    path = Path(path)
    tensors = {}
    for name in ("visual", "audio", "motion", "loudness_db", "audio_valid"):
        part = getattr(table, name)
        if part is not None:
            tensor = torch.from_numpy(np.ascontiguousarray(part))
            tensors[name] = tensor.to(torch.uint8) if name == "audio_valid" else tensor.half()
    facts = {
        "duration_s": table.duration_s,
        "cuts_s": list(table.cuts_s),
        "source": table.source,
        "info": table.info or {},
        "notes": list(table.notes),
        "extractor": table.extractor,
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"table": json.dumps(facts)})
    return path


def load_table(path: str | os.PathLike[str]) -> FeatureTable:
    """Read a table that `save_table` wrote. Raises: DataError, CheckpointError when it is something else."""
    path = Path(path)
    text = read_header(path, TABLE_LIMITS).metadata.get("table")
    if text is None:
        raise DataError(f"{path} is no feature table; make it again with `genmm highlight`")
    facts = json.loads(text)
    tensors = read_tensors(path, dtype=torch.float32, limits=TABLE_LIMITS)
    parts = {name: tensors[name].numpy() if name in tensors else None for name in ("visual", "audio", "motion")}
    loudness, valid = tensors.get("loudness_db"), tensors.get("audio_valid")
    return FeatureTable(
        **parts,
        loudness_db=None if loudness is None else loudness.numpy(),
        audio_valid=None if valid is None else valid.numpy().astype(bool),
        duration_s=float(facts["duration_s"]),
        cuts_s=tuple(facts["cuts_s"]),
        source=facts["source"],
        info=facts["info"],
        notes=tuple(facts["notes"]),
        extractor=facts["extractor"],
    )
