"""TVSum: features and annotations of videos, as they lie in the shared data folder; for evaluation only.

Letters: n clips of two seconds, U annotators, T seconds.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genmm.core.errors import DataError
from genmm.systems.rasl.feature_table import FeatureTable

__all__ = ["TvSumVideo", "read_tvsum"]


@dataclass(frozen=True, eq=False)
class TvSumVideo:
    """One video."""

    name: str
    """YouTube id."""
    category: str
    """One of the ten of TVSum, such as "VT"."""
    table: FeatureTable
    """Its features: [T, 296 + 8], no sound."""
    annotations: np.ndarray
    """[n, U] importance, 1 to 5."""

    def per_clip(self, steps: np.ndarray) -> np.ndarray:
        """Values of the seconds [T] or [T, D] averaged over the two seconds of each clip: [n] or [n, D]."""
        count = len(self.annotations)
        values = np.asarray(steps, np.float64)[: 2 * count]
        return values.reshape(count, 2, *values.shape[1:]).mean(1)


def read_tvsum(folder: str | os.PathLike[str]) -> list[TvSumVideo]:
    """All videos of `tvsum_*.npz` in a folder. Raises: DataError when there is none or it is damaged."""
    folder = Path(folder)
    files = sorted(folder.glob("tvsum_*.npz"))
    if not files:
        raise DataError(
            f"there is no tvsum_*.npz in {folder}; the annotations are in github.com/yalesong/tvsum, the features are "
            "computed as docs/methods/rasl.md describes"
        )
    videos = []
    for path in files:
        try:
            videos += _videos(path)
        except (KeyError, ValueError, IndexError, OSError) as error:
            raise DataError(f"{path} is not a TVSum feature file: {error}") from error
    return videos


def _videos(path: Path) -> list[TvSumVideo]:
    facts = {}
    side = path.with_suffix(".json")
    if side.is_file():
        listed = json.loads(side.read_text(encoding="utf-8"))
        entries = listed if isinstance(listed, list) else listed.get("videos", [])
        facts = {entry["id"]: entry for entry in entries if isinstance(entry, dict) and "id" in entry}
    videos = []
    with np.load(path, allow_pickle=False) as data:
        parts = {name: data[name] for name in data.files}
    for i, name in enumerate(parts["ids"].astype(str)):
        seconds = slice(*parts["second_offsets"][i : i + 2])
        motion = parts["motion"][seconds].astype(np.float32)
        visual = np.concatenate([parts["features"][seconds].astype(np.float32), motion], axis=1)
        length_s = float(parts["length_s"][i])
        table = FeatureTable(
            visual=visual,
            audio=None,
            audio_valid=None,
            motion=motion,
            loudness_db=None,
            duration_s=length_s,
            source=name,
            info={"fps": facts.get(name, {}).get("fps")},
        )
        marks = parts["annotations"][slice(*parts["clip_offsets"][i : i + 2])]
        videos.append(TvSumVideo(name, str(parts["categories"][i]), table, marks))
    return videos
