"""Judges of music and the pieces they hear: held-out captions, rendered truth, what is heard in a sound.

Tempo and key are judged by rules that learned nothing; instruments and drums by discriminants trained on rendered
music of training combinations, so every figure of them stands beside the same judge's figure on held-out truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from app.evaluation.journal import Journal
from datamodules.rendered_music import MusicRenderer
from datamodules.rendered_music_score import random_caption, solo
from datamodules.rendered_music_synthesis import RATE
from genmm.metrics.music_instruments import InstrumentJudge, timbre_features
from genmm.metrics.music_key import estimate_key
from genmm.metrics.music_tempo import estimate_tempo, tempo_matches
from genmm.systems.melodyflow.captions import LEADS, TONICS, Caption

SLOWEST, FASTEST = 75.0, 150.0
"""Tempi that are asked for: one octave, which the judge tells apart."""
FIRST_SEED = 70_000_000
INSTRUMENTS = LEADS[1:]


@dataclass(frozen=True)
class Heard:
    """What the judges hear in one sound."""

    tempo_bpm: float
    signature: int
    tonic: int
    mode: str
    instrument: str
    """Of a solo."""
    drums: bool

    def matches(self, caption: Caption) -> dict[str, bool]:
        """Attribute -> whether it is heard as the caption has it."""
        tempo = caption.tempo_bpm or 0.0
        return {
            "tempo": tempo_matches(self.tempo_bpm, tempo),
            "tempo, octaves allowed": tempo_matches(self.tempo_bpm, tempo, octaves=True),
            "key signature": self.signature == caption.signature,
            "key": self.tonic == TONICS.index(caption.tonic or "C") and self.mode == caption.mode,
            "instrument": self.instrument == caption.lead,
            "drums or none": self.drums == (caption.drums != "none"),
        }


class Judges:
    """Renders pieces and hears sounds. Training sounds of the judges are rendered when first needed."""

    def __init__(self, renderer: MusicRenderer, journal: Journal, seed: int, training: int, say: Any) -> None:
        self.renderer, self.journal, self.seed, self.training, self.say = renderer, journal, seed, training, say

    def wanted(self, number: int) -> Caption:
        """A complete caption of a held-out combination with a tempo between the two bounds."""
        rng = np.random.default_rng((FIRST_SEED, self.seed, number))
        while True:
            caption = random_caption(rng, split="test")
            if SLOWEST <= (caption.tempo_bpm or 0) <= FASTEST:
                return caption

    def rendered(self, number: int, caption: Caption) -> np.ndarray:
        """Truth [2, S] at 48 kHz; the number chooses the notes."""
        return self.renderer.piece(FIRST_SEED + 100_000 * self.seed + number, caption=caption).samples

    def hear(self, samples: np.ndarray, rate: int) -> Heard:
        """What is in a sound [2, S]."""
        features, key = timbre_features(samples, rate), estimate_key(samples, rate)
        return Heard(
            tempo_bpm=estimate_tempo(samples, rate),
            signature=key.signature,
            tonic=key.tonic,
            mode=key.mode,
            instrument=self._instruments.predict(features)[0],
            drums=self._drums.predict(features)[0] == "drums",
        )

    @cached_property
    def _instruments(self) -> InstrumentJudge:
        """Trained on rendered solos of training combinations."""
        features, labels = [], []
        for number in range(self.training):
            lead = INSTRUMENTS[number % len(INSTRUMENTS)]
            caption = solo(random_caption(np.random.default_rng((1, number))), "lead", lead)
            features.append(self._features(f"judge solo {number}", 1000 + number, caption, number))
            labels.append(lead)
        return InstrumentJudge.train(np.array(features), labels)

    @cached_property
    def _drums(self) -> InstrumentJudge:
        """Trained on rendered pieces of training combinations, half of them with drums."""
        features, labels, number = [], [], 0
        rng = np.random.default_rng((2, 0))
        while len(labels) < self.training:
            caption = random_caption(rng)
            label = "none" if caption.drums == "none" else "drums"
            if labels.count(label) < self.training // 2:
                features.append(self._features(f"judge drums {number}", 5000 + number, caption, len(labels)))
                labels.append(label)
                number += 1
        return InstrumentJudge.train(np.array(features), labels)

    def _features(self, key: str, number: int, caption: Caption, done: int) -> list[float]:
        self.say("training the judges", done, self.training)
        return self.journal.kept(
            key, lambda: [round(float(x), 5) for x in timbre_features(self.rendered(number, caption), RATE)]
        )
