"""Questions about rendered videos: what, where, which way, how many, which first; answers follow from the scene.

Letters: C clips, T frames, h w grid, N = T h w, D width, Q questions of a clip, L words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from datamodules.base import GenerativeData
from datamodules.rendered_video import COLOURS, Background, Mover, Scene, SceneTruth, Shot, render_scene, truth_of
from datamodules.sampler import Pick
from genmm.core.errors import ConfigError
from genmm.core.files import atomic_path
from genmm.core.paths import genmm_home
from genmm.core.seeds import derive_seed
from genmm.systems.vqtoken.methods import CLUSTERINGS

if TYPE_CHECKING:
    from genmm.systems.vqtoken.pipeline import VqTokenPipeline

__all__ = [
    "ANSWERS",
    "KINDS",
    "WORDS",
    "Question",
    "QuestionClips",
    "VideoQuestions",
    "make_clip",
    "render_clip",
]

KINDS = ("what", "where", "direction", "count", "order")
"""Kinds of questions; every clip has one of each."""
SEEN_COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple", "white", "black")
SEEN_SHAPES = ("circle", "square", "triangle", "cross", "star", "bar")
PLACES = (
    "top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
NUMBERS = ("none", "one", "two", "three", "four")
WAYS = ("still", "left", "right", "up", "down")
ANSWERS = tuple(dict.fromkeys([*SEEN_COLOURS, *SEEN_SHAPES, *PLACES, *WAYS, *NUMBERS]))
"""Every answer there is."""
WORDS = tuple(
    dict.fromkeys(
        "what shape is the object colour where at end which way does move how many objects are there appears".split()
        + ["first", "or", *SEEN_COLOURS, *SEEN_SHAPES, "crosses"]
        + [f"{shape}s" for shape in SEEN_SHAPES if shape != "cross"]
    )
)
"""Every word of the questions."""
SECONDS, FPS, SIDE = 4.0, 3.0, 96
"""Length, rate and size of a clip; with 8-pixel cells that is 12 x 12 x 12 = 1,728 tokens."""
STARTS = (0.0, 2 / 3, 4 / 3, 2.0)
"""When a shape may appear, in seconds."""
ENCODED = 8
"""Clips that go through the encoder together."""


@dataclass(frozen=True)
class Question:
    """A question and its answer."""

    kind: str
    """One of KINDS."""
    text: str
    """Words of WORDS."""
    answer: str
    """One of ANSWERS."""


def make_clip(number: int, *, seed: int = 0) -> tuple[Scene, Callable[..., list[Question]]]:
    """Scene `number` of a set, and the function that asks about it once its truth is known: `ask(truth, turn=0)`.

    Every turn asks one question of each kind, about shapes of its own choice.
    """
    rng = np.random.default_rng(derive_seed(seed, "question", number))
    count = int(rng.integers(2, 5))
    colours = [str(c) for c in rng.permutation(SEEN_COLOURS)[: count + 1]]
    starts = [float(s) for s in rng.permutation(STARTS)[:count]]
    movers = tuple(_mover(rng, colours[i], starts[i]) for i in range(count))
    ground = Background(
        kind=str(rng.choice(["plain", "noise", "stripes", "checks", "gradient", "dots"])),
        colour=str(rng.choice([c for c in COLOURS if c not in colours[:count]])),
        contrast=float(rng.uniform(0.05, 0.3)),
    )
    scene = Scene(
        seconds=SECONDS, shots=(Shot(background=ground),), movers=movers, seed=int(rng.integers(2**31)), sounds=()
    )
    return scene, lambda truth, turn=0: _questions(truth, np.random.default_rng(_ask_seed(seed, number, turn)))


def _ask_seed(seed: int, number: int, turn: int) -> int:
    """Turn 0 keeps the seed that single questions always had."""
    return derive_seed(seed, "ask", number) if turn == 0 else derive_seed(seed, "ask", number, turn)


def _mover(rng: np.random.Generator, colour: str, start_s: float) -> Mover:
    """A shape whose way stays inside the picture."""
    motion = str(rng.choice(WAYS))
    reach = 0.0 if motion == "still" else float(rng.uniform(0.3, 0.55))
    x, y = (float(rng.uniform(0.15, 0.85)) for _ in range(2))
    if motion in ("left", "right"):
        x = float(rng.uniform(0.12, 0.88 - reach))
        x = x if motion == "right" else 1.0 - x
    elif motion in ("up", "down"):
        y = float(rng.uniform(0.12, 0.88 - reach))
        y = y if motion == "down" else 1.0 - y
    return Mover(
        shape=str(rng.choice(SEEN_SHAPES)),
        colour=colour,
        start_s=start_s,
        place=(x, y),
        size=float(rng.uniform(0.22, 0.32)),
        motion=motion,
        speed=reach / (SECONDS - start_s),
    )


def _questions(truth: SceneTruth, rng: np.random.Generator) -> list[Question]:
    movers = truth.scene.movers
    pick = [int(rng.integers(len(movers))) for _ in KINDS]
    a, b = (int(v) for v in rng.permutation(len(movers))[:2])
    what, where, way = (movers[p] for p in pick[:3])
    shapes = [m.shape for m in movers]
    if shapes.count(what.shape) == 1 and rng.random() < 0.5:
        first = Question("what", f"what colour is the {what.shape}", what.colour)
    else:
        first = Question("what", f"what shape is the {what.colour} object", what.shape)
    asked = str(rng.choice(shapes)) if rng.random() < 0.8 else str(rng.choice(SEEN_SHAPES))
    plural = "crosses" if asked == "cross" else f"{asked}s"
    if rng.random() < 0.5:
        number = Question("count", "how many objects are there", NUMBERS[len(movers)])
    else:
        number = Question("count", f"how many {plural} are there", NUMBERS[shapes.count(asked)])
    earlier = movers[a] if movers[a].start_s < movers[b].start_s else movers[b]
    order = f"which appears first the {movers[a].name} or the {movers[b].name}"
    return [
        first,
        Question("where", f"where is the {where.name} at the end", truth.place(pick[1], SECONDS)),
        Question("direction", f"which way does the {way.name} move", way.motion),
        number,
        Question("order", order, earlier.colour),
    ]


def render_clip(number: int, *, seed: int = 0, fps: float = FPS, side: int = SIDE) -> tuple[np.ndarray, list[Question]]:
    """Frames [T, side, side, 3] uint8 of clip `number` and its questions."""
    scene, ask = make_clip(number, seed=seed)
    frames, _, truth = render_scene(scene, fps=fps, side=side, sample_rate=100)
    return frames, ask(truth)


# ---------------------------------------------------------------- features, reduced once and kept


@dataclass(frozen=True)
class QuestionClips:
    """A set of clips: how many, from which number on, at what rate and size."""

    count: int
    first: int = 0
    seed: int = 0
    fps: float = FPS
    side: int = SIDE

    def file_name(self, encoder: str, split: str) -> str:
        """Name of the file of their features by the encoder of this fingerprint."""
        return f"{encoder}-{split}-{self.first}-{self.count}-{self.seed}-{self.fps:g}-{self.side}.safetensors"

    def questions(self, number: int, turns: int = 1) -> list[Question]:
        """Questions of clip `number` of the set, one of each kind for each turn, without pictures."""
        scene, ask = make_clip(self.first + number, seed=self.seed)
        truth = truth_of(scene, np.arange(max(1, round(scene.seconds * self.fps))) / self.fps)
        return [question for turn in range(turns) for question in ask(truth, turn)]

    def targets(self, turns: int = 1) -> tuple[Tensor, Tensor]:
        """Word ids [C, Q, L] (0 pads) and answer ids [C, Q]; Q is the number of kinds times `turns`."""
        ids = {word: n for n, word in enumerate(WORDS, 1)}
        rows, answers = [], []
        for number in range(self.count):
            asked = self.questions(number, turns)
            rows.append([[ids[word] for word in question.text.split()] for question in asked])
            answers.append([ANSWERS.index(question.answer) for question in asked])
        longest = max(len(row) for clip in rows for row in clip)
        words = torch.tensor([[row + [0] * (longest - len(row)) for row in clip] for clip in rows])
        return words, torch.tensor(answers)


def encode_clips(
    clips: QuestionClips,
    encode: Callable[[np.ndarray], Tensor],
    path: Path,
    *,
    on_clip: Callable[[int], None] | None = None,
) -> Path:
    """Write features [C, T, h, w, D] float16 of all clips into one file, unless it is there; gives back its path."""
    if path.is_file():
        return path
    features: Tensor | None = None
    for start in range(0, clips.count, ENCODED):
        numbers = range(start, min(clips.count, start + ENCODED))
        frames = [render_clip(clips.first + n, seed=clips.seed, fps=clips.fps, side=clips.side)[0] for n in numbers]
        own = encode(np.concatenate(frames)).half().unflatten(0, (len(frames), -1))
        if features is None:
            features = torch.empty(clips.count, *own.shape[1:], dtype=torch.float16)
        features[start : start + len(frames)] = own
        if on_clip is not None:
            on_clip(start + len(frames))
    with atomic_path(path) as temporary:
        save_file({"features": features}, temporary)
    return path


def at_side(pipeline: VqTokenPipeline, side: int) -> None:
    """Let the pipeline's encoder see frames of this side in pixels as they are, instead of scaled to its own."""
    from genmm.systems.vqtoken.encoders import VisionEncoder

    if side != pipeline.config.frames.side:
        pipeline.use_encoder(VisionEncoder(pipeline.vision, side))


