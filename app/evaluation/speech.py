"""One speech model measured whole: judged words, voices, frames, readings, endings, speed.

The order of stages and every seed are fixed, so two runs of one model on one machine give one report, speed apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.evaluation.frames import measure_frames, through_codec
from app.evaluation.judging import judge_choices, judge_words
from app.evaluation.recordings import Recording, VoiceJudge, prompt_for, read_recordings, spread_out
from app.evaluation.speaking import Heard, Speech, TestVoice, choose_voices, voice_of
from app.evaluation.texts import SENTENCES, letter_sequences, letters_of, number_sequences, sentence_choices
from genmm.core.devices import describe_machine
from genmm.core.errors import MissingDependencyError, UsageError
from genmm.core.events import CancelToken, Progress
from genmm.core.files import write_text
from genmm.media.audio import write_audio
from genmm.metrics.bootstrap import bootstrap_mean
from genmm.metrics.paired import compare_readings
from genmm.metrics.recogniser import SAMPLE_RATE, LetterRecogniser, NumberRecogniser, SentenceRecogniser, number_words
from genmm.metrics.speech_report import ALL, Kind, PairedScore, SpeechReport, SpeedScore, VoiceScore
from genmm.metrics.stop_quality import stop_quality
from genmm.metrics.streaming import time_stream
from genmm.metrics.utterance_distance import set_distance, utterance_statistics
from genmm.systems.sled.pipeline import SledPipeline

REAL, CODEC = "real recordings, held out", "the same through the codec"
SPEED_TEXTS = ("Seven four one.", "Please enter your password.", "Five five five, oh one two three.")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How much is measured; seeds and lists are fixed by it."""

    embedded_voices: int = 4
    """Voices of the checkpoint that speak, at most."""
    unseen_voices: int = 4
    """Speakers outside the training data who are imitated from one recording."""
    sequences: int = 21
    """Number sequences for each voice; lengths one to seven come equally often in multiples of seven."""
    letters: int = 5
    """Letter sequences for each voice. The judge of letters takes several times the length of what it hears."""
    real_letters: int = 12
    """Held-out spelled recordings that it hears for comparison, as they are and through the codec."""
    sentences: int = 10
    """Service sentences for each voice."""
    readings: int = 60
    """Held-out recordings that are read again in their speaker's voice."""
    frame_items: int = 120
    """Held-out recordings for the teacher-forced figures."""
    draws: int = 8
    """Draws for each frame there."""
    batch_size: int = 16
    """Utterances spoken together."""
    seed: int = 2024
    """Seed of texts and speech."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = {"seed": 0, "draws": 2, "batch_size": 1, "sequences": 1}.get(name, 0)
            if value < least:
                raise UsageError(f"{name} must be at least {least}, got {value}")

    @classmethod
    def quick(cls, seed: int = 2024) -> EvaluationOptions:
        """A minute's worth, to see that everything works."""
        return cls(
            embedded_voices=1,
            unseen_voices=1,
            sequences=7,
            letters=2,
            real_letters=2,
            sentences=2,
            readings=4,
            frame_items=6,
            draws=2,
            seed=seed,
        )


def evaluate_speech(
    pipeline: SledPipeline,
    data: Path,
    options: EvaluationOptions | None = None,
    *,
    on_event: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
    keep: Path | None = None,
) -> SpeechReport:
    """Measure a model; what cannot be measured (no recordings, no recogniser) is left out and said in the notes.

    data is the folder of the speech corpora; keep is a folder for everything that was spoken.
    Raises: Cancelled; CheckpointError when the model does not work at all.
    """
    run = _Evaluation(pipeline, read_recordings(data), options or EvaluationOptions(), cancel)
    stages: tuple[tuple[str, Callable[[], dict[str, Any]]], ...] = (
        ("number sequences", run.numbers),
        ("letters", run.letters),
        ("sentences", run.sentences),
        ("held-out frames", run.frames),
        ("readings", run.readings),
        ("endings and voices", run.endings),
        ("speed", run.speed),
    )
    found: dict[str, Any] = {}
    for place, (title, stage) in enumerate(stages):
        if cancel is not None:
            cancel.check()
        if on_event is not None:
            on_event(Progress(place, len(stages), "stages", title))
        found |= stage()
    if on_event is not None:
        on_event(Progress(len(stages), len(stages), "stages", "done"))
    if keep is not None:
        run.save(keep)
    return SpeechReport(
        model=pipeline.info,
        machine=describe_machine(),
        settings={
            **asdict(run.options),
            "defaults": asdict(pipeline.defaults),
            "voices": [v.name for v in run.voices],
            "packing": pipeline.engine.packing,
        },
        notes=tuple(run.all_notes()),
        **found,
    )


