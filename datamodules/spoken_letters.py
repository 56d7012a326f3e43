"""Speech-like sound made on the fly: every letter is a short vowel, every voice a pitch. For tests and debugging only.

Nothing has to be downloaded or trained before: the codec is an untrained one whose random features still are a
continuous function of the sound. A model trained on it follows its text, but what it speaks is not speech.

Letters: S samples, T latent frames, D latent channels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from datamodules.base import GenerativeData
from datamodules.sampler import Pick
from datamodules.speech_batches import SpeechExample, collate_speech
from genmm.core.paths import genmm_home
from genmm.core.seeds import derive_seed
from genmm.systems.sled.codec import SpeechCodec, SpeechCodecConfig
from genmm.systems.sled.tokenizer import SPECIAL_TOKENS, SledTokenizer

FORMANTS_HZ = {"a": (730, 1090), "e": (530, 1840), "i": (270, 2290), "o": (570, 840), "u": (300, 870), "y": (250, 1700)}
"""First two resonances of each letter."""
LETTER_S = 0.12


def speak_letters(text: str, pitch_hz: float, sample_rate: int = 16000) -> Tensor:
    """Sound [S] of a text of the letters of FORMANTS_HZ: harmonics of the pitch, shaped by two resonances."""
    time_s = torch.arange(int(LETTER_S * sample_rate)) / sample_rate
    harmonics = pitch_hz * torch.arange(1, int(3000 / pitch_hz) + 1)
    swell = torch.sin(torch.pi * time_s / LETTER_S)
    pieces = []
    for letter in text:
        strength = sum(torch.exp(-(((harmonics - f) / 120.0) ** 2)) for f in FORMANTS_HZ[letter])
        waves = strength[:, None] * torch.sin(2 * torch.pi * harmonics[:, None] * time_s)  # [harmonics, S]
        pieces.append(0.3 * swell * waves.sum(0) / strength.sum().clamp_min(1e-3))
    return torch.cat(pieces)


def byte_tokenizer() -> SledTokenizer:
    """Tokenizer without merges: special tokens and one entry for each byte."""
    tokens = [*SPECIAL_TOKENS, *sorted(ByteLevel.alphabet())]
    return SledTokenizer({token: place for place, token in enumerate(tokens)}, [])


def untrained_codec(channels: int, seed: int = 0) -> SpeechCodec:
    """Small codec with random weights whose latents are standardised on spoken letters."""
    widths = {"encoder_width": 24, "encoder_latent_width": 32, "decoder_width": 24}
    depths = dict.fromkeys(("encoder_depth", "encoder_latent_depth", "decoder_latent_depth", "decoder_depth"), 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = SpeechCodec(SpeechCodecConfig(channels=channels, **widths, **depths)).eval()
    sound = torch.stack([speak_letters("".join(FORMANTS_HZ), pitch) for pitch in (90.0, 120.0, 160.0, 220.0)])
    with torch.no_grad():
        raw = codec.encoder(sound[:, : sound.shape[1] // codec.hop_samples * codec.hop_samples]).flatten(0, 1)
        codec.standardise.running_mean.copy_(raw.mean(0))
        codec.standardise.running_var.copy_(raw.var(0).clamp_min(1e-8))
    return codec


@dataclass(frozen=True)
class Utterance:
    """A text, and its latents [T, D] and voice statistics [2 D]."""

    text: str
    latents: Tensor
    voice: Tensor


class Utterances:
    """Data set of utterances, encoded once."""

    def __init__(self, items: list[Utterance], tokenizer: SledTokenizer) -> None:
        self.items, self.tokenizer = items, tokenizer
        self.lengths = [len(item.latents) for item in items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, pick: Pick) -> SpeechExample:
        item = self.items[pick.index]
        return SpeechExample(self.tokenizer.encode(item.text), item.latents, item.voice)


class SpokenLetters(GenerativeData):
    """Batches for `models.sled.SledTask` out of nothing."""

    def __init__(
        self,
        utterances: int = 128,
        letters: int = 5,
        channels: int = 8,
        codec: str | None = None,
        streaming: bool = False,
        batch_size: int = 16,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            utterances: Training utterances; a quarter as many are held out.
            letters: Most letters in an utterance.
            channels: Latent channels of the untrained codec.
            codec: Codec folder to use instead of the untrained codec.
            streaming: Pad texts on the right, as the streaming layout needs it.
            batch_size: Utterances in a batch.
            workers: Processes that read data.
            seed: Seed of texts, pitches and order.
        """
        super().__init__(batch_size=batch_size, bucket_batches=2, workers=workers, seed=seed)
        self.utterances, self.letters, self.streaming = utterances, letters, streaming
        self.codec_folder = Path(codec) if codec else genmm_home() / "cache" / f"untrained-codec-{channels}"
        self.tokenizer_folder = genmm_home() / "cache" / "byte-tokenizer"
        self.channels, self.makes_codec = channels, codec is None

    def prepare_data(self) -> None:
        """Write codec and tokenizer where an export finds them."""
        byte_tokenizer().save(self.tokenizer_folder)
        if self.makes_codec:
            untrained_codec(self.channels).save(self.codec_folder)

    def setup(self, stage: str) -> None:
        self.codec = SpeechCodec.from_folder(self.codec_folder)
        self.tokenizer = SledTokenizer.from_folder(self.tokenizer_folder)

    def dataset(self, split: str) -> Utterances:
        count = self.utterances if split == "train" else max(1, self.utterances // 4)
        rng = random.Random(derive_seed(self.seed, split))
        return Utterances([self._utterance(rng) for _ in range(count)], self.tokenizer)

    def _utterance(self, rng: random.Random) -> Utterance:
        text = "".join(rng.choices(list(FORMANTS_HZ), k=rng.randint(1, self.letters)))
        latents = self.codec.encode(speak_letters(text, rng.uniform(90.0, 220.0))[None])[0].clone()
        return Utterance(text, latents, torch.cat((latents.mean(0), latents.std(0, unbiased=False))))

    def collate(self, items: list[SpeechExample]) -> dict[str, Tensor]:
        return collate_speech(items, padding="right" if self.streaming else "left")