def read_features(path: Path, start: int, end: int) -> Tensor:
    """Clips start .. end - 1 of a features file, float32."""
    with safe_open(path, "pt") as stored:
        return stored.get_slice("features")[start:end].float()


class VideoQuestions(GenerativeData):
    """Reduced clips with questions: tokens [B, M, D], token_mask, places [B, M, 7], index_map, words, answers."""

    def __init__(
        self,
        encoder: str = "vqtoken",
        method: str = "vqtoken",
        clustering: str = "kmeans",
        tokens: int = 12,
        train_clips: int = 2000,
        val_clips: int = 300,
        turns: int = 16,
        fps: float = FPS,
        side: int = SIDE,
        cache: str | None = None,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            encoder: Model name or folder whose encoder makes the features.
            method: Reducer, see genmm.systems.vqtoken.methods.METHODS.
            clustering: How vqtoken finds its clusters: kmeans or k_center.
            tokens: Tokens of a clip.
            train_clips: Clips to train on.
            val_clips: Clips to validate on; as many again are for the test.
            turns: Sets of five questions that are known of a training clip; an epoch asks one of them.
            fps: Frames a second of a clip.
            side: Side of a frame in pixels, a multiple of 8.
            cache: Folder for features; null means video_qa in $GENMM_HOME.
            batch_size: Clips in a batch, each with five questions.
            workers: Processes that read data.
            seed: Seed of the scenes and of the order.
        """
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        if side % 8 or min(train_clips, val_clips, tokens) < 1:
            raise ConfigError(
                f"side must be a multiple of 8, train_clips, val_clips and tokens at least 1; got {side}, "
                f"{train_clips}, {val_clips} and {tokens}"
            )
        if turns < 1:
            raise ConfigError(f"turns must be at least 1, got {turns}")
        if clustering not in CLUSTERINGS:
            raise ConfigError(f"clustering must be one of {', '.join(CLUSTERINGS)}, got {clustering!r}")
        self.encoder, self.method, self.tokens, self.turns = encoder, method, tokens, turns
        self.clustering = clustering
        self.home = Path(cache) if cache else genmm_home() / "video_qa"
        self.sets = {
            "train": QuestionClips(train_clips, 0, seed, fps, side),
            "val": QuestionClips(val_clips, 10**6, seed, fps, side),
            "test": QuestionClips(val_clips, 2 * 10**6, seed, fps, side),
        }
        self._encode: Callable[[np.ndarray], Tensor] | None = None
        self._name = ""

    @property
    def encoder_folder(self) -> str:
        """Folder of the model whose encoder is used."""
        from genmm.registry import find_model

        return str(find_model(self.encoder).path)

    def dataset(self, split: str) -> ReducedClips:
        """Reduce the clips of a split once."""
        from genmm.systems.vqtoken.reducer import reduce

        clips, parts = self.sets[split], []
        path = self.features(split)
        how = {"method": self.method, "clustering": self.clustering}
        for start in range(0, clips.count, 16):
            with torch.no_grad():
                parts.append(reduce(read_features(path, start, min(clips.count, start + 16)), self.tokens, **how))
        return ReducedClips(parts, *clips.targets(self.turns if split == "train" else 1))

    def features(self, split: str) -> Path:
        """The file of a split's features; encodes them when it is missing."""
        if self._encode is None:
            self._open()
        clips = self.sets[split]
        return encode_clips(clips, self._encode, self.home / clips.file_name(self._name, split))

    def _open(self) -> None:
        from genmm.registry import load

        pipeline = load(self.encoder, device="cpu", dtype="float32")
        at_side(pipeline, self.sets["train"].side)
        self._encode, self._name = pipeline.features, pipeline.encoder_fingerprint

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}