class _Evaluation:
    """State of one run: what was spoken so far, and the judges."""

    def __init__(
        self,
        pipeline: SledPipeline,
        recordings: list[Recording],
        options: EvaluationOptions,
        cancel: CancelToken | None,
    ) -> None:
        self.pipeline, self.recordings, self.options, self.cancel = pipeline, recordings, options, cancel
        self.held_out = [recording for recording in recordings if recording.is_held_out]
        self.speech = Speech(pipeline, options.seed, options.batch_size, cancel)
        self.voices = choose_voices(
            pipeline, recordings, embedded=options.embedded_voices, unseen=options.unseen_voices
        )
        self.voice_judge = VoiceJudge.train(recordings)
        self.spoken: list[Heard] = []
        self.read_again: list[tuple[Recording, Heard]] = []
        self.notes: list[str] = []
        self._codec: dict[str, np.ndarray] = {}
        if not recordings:
            self.notes.append("no speech corpus was found, so nothing is compared with real recordings")

    def all_notes(self) -> list[str]:
        """Notes of all stages, failures included."""
        failed = self.speech.failures
        return [*self.notes, *([f"{failed} utterances could not be made; they count as silence"] if failed else [])]

    def save(self, folder: Path) -> None:
        """Write everything that was spoken as numbered FLAC files, with a table of what they are."""
        lines = ["file\tvoice\tstop\ttext"]
        for number, one in enumerate(self.spoken):
            name = f"{number:04d}.flac"
            write_audio(folder / name, one.samples, SAMPLE_RATE)
            lines.append(f"{name}\t{one.voice.name}\t{one.stop_reason}\t{one.text}")
        write_text(folder / "spoken.tsv", "\n".join(lines) + "\n")

    def _coded(self, recording: Recording) -> np.ndarray:
        """A real recording through the codec, computed once."""
        if recording.key not in self._codec:
            self._codec[recording.key] = through_codec(self.pipeline, recording.samples)
        return self._codec[recording.key]

    def _say(self, purpose: str, texts: Sequence[str]) -> list[Heard]:
        """Every voice says every text."""
        heard = self.speech.say(purpose, [(voice, text) for voice in self.voices for text in texts])
        self.spoken += heard
        return heard

    def _judged(self, judge: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return judge()
        except MissingDependencyError as error:
            if str(error) not in self.notes:
                self.notes.append(str(error))
            return {}

    # ------------------------------------------------------------ stages

    def numbers(self) -> dict[str, Any]:
        """Word error rates of number words: real, through the codec, every voice, all voices."""
        heard = self._say("numbers", number_sequences(self.options.sequences, self.options.seed))

        def judge() -> dict[str, Any]:
            recogniser = NumberRecogniser()
            sets = [*self._real_sets(number_words), *_by_voice(heard, lambda one: number_words(one.text))]
            return {"judge": recogniser.name, "numbers": judge_words(recogniser, sets, self.cancel)}

        return self._judged(judge)

    def letters(self) -> dict[str, Any]:
        """Word error rates of spelled letters."""
        heard = self._say("letters", letter_sequences(self.options.letters, self.options.seed))

        def judge() -> dict[str, Any]:
            real = self._real_sets(letters_of, self.options.real_letters)
            sets = [*real, *_by_voice(heard, lambda one: letters_of(one.text))]
            return {"letters": judge_words(LetterRecogniser(), sets, self.cancel)}

        return self._judged(judge)

    def sentences(self) -> dict[str, Any]:
        """Share of service sentences that are recognised among all of them."""
        chosen = sentence_choices(self.options.sentences, self.options.seed)
        heard = self._say("sentences", [SENTENCES[index] for index in chosen])

        def judge() -> dict[str, Any]:
            places = {text: index for index, text in enumerate(SENTENCES)}
            sets = _by_voice(heard, lambda one: places[one.text])
            return {"sentences": judge_choices(SentenceRecogniser(SENTENCES), sets, self.cancel)}

        return self._judged(judge)

    def _real_sets(
        self, reference: Callable[[str], Any], most: int | None = None
    ) -> list[tuple[str, Kind, list[tuple[Any, np.ndarray]]]]:
        """Held-out recordings whose text has a reference, at most so many, as they are and through the codec."""
        fitting = [one for one in self.held_out if reference(one.text)]
        fitting = fitting if most is None else spread_out(fitting, most)
        chosen = [(reference(one.text), one) for one in fitting]
        return [
            (REAL, "real", [(wanted, one.samples) for wanted, one in chosen]),
            (CODEC, "codec", [(wanted, self._coded(one)) for wanted, one in chosen]),
        ]

    def frames(self) -> dict[str, Any]:
        """Energy score and calibration on held-out recordings, the voice from another recording of the speaker."""
        items = []
        for recording in spread_out(self.held_out, self.options.frame_items):
            prompt = prompt_for(self.recordings, recording.speaker, recording.key)
            voice = voice_of(self.pipeline, prompt or recording)
            items.append((recording.samples, recording.text, voice.voice if voice else None))
        report = measure_frames(self.pipeline, items, draws=self.options.draws, seed=self.options.seed)
        return {"frames": report}

    def readings(self) -> dict[str, Any]:
        """Held-out texts in their speaker's voice beside the real readings: pairs, and the sets as wholes."""
        items: list[tuple[Recording, TestVoice]] = []
        for recording in spread_out([one for one in self.held_out if one.seconds >= 0.5], self.options.readings):
            prompt = prompt_for(self.recordings, recording.speaker, recording.key)
            voice = voice_of(self.pipeline, prompt) if prompt else None
            if voice is not None:
                items.append((recording, voice))
        if not items:
            return {}
        heard = self.speech.say("readings", [(voice, recording.text) for recording, voice in items])
        self.spoken += heard
        self.read_again = list(zip([recording for recording, _ in items], heard, strict=True))
        generated = [compare_readings(one.samples, real.samples, SAMPLE_RATE) for real, one in self.read_again]
        coded = [compare_readings(self._coded(real), real.samples, SAMPLE_RATE) for real, _ in self.read_again]
        scores = (PairedScore.of(CODEC, "codec", coded), PairedScore.of(ALL, "generated", generated))
        real = utterance_statistics([real.samples for real, _ in self.read_again], SAMPLE_RATE)
        made = utterance_statistics([one.samples for one in heard], SAMPLE_RATE)
        return {"readings": scores, "sets": set_distance(made, real) if len(real) >= 4 else None}

    def endings(self) -> dict[str, Any]:
        """How all speech so far ends, and whose voice it has."""
        lengths = {id(one): real.seconds for real, one in self.read_again}
        stops = stop_quality(
            [one.stop_reason for one in self.spoken],
            [one.samples for one in self.spoken],
            SAMPLE_RATE,
            [lengths.get(id(one)) for one in self.spoken],
        )
        return {"stops": stops, **self._similarities()}

    def _similarities(self) -> dict[str, Any]:
        judge = self.voice_judge
        if judge is None:
            return {}
        known = [one for one in self.spoken if one.voice.speaker in judge.embeddings]
        made = {
            id(one): judge.similarity(one.samples, one.voice.speaker, {one.voice.prompt_key}) for one in known
        }  # fmt: skip
        coded = [
            judge.similarity(self._coded(real), real.speaker, {real.key})
            for real in spread_out(self.held_out, self.options.readings)
            if real.speaker in judge.embeddings and real.seconds >= 1.0
        ]
        scores = [_voice_score(CODEC, "codec", coded)]
        for name in sorted({one.voice.name for one in known}):
            scores.append(_voice_score(name, "generated", [made[id(one)] for one in known if one.voice.name == name]))
        scores.append(_voice_score(ALL, "generated", list(made.values())))
        return {"levels": judge.levels, "voices": tuple(score for score in scores if score is not None)}

    def speed(self) -> dict[str, Any]:
        """First sound and speed of live speech, and of the batches spoken so far."""
        voice, timings = self.voices[0].voice, []
        for place, text in enumerate((SPEED_TEXTS[0], *SPEED_TEXTS)):
            timing, _ = time_stream(self.pipeline.events(text, voice=voice, seed=place, cancel=self.cancel))
            if place and timing.first_audio_s is not None:  # the first one warms up
                timings.append(timing)
        if not timings:
            return {}
        made, spent = self.speech.seconds_made, self.speech.seconds_spent
        score = SpeedScore(
            first_audio_s=float(np.median([timing.first_audio_s for timing in timings])),
            times_real_time=float(np.median([timing.times_real_time for timing in timings])),
            gaps_s=max(timing.gaps_s for timing in timings),
            batch_times_real_time=made / spent if spent else None,
            batch_size=self.options.batch_size,
            texts=len(timings),
        )
        return {"speed": score}


def _voice_score(name: str, kind: Kind, values: Iterable[float | None]) -> VoiceScore | None:
    known = [value for value in values if value is not None]
    return VoiceScore(name, kind, bootstrap_mean(known)) if known else None


def _by_voice(
    heard: Sequence[Heard], reference: Callable[[Heard], Any]
) -> list[tuple[str, Kind, list[tuple[Any, np.ndarray]]]]:
    """Sets of (reference, samples) for each voice, and the set of all."""
    names = list(dict.fromkeys(one.voice.name for one in heard))
    pairs = {name: [(reference(one), one.samples) for one in heard if one.voice.name == name] for name in names}
    sets: list[tuple[str, Kind, list[tuple[Any, np.ndarray]]]] = [
        (name, "generated", own) for name, own in pairs.items()
    ]
    return [*sets, (ALL, "generated", [pair for own in pairs.values() for pair in own])]
