"""Pairs of frames of one moment for self-supervised training: real clips, emoji on changing grounds, rendered scenes.

Letters: H W pixels.
"""

from __future__ import annotations

import csv
import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import GenerativeData
from datamodules.image_sources import EMOJI_STYLES
from datamodules.rendered_video import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Background, Mover, Scene, Shot
from datamodules.rendered_video import render_scene as render
from datamodules.sampler import Pick
from genmm.core.errors import ConfigError, GenmmError
from genmm.core.paths import data_home
from genmm.core.seeds import derive_seed
from genmm.media.image import read_image
from genmm.media.video import iter_frames

__all__ = ["FramePairs", "clip_frames", "random_scene"]

log = logging.getLogger(__name__)
CLIP_FPS, CLIP_SIDE = 4.0, 160
"""At what rate and size real clips are kept in memory."""
HELD_OUT = 8
"""Every so-many-th emoji is for validation, and so many times fewer scenes than for training."""
FIRST_SCENE = {"train": 0, "val": 10**6, "test": 2 * 10**6}
"""Split -> number of its first scene."""


def random_scene(rng: np.random.Generator, seconds: float = 2.0, movers: tuple[int, int] = (1, 4)) -> Scene:
    """A scene with random ground and shapes, for pictures without questions."""
    ground = Background(
        kind=str(rng.choice(BACKGROUNDS)),
        colour=str(rng.choice(list(COLOURS))),
        contrast=float(rng.uniform(0.1, 0.6)),
        drift=float(rng.choice([0.0, 0.1])),
    )
    shapes = tuple(
        Mover(
            shape=str(rng.choice(SHAPES)),
            colour=str(rng.choice(list(COLOURS))),
            place=(float(rng.uniform(0.15, 0.85)), float(rng.uniform(0.15, 0.85))),
            size=float(rng.uniform(0.15, 0.45)),
            motion=str(rng.choice(list(DIRECTIONS))),
            speed=float(rng.uniform(0.1, 0.5)),
            bounces=True,
        )
        for _ in range(int(rng.integers(*movers, endpoint=True)))
    )
    return Scene(seconds=seconds, shots=(Shot(background=ground),), movers=shapes, seed=int(rng.integers(2**31)))


def clip_frames(folder: Path) -> list[np.ndarray]:
    """Frames [T, H, W, 3] uint8 of every readable clip of a folder, small and at 4 frames a second."""
    clips = []
    for path in sorted(p for p in folder.glob("*") if p.suffix in (".mp4", ".webm", ".mkv", ".mov")):
        try:
            with iter_frames(path, fps=CLIP_FPS, max_side=CLIP_SIDE) as reader:
                clips.append(np.stack([frame.image for frame in reader]))
        except GenmmError as error:
            log.warning("%s is left out: %s", path.name, error)
    return clips


