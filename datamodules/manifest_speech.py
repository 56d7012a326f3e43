"""Speech at the scale of the paper: manifests of cuts, latents of a codec folder, computed once and cached.

Letters: S samples, T latent frames, D latent channels, N codebooks.
"""

from __future__ import annotations

import hashlib
import io
import logging
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from datamodules.base import GenerativeData
from datamodules.manifest_index import Cut, ManifestIndex, cache_name, joined_lengths
from datamodules.sampler import Pick
from datamodules.source_files import file_state
from datamodules.speech_batches import SpeechExample, collate_speech
from genmm.core.checkpoint import fingerprint
from genmm.core.errors import ConfigError, DataError
from genmm.core.files import write_bytes
from genmm.core.paths import genmm_home
from genmm.media.audio import resample
from genmm.systems.sled.encodec import EncodecLatents
from genmm.systems.sled.pipeline import CODECS
from genmm.systems.sled.tokenizer import SledTokenizer

log = logging.getLogger(__name__)


def read_cut(cut: Cut, sample_rate: int) -> Tensor:
    """Sound [S] float32 of a cut, one channel, at the given rate; only this part of the recording is read.

    Raises: DataError when the recording cannot be read or is shorter than the cut says.
    """
    try:
        with soundfile.SoundFile(str(cut.audio)) as stream:
            rate = stream.samplerate
            stream.seek(int(cut.start_s * rate))
            samples = stream.read(int(cut.duration_s * rate), dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{cut.audio} cannot be read for the cut {cut.id}: {error}") from error
    if len(samples) < 0.9 * cut.duration_s * rate:
        raise DataError(f"the cut {cut.id} lies past the end of {cut.audio}")
    return resample(torch.from_numpy(samples.mean(1)), rate, sample_rate)


def open_codec(folder: Path) -> Any:
    """The codec in a folder, whichever kind it is. Raises: CheckpointError of the last kind tried."""
    errors: list[Exception] = []
    for kind in CODECS.values():
        try:
            return kind.from_folder(folder)
        except Exception as error:
            errors.append(error)
    raise errors[0]


class LatentCache:
    """Latents of cuts on disk, one file each: EnCodec's codes as int16 (1.2 kB a second), others as float16.

    A file belongs to the cut as it was encoded: when the manifest gives another place or the recording was replaced,
    the cut is encoded again into another file. So the recordings have to stay where they are.
    """

    def __init__(self, folder: Path, codec: Any) -> None:
        self.folder, self.codec = folder, codec
        self.as_codes = isinstance(codec, EncodecLatents)

    def path(self, cut: Cut) -> Path:
        """File of a cut, named after its id, its place and the state of its recording."""
        parts = (cut.id, cut.audio.name, file_state(cut.audio), repr(cut.start_s), repr(cut.duration_s))
        name = "\0".join(parts)
        return self.folder / f"{cache_name(name)}.npy"

    def get(self, cut: Cut) -> Tensor:
        """Latents [T, D] float32 of a cut; encodes and keeps them when they are not there yet."""
        path = self.path(cut)
        if not path.is_file():
            self.put([cut])
        try:
            stored = torch.from_numpy(np.load(path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise DataError(f"the cached latents {path} are damaged ({error}); delete the file") from error
        return (
            self.codec.latents_of(stored.long()[None].to(self._device()))[0].cpu() if self.as_codes else stored.float()
        )

    def put(self, cuts: list[Cut]) -> None:
        """Encode cuts as one batch and keep them."""
        waves = [read_cut(cut, self.codec.sample_rate) for cut in cuts]
        lengths = torch.tensor([len(wave) for wave in waves])
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True).to(self._device())
        encode = self.codec.codes if self.as_codes else self.codec.encode
        encoded = encode(padded, lengths.to(padded.device)).cpu()
        for cut, row, length in zip(cuts, encoded, lengths.tolist(), strict=True):
            frames = -(-length // self.codec.hop_samples)
            kept = row[:, :frames].to(torch.int16) if self.as_codes else row[:frames].to(torch.float16)
            buffer = io.BytesIO()
            np.save(buffer, kept.numpy(), allow_pickle=False)
            write_bytes(self.path(cut), buffer.getvalue())

    def _device(self) -> torch.device:
        return next(self.codec.parameters()).device


class ManifestCuts:
    """Data set of all cuts of several indexed manifests."""

    def __init__(self, indices: list[ManifestIndex], tokenizer: SledTokenizer, cache: LatentCache) -> None:
        self.indices, self.tokenizer, self.cache = indices, tokenizer, cache
        self.lengths = joined_lengths(indices)
        self._ends = np.cumsum([len(index) for index in indices]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    def cut(self, place: int) -> Cut:
        """The cut at a position of the joined manifests."""
        which = bisect_right(self._ends, place)
        return self.indices[which][place - (self._ends[which - 1] if which else 0)]

    def __getitem__(self, pick: Pick) -> SpeechExample:
        cut = self.cut(pick.index)
        return SpeechExample(self.tokenizer.encode(cut.text), self.cache.get(cut))


class ManifestSpeech(GenerativeData):
    """LibriHeavy-style manifests for `models.sled.SledTask`."""

    def __init__(
        self,
        train: list[str],
        codec: str,
        tokenizer: str,
        val: list[str] | None = None,
        test: list[str] | None = None,
        audio_root: str = ".",
        cache: str | None = None,
        max_positions: int = 2048,
        streaming: bool = False,
        precompute: bool = False,
        device: str = "auto",
        batch_size: int = 8,
        max_frames: int | None = None,
        bucket_batches: int = 8,
        workers: int = 4,
        seed: int = 0,
    ) -> None:
        """
        Args:
            train: Manifests (.jsonl or .jsonl.gz), one cut in a line.
            codec: Codec folder (EnCodec or ours) that makes the latents.
            tokenizer: Folder with vocab.json and merges.txt.
            val: Manifests of held-out cuts for validation.
            test: Manifests for `genmm test`.
            audio_root: Folder that relative recording paths start from.
            cache: Where indices and latents are kept; null means cache/manifests in the genmm home.
            max_positions: Cuts whose tokens and frames together reach this number are left out.
            streaming: Pad texts on the right, as the streaming layout needs it.
            precompute: Encode all cuts before training, on `device`; false encodes each cut when it is first used.
            device: Where `precompute` encodes: auto, cpu or cuda.
            batch_size: Most cuts in a batch on one device.
            max_frames: Most padded positions in a batch; null means no limit.
            bucket_batches: Batches in a length bucket; the official sampler has as many as batches are accumulated.
            workers: Processes that read and, without precompute, encode.
            seed: Seed of the order.
        """
        super().__init__(
            batch_size=batch_size, max_frames=max_frames, bucket_batches=bucket_batches, workers=workers, seed=seed
        )
        if not train:
            raise ConfigError("data.train needs at least one manifest")
        self.manifests = {"train": train, "val": val or [], "test": test or []}
        self.codec_folder, self.tokenizer_folder = Path(codec), Path(tokenizer)
        self.audio_root, self.max_positions, self.streaming = Path(audio_root), max_positions, streaming
        self.cache = Path(cache) if cache else genmm_home() / "cache" / "manifests"
        self.precompute, self.encode_device = precompute, device

    def prepare_data(self) -> None:
        """Index the manifests and, with precompute, encode every cut; once per machine."""
        self._open()
        if self.precompute:
            for split in self.manifests:
                data = self.dataset(split)
                if data is not None:
                    precompute(data, self.encode_device, self.batch_size)

    def setup(self, stage: str) -> None:
        self._open()

    def _open(self) -> None:
        self.tokenizer = SledTokenizer.from_folder(self.tokenizer_folder)
        self.codec = open_codec(self.codec_folder)
        name = hashlib.sha256(fingerprint(self.codec_folder).encode()).hexdigest()[:16]
        self.latents = LatentCache(self.cache / f"latents-{name}", self.codec)

    def dataset(self, split: str) -> ManifestCuts | None:
        paths = self.manifests[split]
        if not paths:
            return None
        indices = [
            ManifestIndex.open(
                Path(path),
                audio_root=self.audio_root,
                tokenizer=self.tokenizer,
                frame_rate=self.codec.frame_rate,
                max_positions=self.max_positions,
                cache=self.cache / "index",
            )
            for path in paths
        ]
        return ManifestCuts(indices, self.tokenizer, self.latents)

    def collate(self, items: list[SpeechExample]) -> dict[str, Tensor]:
        return collate_speech(items, padding="right" if self.streaming else "left")


def precompute(data: ManifestCuts, device: str, batch_size: int) -> int:
    """Encode all cuts that have no latents yet, longest first, so that memory runs out at once or never.

    Returns: the number of cuts encoded.
    """
    from rich.progress import track

    from genmm.core.devices import choose_device

    data.cache.codec.to(choose_device(device))
    order = np.argsort(-data.lengths, kind="stable")
    done, waiting = 0, []
    for place in track(order.tolist(), description="encoding speech"):
        cut = data.cut(place)
        if not data.cache.path(cut).is_file():
            waiting.append(cut)
        if len(waiting) == batch_size:
            data.cache.put(waiting)
            done, waiting = done + len(waiting), []
    if waiting:
        data.cache.put(waiting)
    data.cache.codec.to("cpu")
    return done + len(waiting)
