"""Everything that is measured about a music model: adherence, solos, edits, codec, distance to real music.

Every share comes with its 95 % interval (Wilson) and beside what the same judge says of rendered truth, of truth that
went through the codec (the most that a model on this codec can reach) and of other captions (chance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from app.evaluation import music_codec, music_edits
from app.evaluation.journal import Journal
from app.evaluation.music_judges import INSTRUMENTS, Judges
from datamodules.rendered_music import MusicRenderer
from datamodules.rendered_music_score import solo
from datamodules.rendered_music_sounds import SoundBank
from datamodules.rendered_music_synthesis import RATE
from genmm.core.errors import UsageError
from genmm.core.events import Event, Progress
from genmm.metrics.video_tokens import wilson_interval

T = TypeVar("T")
PARTS = ("adherence", "instruments", "edits", "codec", "distance")
"""What can be measured apart from each other; distance uses the pieces of adherence."""
LONGEST_S = 10.0
"""Length of measured pieces, or the model's window where that is shorter."""


@dataclass(frozen=True, kw_only=True)
class MusicEvaluation:
    """How much is measured."""

    pieces: int = 40
    """Pieces whose tempo, key and drums are judged."""
    each: int = 4
    """Solos of each instrument."""
    edits: int = 12
    """Edits of each kind by each inversion."""
    training: int = 192
    """Rendered pieces that each of the two trained judges learns from."""
    real: int = 24
    """Real tracks that the model was not trained on, at most."""
    strength: float = 0.9
    """Strength of the edits; chosen once, before anything was measured."""
    seed: int = 2024
    """Seed of captions, notes and music."""

    def __post_init__(self) -> None:
        if min(self.pieces, self.each, self.edits, self.real) < 1 or self.training < 2 * len(INSTRUMENTS):
            raise UsageError(f"every count must be at least 1 and training at least {2 * len(INSTRUMENTS)}, got {self}")
        if not 0.0 < self.strength <= 1.0 or self.seed < 0:
            raise UsageError(f"strength must be in (0, 1] and the seed at least 0, got {self.strength}, {self.seed}")

    @classmethod
    def quick(cls, seed: int) -> MusicEvaluation:
        """A few pieces: shows that it works."""
        return cls(pieces=2, each=1, edits=1, training=4 * len(INSTRUMENTS), real=2, seed=seed)


def share(right: Sequence[bool]) -> dict[str, float]:
    """A share with its interval, JSON-able."""
    low, high = wilson_interval(sum(right), len(right))
    return {"value": sum(right) / len(right), "low": low, "high": high, "count": len(right)}


class MusicMeasure:
    """One model under measurement; parts may be run alone and in any order."""

    def __init__(
        self,
        pipeline: Any,
        options: MusicEvaluation,
        folder: Path | None = None,
        sounds: SoundBank | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """folder: where results of single items are kept, so that the same call goes on after a stop."""
        self.pipeline, self.options, self._on_event = pipeline, options, on_event or (lambda event: None)
        self.seconds = min(LONGEST_S, pipeline.window_s)
        bound = {"model": pipeline.model["fingerprint"], "seconds": self.seconds, "seed": options.seed,
                 "strength": options.strength, "packing": pipeline.network.packing}  # fmt: skip
        self.journal = Journal(folder, "music-items", bound)
        renderer = MusicRenderer(sounds, seconds=self.seconds)
        self.judges = Judges(renderer, self.journal, options.seed, options.training, self.say)

    def say(self, what: str, done: int, total: int) -> None:
        """Report progress."""
        self._on_event(Progress(done, total, "items", what))

    def each(self, what: str, items: Iterable[T]) -> Iterator[T]:
        """The items, with progress."""
        items = list(items)
        for number, item in enumerate(items):
            self.say(what, number, len(items))
            yield item

    def run(self, parts: Sequence[str] = PARTS) -> dict[str, Any]:
        """Measure the parts; gives back all figures, JSON-able."""
        unknown = sorted(set(parts) - set(PARTS))
        if unknown:
            raise UsageError(f"unknown parts: {', '.join(unknown)}; known: {', '.join(PARTS)}")
        figures: dict[str, Any] = {
            "report": "music", "model": self.pipeline.model, "options": asdict(self.options), "seconds": self.seconds,
        }  # fmt: skip
        work = {
            "adherence": self.adherence,
            "instruments": self.instruments,
            "edits": lambda: music_edits.edits(self),
            "codec": lambda: music_codec.reconstruction(self),
            "distance": lambda: music_codec.distance(self),
        }
        for part in (part for part in PARTS if part in parts):
            figures[part] = work[part]()
        return figures

    # ------------------------------------------------------------ new music

    def piece(self, number: int) -> dict[str, Any]:
        """What is heard in the model's piece for caption `number`, in the truth, and their codec embeddings."""

        def make() -> dict[str, Any]:
            caption, following = self.judges.wanted(number), self.judges.wanted(number + 1)
            truth = self.judges.rendered(number, caption)
            made = self.compose(caption.text(), number)
            rate = self.pipeline.sample_rate
            through = music_codec.round_trip(self.pipeline.codec, truth, RATE)
            heard = self.judges.hear(made, rate)
            return {
                "heard": {
                    "model": heard.matches(caption),
                    "truth": self.judges.hear(truth, RATE).matches(caption),
                    "codec": self.judges.hear(through, rate).matches(caption),
                    "chance": heard.matches(following),
                },
                "embeddings": {
                    "model": music_codec.embeddings(self.pipeline.codec, made, rate),
                    "truth": music_codec.embeddings(self.pipeline.codec, truth, RATE),
                },
            }

        return self.journal.kept(f"piece {number}", make)

    def compose(self, text: str, number: int) -> np.ndarray:
        """The model's music for a description, with its own defaults."""
        return self.pipeline.generate(text, duration_s=self.seconds, seed=number).samples[0]

    def adherence(self) -> dict[str, Any]:
        """Shares of attributes that are heard as asked for."""
        found = [self.piece(number)["heard"] for number in self.each("adherence", range(self.options.pieces))]
        names = [name for name in found[0]["model"] if name != "instrument"]  # mixes have no single instrument
        return {
            who: {name: share([heard[who][name] for heard in found]) for name in names}
            for who in ("model", "truth", "codec", "chance")
        }

    def instruments(self) -> dict[str, Any]:
        """Shares of solos that are heard as the instrument asked for."""
        names = [name for name in INSTRUMENTS for _ in range(self.options.each)]

        def make(number: int, name: str) -> dict[str, bool]:
            caption = solo(self.judges.wanted(9000 + number), "lead", name)
            truth, rate = self.judges.rendered(9000 + number, caption), self.pipeline.sample_rate
            through = music_codec.round_trip(self.pipeline.codec, truth, RATE)
            made = self.compose(caption.text(), number)
            sounds = {"model": (made, rate), "truth": (truth, RATE), "codec": (through, rate)}
            heard = {who: self.judges.hear(*sound).instrument for who, sound in sounds.items()}
            other = INSTRUMENTS[(INSTRUMENTS.index(name) + 1) % len(INSTRUMENTS)]
            return {**{who: word == name for who, word in heard.items()}, "chance": heard["model"] == other}

        found = [
            self.journal.kept(f"solo {name} {number}", lambda n=number, w=name: make(n, w))
            for number, name in self.each("instruments", list(enumerate(names)))
        ]
        return {who: share([row[who] for row in found]) for who in ("model", "truth", "codec", "chance")}
