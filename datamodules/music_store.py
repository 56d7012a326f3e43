"""Rendered music kept on disk, so that a training reads instead of rendering: samples, captions, splits.

Letters: N pieces, C = 2 channels, S samples.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from datamodules.rendered_music import MusicRenderer
from datamodules.rendered_music_sounds import SoundBank
from datamodules.rendered_music_synthesis import RATE
from datamodules.source_files import sources_digest
from genmm.core.errors import ConfigError, DataError
from genmm.core.files import write_json
from genmm.core.paths import data_home
from genmm.media.audio import read_audio
from genmm.systems.melodyflow.captions import Caption

log = logging.getLogger(__name__)
FREE_LICENCES = ("CC BY ", "CC-BY 4.0", "CC0", "public domain")
"""Starts of the licences of real tracks that shipped weights may be trained on; share-alike and GPL are left out."""
TEST_SEED_STEP = 1000
"""Pieces for testing come from a seed this far from the one of training and validation."""


@dataclass(frozen=True, kw_only=True)
class MusicSources:
    """What a stored set is made of."""

    rendered: int = 500
    """Rendered pieces for training."""
    held_out: int = 40
    """Rendered pieces of held-out combinations, split "test": for validation, and as many others for testing."""
    seconds: float = 10.24
    """Length of every piece in seconds."""
    real: bool = False
    """Whether freely licensed real tracks (music_tracks) are cut into pieces and added; they have no caption."""
    seed: int = 1
    """First seed."""

    def __post_init__(self) -> None:
        if self.rendered < 1 or self.held_out < 0 or not 0.5 <= self.seconds <= 60.0:
            raise ConfigError(
                f"data needs at least 1 rendered piece of 0.5 to 60 seconds, got {self.rendered}, {self.seconds}"
            )

    def fingerprint(self, sounds: SoundBank) -> str:
        """Ten hex digits that change with the fields, with the samples that `sounds` plays, and with the real tracks.

        Raises: DataError when real tracks are asked for and not there.
        """
        files = [(path.name, path) for path in sounds.files]
        if self.real:
            files += [(row["file"], data_home() / "music_tracks" / row["file"]) for row in real_tracks()]
        plan = ["music-2", asdict(self), sources_digest(files)]
        return hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:10]

    def for_testing(self) -> MusicSources:
        """As many held-out pieces again, from other seeds; real tracks have no third part, so there are none."""
        return replace(self, rendered=1, real=False, seed=self.seed + TEST_SEED_STEP)


@dataclass(frozen=True)
class MusicStore:
    """Pieces of one length in a memory-mapped file."""

    samples: np.ndarray
    """[N, C, S] int16."""
    table: list[dict[str, Any]] = field(default_factory=list)
    """Split, seed, caption ({} for real tracks) and name of each piece."""

    def __len__(self) -> int:
        return len(self.table)

    def indices(self, split: str) -> list[int]:
        """Positions of the pieces of one split."""
        return [i for i, row in enumerate(self.table) if row["split"] == split]

    def waveform(self, index: int) -> np.ndarray:
        """[C, S] float32 of one piece."""
        return self.samples[index].astype(np.float32) / 32768.0

    def caption(self, index: int) -> Caption:
        """The caption of one piece; all open for a real track."""
        return Caption.from_dict(self.table[index]["caption"])

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map a stored set. Raises: DataError when it is incomplete."""
        try:
            table = json.loads((folder / "index.json").read_text(encoding="utf8"))
            samples = np.load(folder / "samples.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"the stored music in {folder} cannot be read ({error}); delete that folder") from None
        return cls(samples, table)


def open_or_build_music(sources: MusicSources, cache: Path, sounds: SoundBank | None = None) -> MusicStore:
    """The stored set of `sources`, rendered first when it is not there; the index is written last."""
    sounds = sounds or SoundBank()
    folder = cache / f"music-{sources.fingerprint(sounds)}"
    if (folder / "index.json").is_file():
        return MusicStore.open(folder)
    folder.mkdir(parents=True, exist_ok=True)
    real = list(_real_pieces(sources)) if sources.real else []
    count, length = sources.rendered + sources.held_out, round(sources.seconds * RATE)
    renderer = MusicRenderer(sounds, seconds=sources.seconds)
    shape = (count + len(real), 2, length)
    samples = np.lib.format.open_memmap(folder / "samples.npy", mode="w+", dtype=np.int16, shape=shape)
    table: list[dict[str, Any]] = []
    for index in range(count):
        split = "train" if index < sources.rendered else "test"
        piece = renderer.piece(sources.seed * 10_000_000 + index, split=split)
        samples[index] = np.round(piece.samples * 32767.0).astype(np.int16)
        table.append({"split": split, "seed": piece.seed, "caption": piece.caption.to_dict(), "name": ""})
        if (index + 1) % 200 == 0:
            log.info("%d of %d pieces rendered", index + 1, count)
    for index, (name, split, waveform) in enumerate(real, start=count):
        samples[index] = np.round(np.clip(waveform, -1, 1) * 32767.0).astype(np.int16)
        table.append({"split": split, "seed": -1, "caption": {}, "name": name})
    samples.flush()
    write_json(folder / "index.json", table)
    return MusicStore.open(folder)


def real_tracks(root: Path | None = None, *, free_only: bool = True) -> list[dict[str, str]]:
    """Rows of the music_tracks table; `free_only` leaves out what shipped weights may not be trained on.

    Raises: DataError when the set is not there.
    """
    table = (data_home() if root is None else root) / "music_tracks" / "metadata.tsv"
    if not table.is_file():
        raise DataError(f"there are no real tracks at {table.parent}; set GENMM_DATA to the data folder")
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row for row in rows if not free_only or row["licence"].startswith(FREE_LICENCES)]


def _real_pieces(sources: MusicSources) -> list[tuple[str, str, np.ndarray]]:
    """Name, split and samples [2, S] of pieces of the free tracks; every fifth track is kept for tests."""
    pieces, length = [], round(sources.seconds * RATE)
    for number, row in enumerate(real_tracks()):
        audio = read_audio(data_home() / "music_tracks" / row["file"], sample_rate=RATE).stereo()
        rms = float(np.sqrt(np.mean(audio.samples**2)))
        scaled = audio.samples * (0.1 / max(rms, 1e-4))
        for start in range(0, scaled.shape[1] - length + 1, length):
            pieces.append((row["file"], "test" if number % 5 == 4 else "train", scaled[:, start : start + length]))
    return pieces
