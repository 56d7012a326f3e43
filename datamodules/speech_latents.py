"""Text and codec latents for training a SLED model on a few hours of speech.

Items are compositions: one to three utterances of one speaker, one after the other, with their texts. Compositions
teach alignment (any text can follow any other, so it has to be read) and continuation of a given voice. The voice
vector of an item comes from other utterances of the speaker wherever there are any, so it cannot carry the words.

Letters: B batch, Tt text tokens, T latent frames, D latent channels.
"""

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from datamodules.base import GenerativeData
from datamodules.sampler import Pick
from datamodules.speech_store import ArrayStore, SpeechSources, open_or_build, waveform_store
from genmm.core.errors import ConfigError, DataError
from genmm.core.paths import data_home, genmm_home
from genmm.losses.alignment import piecewise_path
from genmm.systems.sled.codec import SpeechCodec
from genmm.systems.sled.tokenizer import PaddingSide, SledTokenizer, train_bpe


@dataclass(frozen=True, kw_only=True)
class CompositionPlan:
    """How items are put together."""

    items: int = 100_000
    """Compositions of an epoch."""
    shares: dict[str, float] = field(default_factory=lambda: {"synthetic": 0.5})
    """Corpus -> its share of the compositions; corpora that are not named split what is left over, by their voices."""
    parts: tuple[float, ...] = (0.5, 0.3, 0.2)
    """Probability of one, two, three ... utterances in a composition."""
    max_frames: int = 200
    """Longest composition in latent frames; longer single utterances are left out."""
    drop_stop: float = 0.5
    """Probability that the full stop between two parts is left out of the text."""

    def __post_init__(self) -> None:
        if abs(sum(self.parts) - 1.0) > 1e-6 or min(self.parts) < 0:
            raise ConfigError(f"parts must be probabilities that add up to 1, got {self.parts}")
        if sum(self.shares.values()) > 1.0 + 1e-6 or min(self.shares.values(), default=0.0) < 0:
            raise ConfigError(f"shares must be at least 0 and add up to at most 1, got {self.shares}")


