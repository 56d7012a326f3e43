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

from datamodules.base import GenerativeData, SizedItems
from datamodules.rendered_music import MusicRenderer
from datamodules.rendered_music_sounds import SoundBank
from datamodules.rendered_music_synthesis import RATE
from datamodules.sampler import Pick
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


def load_codec(folder: Path | str) -> MusicCodec:
    """The codec of a folder, whichever kind it is. Raises: CheckpointError."""
    kind = read_config(Path(folder))["system"]
    if kind not in CODECS:
        raise CheckpointError(f"{folder} holds no music codec but {kind!r}; train one with configs/melodyflow/codec_*")
    return CODECS[kind].from_folder(folder)


class MusicLatents:
    """Pieces or crops of them, as dicts of tensors; the crop follows from the seed of the pick."""

    def __init__(self, folder: Path, frame_rate: float, crop_frames: int, score: bool) -> None:
        index = read_json(folder / "index.json", max_bytes=200_000_000)
        self.mean = np.load(folder / "mean.npy", mmap_mode="r", allow_pickle=False)  # [N, T, D] float16
        self.deviation = float(index["deviation"])
        self.captions = [Caption.from_dict(values) for values in index["captions"]]
        self.frame_rate, self.crop_frames, self.score = frame_rate, min(crop_frames, self.mean.shape[1]), score
        self.seconds = float(index["seconds"])
        self.lengths = [self.crop_frames] * len(self.captions)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, pick: Pick) -> dict[str, Any]:
        spare = self.mean.shape[1] - self.crop_frames
        start = int(np.random.default_rng(pick.seed % 2**63).integers(0, spare + 1)) if spare else 0
        caption = self.captions[pick.index]
        features = score_features(
            caption, self.crop_frames, self.frame_rate, start_s=start / self.frame_rate, total_s=self.seconds
        )
        latents = self.mean[pick.index, start : start + self.crop_frames].astype(np.float32)
        return {"latents": torch.from_numpy(latents), "caption": caption, "score": torch.from_numpy(features)}


class MusicLatentData(GenerativeData):
    """Batches of latents [B, T, D] (means of the posterior), caption codes and score features of rendered music."""

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
            held_out: pieces of held-out combinations, for validation.
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
        for split in ("train", "val"):
            self._folder(split)

    def dataset(self, split: str) -> SizedItems | None:
        """The encoded pieces of a split; "test" is the same as "val"."""
        split = "train" if split == "train" else "val"
        if split not in self._made:
            rate = read_config(self.codec_folder)["codec"]["sample_rate"]
            hop = load_codec(self.codec_folder).hop_samples
            self._made[split] = MusicLatents(self._folder(split), rate / hop, self.crop_frames, True)
        return self._made[split]

    def latent_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [D] of the training latents, of posterior samples."""
        data = self.dataset("train")
        assert isinstance(data, MusicLatents)
        step = max(1, len(data) // 1000)
        values = torch.from_numpy(data.mean[::step].astype(np.float32)).flatten(0, 1)
        return values.mean(0), (values.var(0) + data.deviation**2).sqrt()

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """One batch: latents, deviation [B], ids, tempi, score."""
        ids, tempi = caption_codes([item["caption"] for item in items])
        data = self.dataset("train")
        assert isinstance(data, MusicLatents)
        return {
            "latents": torch.stack([item["latents"] for item in items]),
            "deviation": torch.full((len(items),), data.deviation),
            "ids": ids,
            "tempi": tempi,
            "score": torch.stack([item["score"] for item in items]),
        }

    # ------------------------------------------------------------ building

    def _folder(self, split: str) -> Path:
        plan = ["latents-1", fingerprint(self.codec_folder), split, self.counts[split], self.seconds, self.seed]
        folder = self.cache / f"latents-{hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:10]}"
        if not (folder / "index.json").is_file():
            self._build(folder, split)
        return folder

    @torch.inference_mode()
    def _build(self, folder: Path, split: str) -> None:
        """Encode piece after piece into one file; progress.json says how many are there."""
        folder.mkdir(parents=True, exist_ok=True)
        codec, count = load_codec(self.codec_folder), self.counts[split]
        self._sounds = self._sounds or SoundBank()
        renderer = MusicRenderer(self._sounds, seconds=self.seconds)
        frames = -(-round(self.seconds * RATE) // codec.hop_samples)
        done, captions = _progress(folder)
        mode = "r+" if done else "w+"
        shape = (count, frames, codec.channels)
        mean = np.lib.format.open_memmap(
            folder / "mean.npy", mode=mode, dtype=np.float16, shape=None if done else shape
        )
        deviation = 0.0
        for index in range(count):
            if 0 < index < done:  # the first is encoded again for its deviation
                continue
            seed = (self.seed * 2 + (split != "train")) * 10_000_000 + 5_000_000 + index
            piece = renderer.piece(seed, split="train" if split == "train" else "test")
            posterior = codec.encode(torch.from_numpy(piece.samples)[None])
            mean[index] = posterior.mean[0].T.numpy().astype(np.float16)
            deviation = float(posterior.deviation.mean())
            captions[index : index + 1] = [piece.caption.to_dict()]
            if (index + 1) % 100 == 0:
                mean.flush()
                write_json(folder / "progress.json", {"done": index + 1, "captions": captions})
                log.info("%d of %d pieces encoded", index + 1, count)
        mean.flush()
        write_json(folder / "index.json", {"deviation": deviation, "captions": captions, "seconds": self.seconds})


def _progress(folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """How many pieces an interrupted build has encoded, and their captions."""
    if not (folder / "progress.json").is_file():
        return 0, []
    stored = read_json(folder / "progress.json", max_bytes=200_000_000)
    return int(stored["done"]), list(stored["captions"])
