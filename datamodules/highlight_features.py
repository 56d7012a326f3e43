"""Windows of feature sequences for RASL: computed scenes, a folder of videos or of feature tables, TVSum.

Features of a video are extracted once and kept under the hash of the file's content.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.base import GenerativeData
from datamodules.highlight_tables import rendered_tables
from datamodules.rendered_video_events import TEST_FAMILIES
from datamodules.sampler import Pick
from datamodules.tvsum import read_tvsum
from genmm.core.errors import ConfigError, DataError, GenmmError
from genmm.core.paths import data_home, genmm_home
from genmm.systems.rasl.audio_features import AUDIO_SIZE
from genmm.systems.rasl.feature_table import FeatureTable, load_table
from genmm.systems.rasl.footage import VIDEO_SUFFIXES, cached_table
from genmm.systems.rasl.inputs import Inputs, network_inputs
from genmm.systems.rasl.windows import stack_windows, window_of

__all__ = ["HighlightFeatures", "HighlightSources", "folder_tables"]

log = logging.getLogger(__name__)
SEED_STEPS = {"train": 0, "val": 1000, "test": 2000}
"""Split -> how far from the seed of the training the seed of its scenes is."""


@dataclass(frozen=True, kw_only=True)
class HighlightSources:
    """Where the training videos come from; several may be given together."""

    rendered: int = 0
    """Computed scenes with known highlights."""
    families: tuple[str, ...] = ("A", "B", "C", "D")
    """Families of the training scenes; validation takes the same, testing always E and F."""
    rendered_validation: int = 16
    """Computed scenes for validation and as many for testing, where there are any for training."""
    rendered_seconds: float | None = None
    """Length of every computed scene, at least 20; null draws 40 to 80."""
    folder: str | None = None
    """Folder of videos, or of feature tables (.safetensors); every tenth one is for validation, none for testing."""
    tvsum: bool = False
    """The TVSum features of the data folder, without their labels."""
    cache: str | None = None
    """Folder for extracted features; null means features/ in the home of genmm."""

    def __post_init__(self) -> None:
        if self.rendered < 0 or self.rendered_validation < 1:
            raise ConfigError("data.sources needs rendered of at least 0 and rendered_validation of at least 1")
        if not (self.rendered or self.folder or self.tvsum):
            raise ConfigError("data.sources is empty: give rendered, folder or tvsum")

    def cache_folder(self) -> Path:
        """Where features are kept."""
        return Path(self.cache).expanduser() if self.cache else genmm_home() / "features"


class Windows:
    """Windows of feature sequences; each video comes `repeats` times in an epoch, at another place each time."""

    def __init__(self, videos: Sequence[Inputs], window: int, repeats: int, sound: bool, drop_sound: float) -> None:
        self.videos, self.window, self.repeats = list(videos), window, repeats
        self.sound, self.drop_sound = sound, drop_sound
        self.lengths = [window] * (len(self.videos) * repeats)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, pick: Pick) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(pick.seed)
        video = self.videos[pick.index % len(self.videos)]
        return window_of(video, self.window, generator, sound=self.sound, drop_sound=self.drop_sound)


class HighlightFeatures(GenerativeData):
    """Batches of windows: visual [B, T, Dv], mask [B, T], and audio, audio_mask, audible where sound takes part."""

    def __init__(
        self,
        sources: HighlightSources | None = None,
        window: int = 64,
        repeats: int = 4,
        sound: bool = True,
        drop_sound: float = 0.1,
        batch_size: int = 24,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            sources: Where the videos come from.
            window: Steps (seconds) of a window.
            repeats: Windows of each video in an epoch.
            sound: Whether the sound takes part; false trains on pictures alone, for comparison.
            drop_sound: Chance that the sound of a window is left out, in [0, 1).
            batch_size: Windows in a batch.
            workers: Processes that read data; features are in memory, so 0 is best.
            seed: Seed of scenes, windows and order.
        """
        super().__init__(batch_size=batch_size, bucket_batches=1_000_000, workers=workers, seed=seed)
        if window < 8 or repeats < 1 or not 0 <= drop_sound < 1:
            raise ConfigError(
                f"data: window >= 8, repeats >= 1 and drop_sound in [0, 1) needed, got {window}, {repeats}"
            )
        self.sources = sources or HighlightSources(rendered=160)
        self.window, self.repeats, self.sound, self.drop_sound = window, repeats, sound, drop_sound
        self._videos: dict[str, list[Inputs]] = {}

    def videos(self, split: str) -> list[Inputs]:
        """The videos of a split; also read by the task, for its statistics."""
        if split not in self._videos:
            self._videos[split] = [network_inputs(table) for table in self._tables(split)]
        return self._videos[split]

    def dataset(self, split: str) -> Windows | None:
        """Windows of a split; None for "test" without computed scenes, and for "val" of TVSum alone."""
        videos = [video for video in self.videos(split) if video.visual is not None]
        if not videos:
            return None
        repeats = self.repeats if split == "train" else 1
        return Windows(videos, self.window, repeats, self.sound, self.drop_sound if split == "train" else 0.0)

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return stack_windows(items, AUDIO_SIZE)

    def _tables(self, split: str) -> list[FeatureTable]:
        sources, tables = self.sources, []
        if sources.rendered:
            made = rendered_tables(
                sources.cache_folder() / "rendered",
                sources.rendered if split == "train" else sources.rendered_validation,
                families=TEST_FAMILIES if split == "test" else sources.families,
                seed=self.seed + SEED_STEPS[split],
                seconds=sources.rendered_seconds,
            )
            tables += [item.table for item in made]
        if sources.folder and split != "test":
            tables += folder_tables(sources.folder, split, sources.cache_folder())
        if sources.tvsum and split == "train":
            tables += [video.table for video in read_tvsum(data_home() / "tvsum")]
        return tables


def folder_tables(folder: str | os.PathLike[str], split: str, cache: Path) -> list[FeatureTable]:
    """Features of all videos below a folder, extracted when they are new; files that cannot be read are left out.

    Raises: DataError when there is none.
    """
    root = Path(folder).expanduser()
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in (*VIDEO_SUFFIXES, ".safetensors"))
    chosen = [p for p in files if _is_held_out(p.name) == (split != "train")]
    tables: list[Any] = []
    for path in chosen:
        try:
            tables.append(load_table(path) if path.suffix == ".safetensors" else cached_table(path, cache))
        except GenmmError as error:
            log.warning("left out: %s", error)
    if not tables and split == "train":
        raise DataError(f"{root} holds no video that can be read; accepted: {', '.join(VIDEO_SUFFIXES)}")
    return tables


def _is_held_out(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % 10 == 0
