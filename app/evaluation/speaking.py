"""Asking a pipeline for the speech of a measurement, at the rate that the metrics work at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.evaluation.recordings import Recording, prompt_for, spread_out, unseen_speakers
from genmm.core.errors import GenmmError, UsageError
from genmm.core.events import CancelToken
from genmm.core.seeds import derive_seed
from genmm.media.audio import resample
from genmm.metrics.recogniser import SAMPLE_RATE
from genmm.systems.sled.pipeline import SledPipeline
from genmm.systems.sled.request import SpeechRequest
from genmm.systems.sled.voice import Voice

FAILED = "failed"
"""Stop reason of speech that could not be made; it counts as silence and as all words wrong."""


@dataclass(frozen=True, eq=False)
class TestVoice:
    """A voice that a measurement uses."""

    __test__ = False  # not a test class, whatever pytest makes of its name

    name: str
    voice: Voice | str | None
    speaker: str = ""
    """Speaker of the real recordings, "" when there are none."""
    prompt_key: str = ""
    """Recording that the voice comes from."""


@dataclass(frozen=True, eq=False)
class Heard:
    """One utterance that the model made."""

    voice: TestVoice
    text: str
    samples: np.ndarray
    """[S] float32 at 16 kHz; a tenth of a second of silence when it failed."""
    stop_reason: str


@dataclass
class Speech:
    """Asks for speech, keeps count of failures and of time."""

    pipeline: SledPipeline
    seed: int
    batch_size: int
    cancel: CancelToken | None = None
    failures: int = 0
    seconds_made: float = 0.0
    seconds_spent: float = 0.0

    def say(self, purpose: str, items: Sequence[tuple[TestVoice, str]]) -> list[Heard]:
        """Speak every text; the seed of each follows from purpose and place alone. Failures become silence."""
        requests = [
            SpeechRequest(text=text, voice=item.voice, seed=derive_seed(self.seed, purpose, place) % 2**31)
            for place, (item, text) in enumerate(items)
        ]
        started = time.perf_counter()
        results = self.pipeline.generate_batch(
            requests, batch_size=self.batch_size, errors="return", cancel=self.cancel
        )
        self.seconds_spent += time.perf_counter() - started
        return [self._heard(item, text, result) for (item, text), result in zip(items, results, strict=True)]

    def _heard(self, voice: TestVoice, text: str, result: object) -> Heard:
        if isinstance(result, GenmmError):
            self.failures += 1
            return Heard(voice, text, np.zeros(SAMPLE_RATE // 10, np.float32), FAILED)
        samples = result.samples[0]
        self.seconds_made += len(samples) / result.sample_rate
        return Heard(voice, text, resample(samples, result.sample_rate, SAMPLE_RATE), result.stop_reasons[0])


def voice_of(pipeline: SledPipeline, recording: Recording) -> TestVoice | None:
    """The voice of a real recording; None when it holds too little sound."""
    name = f"speaker {recording.speaker}".replace("_", "-")
    try:
        voice = pipeline.voice(recording.samples, SAMPLE_RATE, transcript=recording.text, name=name)
    except UsageError:
        return None
    return TestVoice(name, voice, recording.speaker, recording.key)


def choose_voices(
    pipeline: SledPipeline, recordings: Sequence[Recording], *, embedded: int, unseen: int
) -> list[TestVoice]:
    """Voices of the checkpoint, then of unseen speakers' recordings; the model's own choice when there are none."""
    voices = [TestVoice(f"voice {name}", name) for name in list(pipeline.voices)[:embedded]]
    prompts = [prompt_for(recordings, speaker) for speaker in unseen_speakers(recordings)]
    for recording in spread_out([prompt for prompt in prompts if prompt is not None], unseen):
        voice = voice_of(pipeline, recording)
        if voice is not None:
            voices.append(voice)
    return voices or [TestVoice("no voice", None)]
