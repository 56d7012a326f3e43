"""A search index over videos: the token sets of their moments in files, compared exactly.

Letters: Q tokens of a query, M tokens of all moments together, n moments, D width.
A moment is a few seconds of a video with a token set of its own (as many tokens as it needs). Two sets are compared in
both directions: every token looks for its most similar one in the other set, weighted by the share of the moment that
it stands for. Tokens are centred on the mean of the index first, since features share a large common part.
"""

from __future__ import annotations

import hashlib
import math
import os
import shlex
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from genmm.core.errors import CheckpointError, DataError, MediaError, UsageError
from genmm.core.events import CancelToken, Event, Progress
from genmm.core.files import atomic_path, check_target
from genmm.core.weights import read_tensors
from genmm.media.image import is_picture, read_image
from genmm.media.source import MediaInput, open_source
from genmm.media.video import iter_frames, probe
from genmm.quantizers.adaptive import AdaptiveK
from genmm.systems.vqtoken.index_table import TABLE, IndexEntry, IndexTable
from genmm.systems.vqtoken.pipeline import VqTokenPipeline, budget_of, end_of
from genmm.systems.vqtoken.reduced import ReducedVideo
from genmm.systems.vqtoken.reducer import Budget

__all__ = ["Hit", "MomentSet", "VideoIndex", "moment_set", "moment_sets", "query_set", "set_similarity"]