def edges_of_speech(
    waveform: np.ndarray, sample_rate: int, *, margin_s: float = 0.1, below_peak_db: float = 38.0
) -> slice:
    """Where speech starts and ends in int16 samples [S]: the 20 ms frames within `below_peak_db` of the loudest, plus
    a margin.
    """
    step = sample_rate // 50
    frames = waveform[: len(waveform) // step * step].astype(np.float32).reshape(-1, step)
    power = 10.0 * np.log10(np.square(frames).mean(1) + 1.0)
    loud = np.flatnonzero(power > power.max(initial=0.0) - below_peak_db)
    if len(loud) == 0:
        return slice(0, len(waveform))
    margin = int(margin_s * sample_rate)
    return slice(max(0, loud[0] * step - margin), min(len(waveform), (loud[-1] + 1) * step + margin))


def latent_store(waveforms: ArrayStore, codec: SpeechCodec, folder: Path) -> ArrayStore:
    """Latents [T, D] float16 of every utterance, silence at the edges cut to 0.1 s."""

    def encode() -> Iterable[tuple[dict[str, str], np.ndarray]]:
        for row, waveform in zip(waveforms.table, (waveforms[i] for i in range(len(waveforms))), strict=True):
            trimmed = waveform[edges_of_speech(waveform, codec.sample_rate)].astype(np.float32) / 32768.0
            yield row, codec.encode(torch.from_numpy(trimmed)[None])[0].to(torch.float16).numpy()

    return open_or_build(folder, encode)


def compose(store: ArrayStore, split: str, plan: CompositionPlan, seed: int) -> list[list[int]]:
    """Utterance indices of every composition; a function of (store, split, plan, seed) alone.

    Within a corpus every speaker is drawn in proportion to the square root of its utterances, so that one voice with
    many recordings does not drown the others.
    """
    lengths = store.lengths
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for index in store.indices(split):
        if 2 <= lengths[index] <= plan.max_frames:
            by_speaker[store.table[index]["speaker"]].append(index)
    voices = list(by_speaker.values())
    if not voices:
        raise DataError(f"no utterance of the split {split!r} is between 2 and {plan.max_frames} frames long")
    weights = _voice_weights([store.table[own[0]]["corpus"] for own in voices], [len(own) for own in voices], plan)
    rng = random.Random(f"{seed}/{split}")
    compositions = []
    for own in rng.choices(voices, weights, k=plan.items):
        parts, total = [], 0
        for _ in range(rng.choices(range(1, len(plan.parts) + 1), plan.parts)[0]):
            index = rng.choice(own)
            if parts and total + lengths[index] > plan.max_frames:
                break
            parts.append(index)
            total += int(lengths[index])
        compositions.append(parts)
    return compositions


def _voice_weights(corpora: Sequence[str], counts: Sequence[int], plan: CompositionPlan) -> list[float]:
    """Probability of each voice [V], given its corpus and its number of utterances."""
    roots = np.sqrt(np.asarray(counts, dtype=np.float64))
    named = np.asarray([corpus in plan.shares for corpus in corpora])
    weights = np.zeros(len(roots))
    for corpus, share in plan.shares.items():
        own = np.asarray([other == corpus for other in corpora])
        if own.any():
            weights[own] = share * roots[own] / roots[own].sum()
    if not named.all():
        weights[~named] = max(0.0, 1.0 - weights.sum()) * roots[~named] / roots[~named].sum()
    return (weights / weights.sum()).tolist() if weights.any() else roots.tolist()


@dataclass(frozen=True)
class SpeechItem:
    """One composition."""

    text: str
    """Texts of the parts, joined."""
    latents: Tensor
    """[T, D] float32."""
    voice: Tensor
    """[2D] float32."""
    parts: Sequence[tuple[str, int]]
    """Text as it stands in the joined one, and number of frames, of every part."""


def voice_vector(latents: Tensor) -> Tensor:
    """Mean and standard deviation over time of latents [T, D]: [2D]."""
    return torch.cat([latents.mean(0), latents.std(0, unbiased=False)])


class Compositions:
    """Map-style data set of compositions; randomness beyond the composition follows from the seed of a pick."""

    def __init__(self, store: ArrayStore, split: str, plan: CompositionPlan, seed: int) -> None:
        self.store, self.plan = store, plan
        self.compositions = compose(store, split, plan, seed)
        lengths = store.lengths
        self.lengths = [int(sum(lengths[i] for i in parts)) for parts in self.compositions]
        self.by_speaker: dict[str, list[int]] = defaultdict(list)
        for index in store.indices(split):
            self.by_speaker[store.table[index]["speaker"]].append(index)

    def __len__(self) -> int:
        return len(self.compositions)

    def __getitem__(self, pick: Pick) -> SpeechItem:
        rng = random.Random(pick.seed)
        parts = self.compositions[pick.index]
        latents = [torch.from_numpy(self.store[i].astype(np.float32)) for i in parts]
        texts = [self.store.table[i]["text"] for i in parts]
        for place in range(len(texts) - 1):
            if rng.random() < self.plan.drop_stop:
                texts[place] = texts[place].removesuffix(".")
        spans = [(text, len(part)) for text, part in zip(texts, latents, strict=True)]
        return SpeechItem("".join(texts), torch.cat(latents), self._voice(parts, rng), spans)

    def _voice(self, parts: Sequence[int], rng: random.Random) -> Tensor:
        """Statistics of up to four seconds of other utterances of the speaker, or of its own when there are none."""
        own = self.by_speaker[self.store.table[parts[0]]["speaker"]]
        others = [i for i in rng.sample(own, min(len(own), 4)) if i not in parts] or list(parts)
        return voice_vector(torch.from_numpy(np.concatenate([self.store[i] for i in others])[:100].astype(np.float32)))


class SpeechLatentData(GenerativeData):
    """Batches of text, latents and voice vectors for `models.sled.SledTask`."""

    def __init__(
        self,
        codec: str,
        corpora: list[str] | None = None,
        synthetic: int = 12000,
        synthetic_seed: int = 2,
        speeds: list[float] | None = None,
        vocab_size: int = 512,
        plan: CompositionPlan | None = None,
        padding: PaddingSide = "left",
        val_items: int = 256,
        batch_size: int = 64,
        max_frames: int = 2400,
        bucket_batches: int = 8,
        pad_frames_to: int = 1,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            codec: Folder of the speech codec that makes the latents.
            corpora: Real corpora under the data folder (GENMM_DATA); null takes all that may be shipped.
            synthetic: Utterances that espeak-ng adds.
            synthetic_seed: Seed of their texts and voices.
            speeds: Further copies of the real training recordings at these speeds; null for none.
            vocab_size: Entries of the byte-level BPE that is trained on the training texts.
            plan: How utterances are put together.
            padding: "left" for offline models, "right" for streaming ones.
            val_items: Held-out compositions.
            batch_size: Most items in a batch.
            max_frames: Most padded latent frames in a batch.
            bucket_batches: Batches in a length bucket.
            pad_frames_to: Pad batches to a multiple of this many frames; few different shapes keep compiled and
                cached kernels in use.
            workers: Processes that read data.
            seed: Seed of compositions, order and voices.
        """
        super().__init__(
            batch_size=batch_size, max_frames=max_frames, bucket_batches=bucket_batches, workers=workers, seed=seed
        )
        chosen = {} if corpora is None else {"corpora": tuple(corpora)}
        self.sources = SpeechSources(synthetic=synthetic, seed=synthetic_seed, speeds=tuple(speeds or ()), **chosen)
        self.codec_folder, self.vocab_size, self.val_items = Path(codec), vocab_size, val_items
        self.plan, self.padding, self.pad_frames_to = plan or CompositionPlan(), padding, pad_frames_to

    @property
    def folder(self) -> Path:
        """Where latents and tokenizer are kept; named after everything that shapes them."""
        weights = hashlib.sha256((self.codec_folder / "model.safetensors").read_bytes()).hexdigest()[:16]
        return genmm_home() / "cache" / f"latents-{self.sources.fingerprint(data_home())}-{weights}"

    @property
    def tokenizer_folder(self) -> Path:
        """Where vocab.json and merges.txt are."""
        return self.folder / f"bpe-{self.vocab_size}"

    def prepare_data(self) -> None:
        """Encode the speech and train the tokenizer, once."""
        waveforms = waveform_store(self.sources, root=data_home(), cache=genmm_home() / "cache")
        store = latent_store(waveforms, SpeechCodec.from_folder(self.codec_folder), self.folder)
        if not (self.tokenizer_folder / "merges.txt").is_file():
            texts = [store.table[i]["text"] for i in store.indices("train")]
            train_bpe(texts, self.vocab_size).save(self.tokenizer_folder)

    def setup(self, stage: str) -> None:
        """Open what `prepare_data` made."""
        self.store = ArrayStore.open(self.folder)
        self.tokenizer = SledTokenizer.from_folder(self.tokenizer_folder)

    def dataset(self, split: str) -> Compositions | None:
        """Compositions of "train", or of the held-out utterances for "val".

        There is no test data: the held-out recordings are few, and all of them are for validation.
        """
        if split == "train":
            return Compositions(self.store, "train", self.plan, self.seed)
        if split == "test":
            return None
        plan = CompositionPlan(
            items=self.val_items, shares={"synthetic": 0.25}, parts=(0.7, 0.3), max_frames=self.plan.max_frames
        )
        return Compositions(self.store, "test", plan, self.seed)

    def collate(self, items: list[SpeechItem]) -> dict[str, Any]:
        """ids [B, Tt], text_mask, latents [B, T, D] right padded, frame_mask, voice [B, 2D], path [B, T]."""
        ids, text_mask = self.tokenizer.batch([item.text for item in items], self.padding)
        lengths = torch.tensor([len(item.latents) for item in items])
        latents = torch.nn.utils.rnn.pad_sequence([item.latents for item in items], batch_first=True)
        latents = pad(latents, (0, 0, 0, -latents.shape[1] % self.pad_frames_to))
        frame_mask = torch.arange(latents.shape[1]) < lengths[:, None]
        voice = torch.stack([item.voice for item in items])
        paths = [
            piecewise_path([len(self.tokenizer.encode_plain(text)) for text, _ in item.parts],
                           [frames for _, frames in item.parts], first_token=1)
            for item in items
        ]  # fmt: skip
        path = torch.nn.utils.rnn.pad_sequence(paths, batch_first=True)
        return {
            "ids": ids,
            "text_mask": text_mask,
            "latents": latents,
            "frame_mask": frame_mask,
            "voice": voice,
            "path": pad(path, (0, latents.shape[1] - path.shape[1])),
        }