class Pairs:
    """Two crops of nearby moments; everything random comes from the pick's seed."""

    def __init__(self, clips: list[np.ndarray], emoji: list[np.ndarray], scenes: int, side: int, first: int) -> None:
        self.clips, self.emoji, self.side, self.first = clips, emoji, side, first
        self.counts = (sum(map(len, clips)), len(emoji), scenes)
        self._owner = np.repeat(np.arange(len(clips)), [len(c) for c in clips]) if clips else np.zeros(0, np.int64)
        self.lengths = [1] * sum(self.counts)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, pick: Pick) -> tuple[Tensor, Tensor]:
        rng, index = np.random.default_rng(pick.seed), pick.index
        if index < self.counts[0]:
            pair = self._from_clip(int(self._owner[index]), rng)
        elif index < self.counts[0] + self.counts[1]:
            pair = self._from_emoji(self.emoji[index - self.counts[0]], rng)
        else:
            pair = self._from_scene(self.first + index - self.counts[0] - self.counts[1])
        if rng.random() < 0.5:
            pair = tuple(frame[:, ::-1] for frame in pair)
        return tuple(torch.from_numpy(np.ascontiguousarray(f.transpose(2, 0, 1))) for f in pair)  # type: ignore

    def _from_clip(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        clip, side = self.clips[number], self.side
        t = int(rng.integers(len(clip)))
        u = min(len(clip) - 1, t + int(rng.integers(0, 3)))
        height, width = clip.shape[1:3]
        top, left = int(rng.integers(max(1, height - side + 1))), int(rng.integers(max(1, width - side + 1)))
        frames = []
        for moment in (t, u):
            dy, dx = (int(v) for v in rng.integers(-8, 9, 2))
            y, x = np.clip(top + dy, 0, max(0, height - side)), np.clip(left + dx, 0, max(0, width - side))
            part = clip[moment, y : y + side, x : x + side]
            frames.append(np.pad(part, ((0, side - part.shape[0]), (0, side - part.shape[1]), (0, 0)), mode="edge"))
        return tuple(frames)

    def _from_emoji(self, emoji: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Two looks at a picture on one ground: elsewhere in the frame and perhaps at half size."""
        ground = rng.integers(0, 256, 3)
        frames = []
        for _ in range(2):
            picture = emoji[:: int(rng.integers(1, 3))]
            picture = picture[:, :: max(1, round(emoji.shape[0] / picture.shape[0]))]
            canvas = np.empty((self.side, self.side, 3), np.uint8)
            canvas[:] = ground
            h, w = (min(self.side, s) for s in picture.shape[:2])
            y, x = (int(rng.integers(self.side - s + 1)) for s in (h, w))
            white = (picture[:h, :w] > 250).all(-1, keepdims=True)
            canvas[y : y + h, x : x + w] = np.where(white, canvas[y : y + h, x : x + w], picture[:h, :w])
            frames.append(canvas)
        return tuple(frames)

    def _from_scene(self, number: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng(derive_seed(0, "scene", number))
        frames, _, _ = render(random_scene(rng, seconds=0.8), fps=2.5, side=self.side)
        return frames[0], frames[1]


class FramePairs(GenerativeData):
    """{"first", "second"}: two views [B, 3, side, side] uint8 of nearby moments."""

    def __init__(
        self,
        data: str | None = None,
        clips: bool = True,
        emoji: int = 2000,
        scenes: int = 4000,
        side: int = 64,
        batch_size: int = 64,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            data: Folder with video_clips and images_emoji; null means $GENMM_DATA or its default place.
            clips: Whether real clips take part; they are left out with a warning where the folder is missing.
            emoji: Most emoji pictures; 0 for none.
            scenes: Rendered scenes in the training data.
            side: Side of a frame in pixels, a multiple of 8.
            batch_size: Pairs in a batch.
            workers: Processes that read data.
            seed: Seed of order and crops.
        """
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        if side % 8 or side < 16 or scenes < 0 or emoji < 0:
            raise ConfigError(
                f"side must be a multiple of 8 from 16 on, scenes and emoji at least 0; got {side}, {scenes}"
            )
        self.home = Path(data) if data else data_home()
        self.use_clips, self.emoji, self.scenes, self.side = clips, emoji, scenes, side
        self._clips: list[np.ndarray] | None = None
        self._pictures: list[np.ndarray] | None = None

    def dataset(self, split: str) -> Pairs | None:
        """Pairs of a split, None where it is empty.

        Validation has the last eighth of each clip, other emoji and other scenes. The test has scenes alone, again
        other ones: clips and emoji all take part in training or validation.
        """
        clips, emoji = self._pictures_of(split) if split != "test" else ([], [])
        scenes = self.scenes if split == "train" else self.scenes // HELD_OUT
        pairs = Pairs(clips, emoji, scenes, self.side, FIRST_SCENE[split])
        return pairs if len(pairs) else None

    def _pictures_of(self, split: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Clips and emoji of "train" or "val"."""
        self._read()
        hold = split == "val"
        clips = [
            c[-max(1, len(c) // HELD_OUT) :] if hold else c[: max(1, len(c) - len(c) // HELD_OUT)] for c in self._clips
        ]
        return clips, [e for n, e in enumerate(self._pictures) if (n % HELD_OUT == 0) == hold]

    def _read(self) -> None:
        if self._clips is not None:
            return
        folder = self.home / "video_clips"
        self._clips = clip_frames(folder) if self.use_clips and folder.is_dir() else []
        self._pictures = read_emoji(self.home / "images_emoji", self.emoji)
        if self.use_clips and not self._clips:
            log.warning("there are no real clips in %s; training goes on with the rest", folder)

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        return {name: torch.stack([item[i] for item in items]) for i, name in enumerate(("first", "second"))}


def read_emoji(folder: Path, most: int) -> list[np.ndarray]:
    """Pictures [64, 64, 3] uint8 spread over the freely licensed styles of the collection; none where it is missing."""
    archive, table = folder / "images.zip", folder / "metadata.tsv"
    if not most or not archive.is_file() or not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = [row["file"] for row in rows if row["style"] in EMOJI_STYLES]
    step = max(1, len(names) // most)
    with zipfile.ZipFile(archive) as box:
        return [np.asarray(read_image(io.BytesIO(box.read(name)).getvalue())) for name in names[::step][:most]]
