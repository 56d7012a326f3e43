"""Real recordings that the model was not trained on, and the probe and prompts that come from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.speech_corpora import CORPORA, read_corpus
from genmm.metrics.recogniser import SAMPLE_RATE
from genmm.metrics.speaker_probe import SpeakerLevels, SpeakerProbe, speaker_levels

SHORTEST_PROMPT_S, LONGEST_PROMPT_S = 1.5, 10.0
PROBE_SHORTEST_S = 1.0
PROBE_PER_SPEAKER = 30
"""Recordings of one speaker that the probe learns from, at most."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One real utterance."""

    key: str
    text: str
    speaker: str
    corpus: str
    is_held_out: bool
    samples: np.ndarray
    """[S] float32 at 16 kHz."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / SAMPLE_RATE


def read_recordings(root: Path) -> list[Recording]:
    """Every recording of the corpora that are there, in a fixed order; empty when none is."""
    found = []
    for name in sorted(CORPORA):
        if (root / name / "metadata.tsv").is_file():
            for item in read_corpus(root, name, SAMPLE_RATE):
                samples = item.waveform.astype(np.float32) / 32767.0
                held_out = item.split == "test"
                found.append(Recording(item.key, item.text.strip(), item.speaker, item.corpus, held_out, samples))
    return sorted(found, key=lambda recording: recording.key)


def spread_out(items: Sequence[Recording], count: int) -> list[Recording]:
    """At most `count` items, evenly taken from the whole sequence."""
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


def unseen_speakers(recordings: Iterable[Recording]) -> list[str]:
    """Speakers with several held-out recordings and none in the training part."""
    seen, counts = set(), defaultdict(int)
    for recording in recordings:
        if recording.is_held_out:
            counts[recording.speaker] += 1
        else:
            seen.add(recording.speaker)
    return sorted(speaker for speaker, count in counts.items() if count >= 3 and speaker not in seen)


def prompt_for(recordings: Iterable[Recording], speaker: str, not_key: str = "") -> Recording | None:
    """The longest usable held-out recording of a speaker, another than `not_key`; None where there is none."""
    usable = [
        recording
        for recording in recordings
        if recording.speaker == speaker
        and recording.is_held_out
        and recording.key != not_key
        and SHORTEST_PROMPT_S <= recording.seconds <= LONGEST_PROMPT_S
    ]
    return max(usable, key=lambda recording: (recording.seconds, recording.key), default=None)


@dataclass(frozen=True, eq=False)
class VoiceJudge:
    """The speaker probe, trained on the training part, with the real recordings of unseen speakers."""

    probe: SpeakerProbe
    levels: SpeakerLevels
    embeddings: dict[str, dict[str, np.ndarray]]
    """Speaker -> key -> unit vector."""

    @classmethod
    def train(cls, recordings: Sequence[Recording]) -> VoiceJudge | None:
        """Train and measure the probe; None when there are too few speakers."""
        known: dict[str, list[Recording]] = defaultdict(list)
        for recording in recordings:
            if not recording.is_held_out and recording.seconds >= PROBE_SHORTEST_S:
                known[recording.speaker].append(recording)
        learned = [one for own in known.values() if len(own) >= 3 for one in spread_out(own, PROBE_PER_SPEAKER)]
        unseen = unseen_speakers(recordings)
        if len({one.speaker for one in learned}) < 3 or len(unseen) < 2:
            return None
        probe = SpeakerProbe.train([one.samples for one in learned], [one.speaker for one in learned], SAMPLE_RATE)
        embeddings: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        for one in recordings:
            if one.speaker in unseen and one.seconds >= PROBE_SHORTEST_S:
                embeddings[one.speaker][one.key] = probe.embed(one.samples, SAMPLE_RATE)
        pairs = [(vector, speaker) for speaker, own in embeddings.items() for vector in own.values()]
        levels = speaker_levels(np.stack([vector for vector, _ in pairs]), [speaker for _, speaker in pairs])
        return cls(probe, levels, dict(embeddings))

    def similarity(self, samples: np.ndarray, speaker: str, without: Iterable[str] = ()) -> float | None:
        """Mean cosine to single real recordings of the speaker, apart from some keys; None where none is left."""
        left_out = set(without)
        others = [vector for key, vector in self.embeddings.get(speaker, {}).items() if key not in left_out]
        if not others:
            return None
        return float(np.mean(np.stack(others) @ self.probe.embed(samples, SAMPLE_RATE)))
