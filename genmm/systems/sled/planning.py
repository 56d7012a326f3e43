"""From a request to tasks: text in the model's style and in parts, the voice looked up, every line with its seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from genmm.core.errors import UsageError
from genmm.core.limits import Limits, clean_text
from genmm.core.suggest import did_you_mean
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.latents import LatentCodec
from genmm.systems.sled.request import SpeechRequest, SpeechSettings, expected_s, lines_of
from genmm.systems.sled.speaking import Task
from genmm.systems.sled.text import TextRules, model_text, split_text, spoken_text
from genmm.systems.sled.tokenizer import SledTokenizer
from genmm.systems.sled.voice import Voice

SHORTEST_PART = 40
"""Characters below which a part is not cut further, however little room there is."""


@dataclass(frozen=True)
class Plan:
    """A request with everything looked up."""

    request: SpeechRequest
    settings: SpeechSettings
    voice: Voice | None
    spoken: str
    """The whole text as the model reads it."""
    parts: list[str]
    """The same in parts, each with a closing mark."""
    seeds: tuple[int, ...]
    """One for each take."""
    tasks: list[Task]
    """Every part of every take, takes in order, parts in order within."""


@dataclass(frozen=True, kw_only=True)
class Planner:
    """What a checkpoint knows that plans depend on."""

    name: str
    config: SledConfig
    codec: LatentCodec
    tokenizer: SledTokenizer
    rules: TextRules
    defaults: SpeechSettings
    voices: Mapping[str, Voice]
    limits: Limits

    def plan(self, number: int, request: SpeechRequest) -> Plan:
        """The plan of request `number`. Raises: UsageError, LimitError for what cannot be spoken."""
        settings, seeds = request.resolved(self.defaults), request.take_seeds()
        voice = self.find_voice(request.voice, settings)
        spoken = spoken_text(clean_text(request.text, self.limits), self.rules)
        if not spoken:
            raise UsageError(f"there is nothing to say in {request.text[:40]!r}; write at least one word or number")
        prompt, transcript, statistics = self.use_voice(voice, settings)
        parts = self.split(spoken, settings, prompt)
        tasks = [
            Task(
                line=line,
                settings=settings,
                ids=self.tokenizer.encode(model_text(line.text, self.rules, transcript)),
                prompt=prompt,
                voice=statistics,
            )
            for line in lines_of(number, parts, seeds)
        ]
        return Plan(request, settings, voice, " ".join(parts), parts, seeds, tasks)

    def plan_live(self, request: SpeechRequest, text: Overheard) -> Plan:
        """The plan for text that arrives while it is spoken. Raises: UsageError without a streaming network."""
        if not self.config.is_streaming:
            raise UsageError(f"model {self.name} needs the whole text first; pass a string, or use a streaming model")
        settings, seeds = request.resolved(self.defaults), request.take_seeds()
        if len(seeds) != 1:
            raise UsageError(f"text that arrives while it is spoken can have one take, got {len(seeds)}")
        voice = self.find_voice(request.voice, settings)
        prompt, transcript, statistics = self.use_voice(voice, settings)
        if settings.max_s is None:
            settings = settings.changed({"max_s": self.config.max_position_embeddings / self.codec.frame_rate})
        ids = text.ids(self.tokenizer, model_text("", self.rules, transcript))
        line = lines_of(0, [""], seeds)[0]
        task = Task(line=line, settings=settings, ids=ids, prompt=prompt, voice=statistics)
        return Plan(request, settings, voice, "", [""], seeds, [task])

    def find_voice(self, wanted: str | Voice | None, settings: SpeechSettings) -> Voice | None:
        """The voice asked for, else the default one, else None. Raises: UsageError for one that cannot be used."""
        wanted = settings.voice if wanted is None else wanted
        if not wanted:
            return None
        voice = wanted
        if isinstance(wanted, str):
            if wanted not in self.voices:
                names = ", ".join(self.voices) or "none; make one with pipeline.voice(...)"
                guess = did_you_mean(wanted, self.voices)
                raise UsageError(f"there is no voice {wanted!r} in model {self.name}; it has: {names}{guess}")
            voice = self.voices[wanted]
        if voice.latents.shape[1] != self.codec.channels or voice.frame_rate != self.codec.frame_rate:
            raise UsageError(
                f"the voice {voice.name!r} was made with another codec ({voice.latents.shape[1]} channels at "
                f"{voice.frame_rate:g} Hz, here {self.codec.channels} at {self.codec.frame_rate:g} Hz); "
                "make it again from its recording"
            )
        return voice

    def use_voice(self, voice: Voice | None, settings: SpeechSettings) -> tuple[Tensor | None, str, Tensor | None]:
        """Prompt latents, their transcript and the statistics vector, as far as network and settings use them.

        Raises: UsageError when continuing needs a transcript that the voice has not.
        """
        knows_statistics = self.config.voice_channels > 0
        if settings.cloning == "statistics" and not knows_statistics:
            raise UsageError(f"model {self.name} knows no voice statistics; use cloning auto or continuation")
        if voice is None:
            return None, "", None
        statistics = voice.statistics if knows_statistics else None
        if settings.cloning == "statistics" or (settings.cloning == "auto" and knows_statistics):
            return None, "", statistics
        if not voice.transcript:
            raise UsageError(
                f"model {self.name} clones a voice by continuing its recording, so it needs what is said in "
                f"{voice.name!r}; give the transcript"
            )
        return voice.latents, spoken_text(voice.transcript, self.rules), statistics

    def split(self, spoken: str, settings: SpeechSettings, prompt: Tensor | None) -> list[str]:
        """The text in parts that fit the context with room to spare, each with a closing mark."""
        positions = self.config.max_position_embeddings - (0 if prompt is None else len(prompt))
        most = int(settings.chunk_chars)
        while most > SHORTEST_PART and 1.6 * expected_s("x" * most) * self.codec.frame_rate > positions:
            most = max(SHORTEST_PART, most - 20)
        return [self._closed(part) for part in split_text(spoken, most)]

    def _closed(self, part: str) -> str:
        if not self.rules.final_stop or part.rstrip("\"')]\u201d")[-1:] in tuple(".?!"):
            return part
        return part.rstrip(",;:- ") + "."


class Overheard:
    """Text that is still being written: its ids as they become certain, and what has been read."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces, self.heard = pieces, ""

    def ids(self, tokenizer: SledTokenizer, opening: str) -> Iterator[int]:
        """Ids from <s> to </s>; waits for the writer where a word is not finished."""
        feed = tokenizer.feed()
        yield from feed.push(opening)
        for piece in self._pieces:
            self.heard += piece
            yield from feed.push(piece)
        yield from feed.finish()