class ReducedClips:
    """Items of a split, all with the same number of rows; of several sets of questions the pick's seed takes one."""

    def __init__(self, parts: list[Any], words: Tensor, answers: Tensor) -> None:
        from genmm.systems.vqtoken.answerer import token_places

        width = max(part.codebook.shape[1] for part in parts)

        def joined(rows: list[Tensor]) -> Tensor:
            pad = torch.nn.functional.pad
            return torch.cat([pad(r, (0, 0, 0, width - r.shape[1])) if r.ndim == 3 else r for r in rows])

        self.codebook = joined([part.codebook.half() for part in parts])
        self.places = joined([token_places(part) for part in parts])
        self.mask = joined([part.mask.unsqueeze(-1) for part in parts]).squeeze(-1)
        self.index_map = torch.cat([part.index_map.to(torch.int16) for part in parts])
        self.words, self.answers = words, answers
        self.lengths = [1] * len(words)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, pick: Pick) -> dict[str, Tensor]:
        n, turns = pick.index, self.words.shape[1] // len(KINDS)
        turn = int(np.random.default_rng(pick.seed).integers(turns)) if turns > 1 else 0
        asked = slice(turn * len(KINDS), (turn + 1) * len(KINDS))
        return {
            "codebook": self.codebook[n].float(),
            "places": self.places[n],
            "mask": self.mask[n],
            "index_map": self.index_map[n].long(),
            "words": self.words[n, asked],
            "answers": self.answers[n, asked],
        }