MOMENT_S = 4.0
"""Length of a moment in seconds."""
ADAPTIVE = AdaptiveK(rule="explained", explained=0.75, least=4, most=24)
"""Tokens of a moment unless a number is asked for."""
CLUSTERING = "kmeans"
"""Tokens of a set are means, whatever the model's block reads: a set stands for all that is in a moment."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class MomentSet:
    """Tokens of one moment or query."""

    tokens: Tensor
    """[K, D] float32 codebook rows."""
    weights: Tensor
    """[K] float32, shares of the cells, summing to 1."""
    start_s: float = 0.0
    """Where the moment begins in its video, in seconds."""
    end_s: float = 0.0
    """Where it ends."""

    @classmethod
    def of(cls, reduced: ReducedVideo, start_s: float = 0.0, end_s: float = 0.0) -> MomentSet:
        """The set of a reduced clip."""
        mask = reduced.mask[0]
        counts = reduced.counts[0][mask].float().cpu()
        tokens = reduced.codebook[0][mask].detach().float().cpu()
        return cls(tokens, counts / counts.sum().clamp_min(1.0), start_s, end_s)


@dataclass(frozen=True)
class Hit:
    """A moment that was found."""

    video: str
    """Path of the video as it was added."""
    start_s: float
    """Where the moment begins in the video, in seconds."""
    end_s: float
    """Where it ends."""
    score: float
    """Similarity, at most 1; about 0 for unrelated moments."""


def set_similarity(a: MomentSet, b: MomentSet, centre: Tensor | None = None) -> float:
    """Similarity of two sets by the definition: both directions, weighted best matches. The oracle of the search."""
    x, y = (_directions(s.tokens, centre) for s in (a, b))
    cosine = x @ y.T
    return 0.5 * float((a.weights * cosine.amax(1)).sum() + (b.weights * cosine.amax(0)).sum())


def _directions(tokens: Tensor, centre: Tensor | None) -> Tensor:
    unit = F.normalize(tokens, dim=-1)
    return unit if centre is None else F.normalize(unit - centre, dim=-1)


def moment_sets(
    pipeline: VqTokenPipeline,
    source: MediaInput,
    *,
    tokens: int | str | Budget = "adaptive",
    moment_s: float = MOMENT_S,
    cancel: CancelToken | None = None,
    on_notes: Callable[[tuple[str, ...]], None] | None = None,
) -> Iterator[MomentSet]:
    """Token sets of the moments of a video, one after another at flat memory.

    Less than half a moment at the end belongs to the moment before it. `on_notes` hears at the end what was unusual
    about the file. Raises: UsageError; as reading a video does.
    """
    if not 0 < moment_s < math.inf:
        raise UsageError(f"a moment must be longer than 0 s and finite, got {moment_s!r}")
    budget, fps = _budget(tokens), pipeline.config.frames.fps
    frames: list[np.ndarray] = []
    times: list[float] = []
    size = {"max_side": 2 * pipeline.config.frames.side, "limits": pipeline.limits}
    with open_source(source, pipeline.limits) as media:
        length_s = probe(media, limits=pipeline.limits).duration_s
        with iter_frames(media, fps=fps, **size) as reader:
            for frame in reader:
                if cancel is not None:
                    cancel.check()
                frames.append(frame.image)
                times.append(frame.time_s)
                if times[-1] + 1.0 / fps >= times[0] + 1.5 * moment_s - 1e-6:
                    own = max(1, bisect_left(times, times[0] + moment_s - 1e-6))
                    end_s = end_of(times[own - 1], 1.0 / fps, length_s)
                    yield moment_set(pipeline, frames[:own], budget, times[0], end_s)
                    del frames[:own], times[:own]
            if on_notes is not None:
                on_notes(reader.notes)
    if frames:
        yield moment_set(pipeline, frames, budget, times[0], end_of(times[-1], 1.0 / fps, length_s))


def query_set(
    pipeline: VqTokenPipeline,
    source: MediaInput,
    *,
    tokens: int | str | Budget = "adaptive",
    on_event: Callable[[Event], None] | None = None,
    on_notes: Callable[[tuple[str, ...]], None] | None = None,
) -> MomentSet:
    """The token set of a query: a whole clip, or a still picture (path or bytes).

    `on_event` hears how far a clip is read, `on_notes` at the end what was unusual about it.
    Raises: MediaError when nothing in it gives a usable feature.
    """
    if _is_picture(source):
        picture = read_image(source, max_side=2 * pipeline.config.frames.side, limits=pipeline.limits)
        found = moment_set(pipeline, [picture], tokens)
        if not len(found.tokens):
            raise MediaError("no part of the picture gave a usable feature, so there is nothing to look for")
        return found
    made = pipeline.tokenize(source, tokens=_budget(tokens), method=CLUSTERING, on_event=on_event)
    if on_notes is not None:
        on_notes(made.notes)
    return MomentSet.of(made.reduced, 0.0, made.seconds)


def _is_picture(source: MediaInput) -> bool:
    """Whether it is read as a still picture: by its first bytes, or because it is named like one."""
    if isinstance(source, bytes | bytearray):
        return is_picture(bytes(source[:32]))
    try:
        with open(source, "rb") as stream:  # type: ignore[arg-type]
            head = stream.read(32)
    except (OSError, TypeError, ValueError):
        return False
    return is_picture(head) or Path(source).suffix.lower() in PICTURES  # type: ignore[arg-type]


def _budget(tokens: int | str | Budget) -> Budget:
    return ADAPTIVE if tokens == "adaptive" else budget_of(tokens)


def moment_set(
    pipeline: VqTokenPipeline,
    frames: Sequence[np.ndarray],
    tokens: int | str | Budget = "adaptive",
    start_s: float = 0.0,
    end_s: float = 0.0,
) -> MomentSet:
    """The token set of the frames [H, W, 3] uint8 of one moment."""
    features = pipeline.features(np.stack(frames))
    made = pipeline.reduce(features, _budget(tokens), block=None, method=CLUSTERING)
    return MomentSet.of(made, start_s, end_s)


class VideoIndex(IndexTable):
    """An index in a folder that is searched and added to. Several readers may use it while one process adds."""

    def __init__(self, folder: Path, encoder: str, entries: Sequence[IndexEntry]) -> None:
        super().__init__(folder, encoder, entries)
        self.notes: tuple[str, ...] = ()
        """What was unusual about the video that was added last."""
        self._loaded: tuple[tuple[str, ...], dict[str, Tensor]] | None = None

    def add(
        self,
        pipeline: VqTokenPipeline,
        path: str | os.PathLike[str],
        *,
        tokens: int | str | Budget = "adaptive",
        moment_s: float = MOMENT_S,
        cancel: CancelToken | None = None,
        on_event: Callable[[Progress], None] | None = None,
    ) -> bool:
        """Add a video, or bring it up to date; False when the index has it already (see `notes` afterwards).

        Raises: UsageError; as reading a video does.
        """
        self.notes = ()
        path = Path(path).resolve()
        if not path.is_file():
            raise MediaError(f"there is no file {path}")
        state = path.stat()
        budget = f"{tokens}/{moment_s:g}"
        name = hashlib.sha256(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0{budget}".encode()).hexdigest()[:20]
        if any(entry.id == name and self._is_readable(entry) for entry in self.entries):
            return False
        check_target(self.folder / TABLE)  # before minutes of reading
        sets: list[MomentSet] = []

        def keep(notes: tuple[str, ...]) -> None:
            self.notes = notes

        for one in moment_sets(pipeline, path, tokens=tokens, moment_s=moment_s, cancel=cancel, on_notes=keep):
            sets.append(one)
            if on_event is not None:
                on_event(Progress(len(sets), None, "moments", path.name))
        self._check_finite(sets)
        entry = IndexEntry(
            id=name,
            path=str(path),
            bytes=state.st_size,
            modified_ns=state.st_mtime_ns,
            seconds=round(sets[-1].end_s, 4),
            moments=len(sets),
            tokens=sum(len(s.tokens) for s in sets),
            budget=budget,
        )
        with self._writing():
            self._write_sets(entry, sets)
            self._replace(self._of(entry.path), entry)
        return True

    def moment_at(self, path: str | os.PathLike[str], at_s: float) -> MomentSet:
        """The moment of a video that holds a time: the last one that begins by then, or the first.

        Raises: UsageError when the video is not in the index, DataError when its tokens are damaged.
        """
        found = self._of(path)
        if not found:
            raise UsageError(f"{path} is not in the index in {self.folder}; add it first: genmm index add")
        one = self._read(found[-1])
        number = max(0, int((one["spans"][:, 0] <= at_s + 1e-6).sum()) - 1)
        rows = slice(*one["offsets"][number : number + 2].tolist())
        start_s, end_s = one["spans"][number].tolist()
        return MomentSet(one["tokens"][rows].float(), one["weights"][rows].float(), start_s, end_s)

    def search(self, query: MomentSet, *, top: int = 5, per_video: int = 2, pooled: bool = False) -> list[Hit]:
        """The most similar moments, best first, at most `per_video` of one video.

        pooled=True compares the mean tokens alone, which is what a plain index does; for comparisons.
        Raises: UsageError for an empty index or a query of another width.
        """
        for name, value in (("top", top), ("per_video", per_video)):
            if value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if not len(query.tokens):
            raise UsageError("the query holds no token, so there is nothing to look for")
        stored = self._load()
        if query.tokens.shape[1] != stored["tokens"].shape[1]:
            width = stored["tokens"].shape[1]
            raise UsageError(f"the query has width {query.tokens.shape[1]}, the index {width}")
        scores = _pooled_scores(query, stored) if pooled else _set_scores(query, stored)
        hits: list[Hit] = []
        for number in scores.argsort(descending=True, stable=True).tolist():
            entry = self.entries[int(stored["owner"][number])]
            if sum(hit.video == entry.path for hit in hits) < per_video:
                start, end = (float(t) for t in stored["spans"][number])
                hits.append(Hit(entry.path, start, end, float(scores[number])))
            if len(hits) == top:
                break
        return hits

    # ------------------------------------------------------------ files

    @staticmethod
    def _check_finite(sets: Sequence[MomentSet]) -> None:
        if not all(bool(torch.isfinite(one.tokens.half()).all()) for one in sets):
            raise UsageError("the features do not fit float16, in which an index keeps them; scale them down")

    def _write_sets(self, entry: IndexEntry, sets: Sequence[MomentSet]) -> None:
        sizes = torch.tensor([len(s.tokens) for s in sets])
        tensors = {
            "tokens": torch.cat([s.tokens for s in sets]).half(),
            "weights": torch.cat([s.weights for s in sets]),
            "offsets": F.pad(sizes.cumsum(0), (1, 0)),
            "spans": torch.tensor([[s.start_s, s.end_s] for s in sets], dtype=torch.float64),
        }
        with atomic_path(self._file(entry)) as temporary:
            save_file(tensors, temporary)

    def _load(self) -> dict[str, Tensor]:
        """All token sets of the index, read once for each state of the table.

        A file that another process has taken away since the table was read: the table is read again.
        """
        if not all(self._file(entry).is_file() for entry in self.entries):
            self._read_again()
        if not self.entries:
            raise UsageError(f"the index in {self.folder} is empty; add videos first")
        key = tuple(entry.id for entry in self.entries)
        if self._loaded is not None and self._loaded[0] == key:
            return self._loaded[1]
        parts: dict[str, list[Tensor]] = {name: [] for name in ("tokens", "weights", "moment", "spans", "owner")}
        moments = 0
        for number, entry in enumerate(self.entries):
            one = self._read(entry)
            sizes = one["offsets"].diff()
            parts["tokens"].append(one["tokens"].float())
            parts["weights"].append(one["weights"].float())
            parts["moment"].append(moments + torch.repeat_interleave(torch.arange(len(sizes)), sizes))
            parts["spans"].append(one["spans"])
            parts["owner"].append(torch.full((len(sizes),), number))
            moments += len(sizes)
        widths = {part.shape[1] for part in parts["tokens"]}
        if len(widths) > 1:
            raise DataError(
                f"the index in {self.folder} is damaged: it holds tokens of widths {sorted(widths)}; start a new one"
            )
        stored = {name: torch.cat(tensors) for name, tensors in parts.items()}
        unit = F.normalize(stored["tokens"], dim=-1)
        stored["centre"] = (unit * stored["weights"].unsqueeze(1)).sum(0) / moments
        stored["directions"] = F.normalize(unit - stored["centre"], dim=-1)
        self._loaded = (key, stored)
        return stored

    def _read(self, entry: IndexEntry) -> dict[str, Tensor]:
        """The token sets of one video. Raises: DataError when the file is not as `_write_sets` leaves it."""
        file, video, index = self._file(entry), shlex.quote(entry.path), shlex.quote(str(self.folder))
        cure = f"make them again with: genmm index add {video} --index {index}, or take the video out with: "
        cure += f"genmm index remove {video} --index {index}"
        if not file.is_file():
            raise DataError(f"the index has lost the tokens of {entry.path}; {cure}")
        try:
            one = read_tensors(file, dtype=None)
        except CheckpointError as error:
            raise DataError(f"the tokens of {entry.path} are damaged ({error}); {cure}") from error
        tokens, weights, offsets, spans = (one.get(name) for name in ("tokens", "weights", "offsets", "spans"))
        is_sound = all(part is not None for part in (tokens, weights, offsets, spans))
        is_sound = is_sound and (tokens.ndim, weights.ndim, offsets.ndim, spans.ndim) == (2, 1, 1, 2)
        is_sound = is_sound and tokens.is_floating_point() and offsets.dtype == torch.int64 and len(offsets) > 1
        is_sound = is_sound and len(weights) == len(tokens) == int(offsets[-1]) == entry.tokens and not int(offsets[0])
        is_sound = is_sound and bool((offsets.diff() >= 0).all()) and spans.shape == (entry.moments, 2)
        is_sound = is_sound and len(offsets) == entry.moments + 1
        if not is_sound:
            raise DataError(f"the tokens of {entry.path} are damaged ({file} holds something else); {cure}")
        return one

    def _is_readable(self, entry: IndexEntry) -> bool:
        try:
            self._read(entry)
        except DataError:
            return False
        return True


def _set_scores(query: MomentSet, stored: dict[str, Tensor]) -> Tensor:
    """Similarity of the query to every moment [n]: one product [M, Q], best matches per moment."""
    moments, moment = len(stored["spans"]), stored["moment"]
    cosine = stored["directions"] @ _directions(query.tokens, stored["centre"]).T  # [M, Q]
    forth = cosine.new_full((moments, cosine.shape[1]), -1.0)
    forth = forth.scatter_reduce(0, moment.unsqueeze(1).expand_as(cosine), cosine, "amax")
    back = cosine.new_zeros(moments).index_add(0, moment, stored["weights"] * cosine.amax(1))
    return 0.5 * (forth @ query.weights + back)


def _pooled_scores(query: MomentSet, stored: dict[str, Tensor]) -> Tensor:
    """Cosine of the mean tokens [n]."""
    unit = F.normalize(stored["tokens"], dim=-1)
    means = unit.new_zeros(len(stored["spans"]), unit.shape[1])
    means = means.index_add(0, stored["moment"], unit * stored["weights"].unsqueeze(1))
    own = (F.normalize(query.tokens, dim=-1) * query.weights.unsqueeze(1)).sum(0)
    return F.cosine_similarity(means - stored["centre"], (own - stored["centre"]).unsqueeze(0))
