"""Latents of captioned music with what the flow model is told about them: rendered and encoded once, then read.

Letters: N pieces, B batch, T latent frames, D latent channels, F score features.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import GenerativeData
from datamodules.rendered_music import MusicRenderer
from datamodules.rendered_music_sounds import SoundBank
from datamodules.rendered_music_synthesis import RATE
from datamodules.sampler import Pick
from datamodules.source_files import sources_digest
from genmm.core.checkpoint import fingerprint, read_config
from genmm.core.errors import CheckpointError, ConfigError
from genmm.core.files import read_json, write_json
from genmm.core.paths import genmm_home
from genmm.systems.melodyflow.captions import Caption
from genmm.systems.melodyflow.latents import MusicCodec
from genmm.systems.melodyflow.score import score_features
from genmm.systems.melodyflow.spectral_codec import SpectralCodec
from genmm.systems.melodyflow.text import caption_codes
from genmm.systems.melodyflow.vae import SeanetCodec

log = logging.getLogger(__name__)
CODECS = {"music-codec": SpectralCodec, "music-vae": SeanetCodec}
"""Kind of codec folder -> class."""
FIRST_SEED = {"train": 5_000_000, "val": 15_000_000, "test": 17_500_000}
"""Split -> seed of its first piece, for data.seed 0; another data.seed moves all of them by 20 million."""
PIECES = {"train": "train", "val": "test", "test": "test"}
"""Split -> what `MusicRenderer` calls its combinations."""
KEPT_EVERY = 100
"""Pieces after which an interrupted build would go on."""


def load_codec(folder: Path | str) -> MusicCodec:
    """The codec of a folder, whichever kind it is. Raises: CheckpointError."""
    kind = read_config(Path(folder))["system"]
    if kind not in CODECS:
        raise CheckpointError(f"{folder} holds no music codec but {kind!r}; train one with configs/melodyflow/codec_*")
    return CODECS[kind].from_folder(folder)


class MusicLatents:
    """Pieces or crops of them, as dicts of tensors; crop and posterior sample follow from the seed of the pick.

    A codec with one deviation for everything gives means and that number, and the training draws the samples. Where
    every value has its own, items are samples already and their deviation is 0.
    """

    def __init__(self, folder: Path, frame_rate: float, crop_frames: int, score: bool) -> None:
        index = read_json(folder / "index.json", max_bytes=200_000_000)
        self.mean = np.load(folder / "mean.npy", mmap_mode="r", allow_pickle=False)  # [N, T, D] float16
        self.deviations: np.ndarray | None = None
        if index["deviation"] is None:
            self.deviations = np.load(folder / "deviation.npy", mmap_mode="r", allow_pickle=False)  # [N, T, D] float16
        self.deviation = float(index["deviation"] or 0.0)
        self.captions = [Caption.from_dict(values) for values in index["captions"]]
        self.frame_rate, self.crop_frames, self.score = frame_rate, min(crop_frames, self.mean.shape[1]), score
        self.seconds = float(index["seconds"])
        self.lengths = [self.crop_frames] * len(self.captions)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, pick: Pick) -> dict[str, Any]:
        spare = self.mean.shape[1] - self.crop_frames
        rng = np.random.default_rng(pick.seed % 2**63)
        start = int(rng.integers(0, spare + 1)) if spare else 0
        caption = self.captions[pick.index]
        features = score_features(
            caption, self.crop_frames, self.frame_rate, start_s=start / self.frame_rate, total_s=self.seconds
        )
        crop = (pick.index, slice(start, start + self.crop_frames))
        latents = self.mean[crop].astype(np.float32)
        if self.deviations is not None:
            latents += self.deviations[crop] * rng.standard_normal(latents.shape, dtype=np.float32)
        return {
            "latents": torch.from_numpy(latents),
            "deviation": self.deviation,
            "caption": caption,
            "score": torch.from_numpy(features),
        }

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [D] of posterior samples, from a thousand pieces or all."""
        step = max(1, len(self) // 1000)
        means = torch.from_numpy(self.mean[::step].astype(np.float32)).flatten(0, 1)  # [N, T, D] -> [N T, D]
        within = self.deviation**2
        if self.deviations is not None:
            within = torch.from_numpy(self.deviations[::step].astype(np.float32)).flatten(0, 1).square().mean(0)
        return means.mean(0), (means.var(0) + within).sqrt()


class MusicLatentData(GenerativeData):
    """Batches of latents [B, T, D] with what is left to add to them, caption codes and score features of music."""

    def __init__(
        self,
        codec: str,
        rendered: int = 4000,
        held_out: int = 128,
        seconds: float = 10.24,
        crop_frames: int = 128,
        batch_size: int = 16,
        cache: str | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            codec: folder of the codec whose latents are learned.
            rendered: pieces for training.
            held_out: pieces of held-out combinations, for validation, and as many others for the test.
            seconds: length of a piece in seconds.
            crop_frames: latent frames of an item; at least as many as a piece has means no cropping.
            batch_size: items in a batch.
            cache: folder of the encoded pieces; null means cache in the home of genmm.
            workers: processes that read.
            seed: seed of order and crops; the pieces themselves follow from it too.
        """
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        if rendered < 1 or held_out < 1 or crop_frames < 1:
            raise ConfigError("data.rendered, data.held_out and data.crop_frames must be at least 1")
        self.codec_folder, self.crop_frames = Path(codec), crop_frames
        self.counts, self.seconds = {"train": rendered, "val": held_out, "test": held_out}, seconds
        self.cache = Path(cache) if cache else genmm_home() / "cache"
        self._sounds: SoundBank | None = None
        self._made: dict[str, MusicLatents] = {}

    def prepare_data(self) -> None:
        """Render and encode once; an interrupted build goes on where it stopped."""
        for split in ("test",) if self.is_testing else ("train", "val"):
            self._folder(split)

    def dataset(self, split: str) -> MusicLatents:
        """The encoded pieces of a split; "val" and "test" have held-out combinations, each from its own seeds."""
        if split not in self._made:
            codec = load_codec(self.codec_folder)
            rate = codec.sample_rate / codec.hop_samples
            self._made[split] = MusicLatents(self._folder(split), rate, self.crop_frames, True)
        return self._made[split]

    def latent_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [D] of the training latents, of posterior samples."""
        return self.dataset("train").statistics()

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """One batch: latents [B, T, D], deviation [B] of the noise that makes them samples, ids, tempi, score."""
        ids, tempi = caption_codes([item["caption"] for item in items])
        return {
            "latents": torch.stack([item["latents"] for item in items]),
            "deviation": torch.tensor([item["deviation"] for item in items]),
            "ids": ids,
            "tempi": tempi,
            "score": torch.stack([item["score"] for item in items]),
        }

    # ------------------------------------------------------------ building

    def _folder(self, split: str) -> Path:
        self._sounds = self._sounds or SoundBank()
        samples = sources_digest((path.name, path) for path in self._sounds.files)
        made_by = [fingerprint(self.codec_folder), samples]
        plan = ["latents-2", *made_by, split, self.counts[split], self.seconds, self.seed]
        folder = self.cache / f"latents-{hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:10]}"
        if not (folder / "index.json").is_file():
            self._build(folder, split)
        return folder

    @torch.inference_mode()
    def _build(self, folder: Path, split: str) -> None:
        """Encode piece after piece into one file; progress.json says how many are there."""
        folder.mkdir(parents=True, exist_ok=True)
        codec, count = load_codec(self.codec_folder), self.counts[split]
        # Our codec's posterior has one deviation by construction, the variational codec's one for each value.
        deviation = codec.config.deviation if isinstance(codec, SpectralCodec) else None
        renderer = MusicRenderer(self._sounds, seconds=self.seconds)
        frames = -(-round(self.seconds * RATE) // codec.hop_samples)
        done, captions = _progress(folder)
        shape = (count, frames, codec.channels)
        names = ["mean"] if deviation is not None else ["mean", "deviation"]
        arrays = {name: _array(folder / f"{name}.npy", shape, is_new=not done) for name in names}
        for index in range(done, count):
            piece = renderer.piece(FIRST_SEED[split] + 20_000_000 * self.seed + index, split=PIECES[split])
            posterior = codec.encode(torch.from_numpy(piece.samples)[None])
            for name, array in arrays.items():
                array[index] = getattr(posterior, name)[0].T.numpy().astype(np.float16)
            captions[index : index + 1] = [piece.caption.to_dict()]
            if (index + 1) % KEPT_EVERY == 0:
                for array in arrays.values():
                    array.flush()
                write_json(folder / "progress.json", {"done": index + 1, "captions": captions})
                log.info("%d of %d pieces encoded", index + 1, count)
        for array in arrays.values():
            array.flush()
        write_json(folder / "index.json", {"deviation": deviation, "captions": captions, "seconds": self.seconds})


def _array(path: Path, shape: tuple[int, ...], *, is_new: bool) -> np.ndarray:
    """A float16 array in a file, new or as an interrupted build has left it."""
    if not is_new:
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)


def _progress(folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """How many pieces an interrupted build has encoded, and their captions."""
    if not (folder / "progress.json").is_file():
        return 0, []
    stored = read_json(folder / "progress.json", max_bytes=200_000_000)
    return int(stored["done"]), list(stored["captions"])
