"""VQToken from video to tokens, answers and searches: the object that page, command line, batches and scripts call."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from genmm.core.checkpoint import load_into, load_tensors, save_checkpoint
from genmm.core.devices import choose_device, choose_dtype
from genmm.core.errors import MediaError, UsageError
from genmm.core.events import CancelToken, Event, Finished, Progress, drain
from genmm.core.limits import LONG_FOOTAGE, Limits
from genmm.core.pipelines import CheckpointPipeline
from genmm.core.seeds import check_seed
from genmm.media.frame_times import MAX_FPS
from genmm.media.source import MediaInput, open_source
from genmm.media.video import iter_frames, probe
from genmm.nn.vit import VisionTransformer
from genmm.quantizers.adaptive import AdaptiveK, Rule
from genmm.quantizers.kmeans import unit_rows
from genmm.systems.vqtoken.answerer import Answerer
from genmm.systems.vqtoken.blocks import make_block, run_block
from genmm.systems.vqtoken.config import VqTokenConfig
from genmm.systems.vqtoken.encoders import VisionEncoder
from genmm.systems.vqtoken.methods import CLUSTERING_METHODS, CLUSTERINGS, METHODS
from genmm.systems.vqtoken.reduced import ReducedVideo
from genmm.systems.vqtoken.reducer import Budget, Fixed, reduce
from genmm.systems.vqtoken.result import TokenizedVideo, VideoAnswer
from genmm.systems.vqtoken.windows import WindowMerger

__all__ = ["MOST_TOKENS", "VqTokenPipeline", "budget_of", "stored_budget"]

MOST_S = 1e6
"""Largest time that makes sense; beyond it numbers are mistakes."""
MOST_TOKENS = 1024
"""Largest budget of one video."""
ADAPTIVE_RULE: Rule = "explained"
"""The rule of "adaptive". On real videos the silhouette of k-center is best at very few tokens or at very many."""


def budget_of(tokens: int | str | Budget | Mapping[str, Any]) -> Budget:
    """A number, "adaptive" or the name of a rule of `AdaptiveK`, or a budget, also as a recipe holds it.

    Raises: UsageError for anything else.
    """
    if isinstance(tokens, Fixed | AdaptiveK):
        budget = tokens
    elif isinstance(tokens, Mapping):
        budget = _read_budget(tokens)
    elif tokens == "adaptive":
        budget = AdaptiveK(rule=ADAPTIVE_RULE, least=4, most=64)
    elif isinstance(tokens, str) and tokens in get_args(Rule):
        budget = AdaptiveK(rule=tokens, least=4, most=64)
    elif isinstance(tokens, str) and tokens.strip().isdecimal() and len(tokens) < 10:
        budget = Fixed(tokens=int(tokens))
    elif isinstance(tokens, int) and not isinstance(tokens, bool):
        budget = Fixed(tokens=tokens)
    else:
        known = f"a number from 1 to {MOST_TOKENS}, adaptive, or a rule ({', '.join(get_args(Rule))})"
        raise UsageError(f"tokens is {known}, got {str(tokens)[:40]!r}")
    most = budget.tokens if isinstance(budget, Fixed) else budget.most
    if most > MOST_TOKENS:
        raise UsageError(f"a video has at most {MOST_TOKENS} tokens, got {most}; 8 to 64 are usual")
    return budget


def _read_budget(values: Mapping[str, Any]) -> AdaptiveK:
    kinds = {"rule": str, "least": int, "most": int, "explained": int | float}
    unfit = [name for name, value in values.items() if not isinstance(value, kinds.get(name, ()))]
    if unfit:
        raise UsageError(f"an adaptive budget has {', '.join(kinds)} of the right types, got {str(dict(values))[:80]}")
    return AdaptiveK(**values)


def check_times(values: Mapping[str, Any]) -> None:
    """Raises: UsageError when a value is neither None nor a finite number that makes sense."""
    for name, value in values.items():
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) < math.inf:  # false for NaN too
            raise UsageError(f"{name} must be a finite number, got {str(value)[:40]!r}")
        most = MAX_FPS if name == "fps" else MOST_S
        if abs(value) > most:
            raise UsageError(f"{name} must be at most {most:,.0f} and not below 0, got {str(value)[:40]}")


def end_of(last_s: float, step_s: float, *ends_s: float | None) -> float:
    """Where a frame that was looked at stops being shown: a step on, but not behind an end that is known.

    An end that a file declares before its own last frame is wrong and left aside.
    """
    return min(last_s + step_s, *(end_s for end_s in ends_s if end_s is not None and end_s > last_s), math.inf)


def stored_budget(budget: Budget) -> int | str | dict[str, Any]:
    """What a recipe says of a budget, for `budget_of`."""
    if isinstance(budget, Fixed):
        return budget.tokens
    named = (name for name in ("adaptive", *get_args(Rule)) if budget_of(name) == budget)
    return next(named, dataclasses.asdict(budget))


class VqTokenPipeline(CheckpointPipeline):
    """Videos to tokens with one checkpoint. Several threads may use one pipeline."""

    system = "vqtoken"
    title = "VQToken"

    def __init__(
        self,
        vision: VisionTransformer,
        block: torch.nn.Module,
        config: VqTokenConfig,
        *,
        answerer: Answerer | None = None,
        name: str = "vqtoken",
        folder: Path | None = None,
        about: Mapping[str, Any] | None = None,
        limits: Limits = LONG_FOOTAGE,
    ) -> None:
        self.vision, self.block, self.config, self.answerer = vision, block, config, answerer
        super().__init__(name=name, folder=folder, about=about, limits=limits)
        self.encoder: Any = VisionEncoder(vision, config.frames.side)
        self._encoder_fingerprint: str | None = None

    @classmethod
    def fresh(cls, config: VqTokenConfig, **more: Any) -> VqTokenPipeline:
        """A pipeline with untrained weights."""
        width, block = config.vision.width, config.block
        made = make_block(block.kind, width, block.heads, block.cells, bins=block.bins, grid=block.grid)
        answerer = None if config.answerer is None else Answerer(config.answerer, width)
        return cls(VisionTransformer(config.vision), made, config, answerer=answerer, **more)

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> VqTokenPipeline:
        """Load a checkpoint folder. Raises: CheckpointError or ConfigError when something in it does not fit."""
        folder = Path(folder)
        config = cls._read_config(folder)
        if config.get("kind") == "llava":
            from genmm.systems.vqtoken.llava import LlavaPipeline

            return LlavaPipeline.from_folder(folder, device=device, dtype=dtype)  # type: ignore[return-value]
        pipeline = cls.fresh(VqTokenConfig.from_dict(config.get("network")), **cls._identity(folder, config))
        load_into(pipeline._modules, load_tensors(folder))
        pipeline._modules.eval().requires_grad_(False)
        return pipeline.to(device, dtype)

    @property
    def _modules(self) -> torch.nn.ModuleDict:
        parts = {"vision": self.vision, "block": self.block}
        return torch.nn.ModuleDict(parts | ({"answerer": self.answerer} if self.answerer is not None else {}))

    def to(self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None) -> VqTokenPipeline:
        """Move to a device and number format, in place; clustering and block stay float32."""
        weight = self.vision.norm.weight
        place = weight.device if device is None else choose_device(device)
        number = weight.dtype if dtype is None else choose_dtype(dtype, place)
        self.vision.to(place, number)
        self.block.to(place, torch.float32)
        if self.answerer is not None:
            self.answerer.to(place, torch.float32)
        return self

    def save(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
        """Write a checkpoint folder; gives back the folder."""
        folder = Path(folder)
        config = {"system": self.system, "network": self.config.to_dict(), **self.about}
        return save_checkpoint(folder, config, self._modules.state_dict(), dtype=dtype, extra_files=self._card())

    @property
    def device(self) -> torch.device:
        """Where the encoder lives."""
        return self.vision.norm.weight.device

    def _parts(self) -> Iterable[torch.nn.Module]:
        return [self._modules]

    def _facts(self) -> dict[str, Any]:
        return {
            "width": self.encoder.width,
            "block": self.config.block.kind,
            "clustering": self.config.block.clustering,
            "answers": list(self.answerer.config.answers) if self.answerer else [],
        }

    @property
    def encoder_fingerprint(self) -> str:
        """What features depend on; tokens of different encoders cannot be compared."""
        if self._encoder_fingerprint is None:
            self._encoder_fingerprint = self.encoder.fingerprint
        return self._encoder_fingerprint

    def use_encoder(self, encoder: Any) -> VqTokenPipeline:
        """Take features from another encoder (see `encoders`); the block is left out when its width differs."""
        self.encoder, self._encoder_fingerprint = encoder, None
        return self

    # ------------------------------------------------------------ tokens

    def features(self, frames: np.ndarray) -> Tensor:
        """Features [T, h, w, D] float32 of frames [T, H, W, 3] uint8."""
        return self.encoder(frames)

    def reduce(self, features: Tensor, tokens: int | str | Budget = 32, **options: Any) -> ReducedVideo:
        """Reduce features [B, T, h, w, D] or [T, h, w, D] of a user's own; see `reducer.reduce` for the options."""
        features = features.unsqueeze(0) if features.ndim == 4 else features
        kind = self.config.block
        own = {"block": self._fitting_block(features), "scale": kind.codebook_scale, "clustering": kind.clustering}
        options = own | options
        with torch.no_grad():
            return reduce(features, budget_of(tokens), **options)

    def _fitting_block(self, features: Tensor) -> torch.nn.Module | None:
        return self.block if features.shape[-1] == self.config.vision.width else None

    def tokenize(
        self,
        source: MediaInput,
        *,
        tokens: int | str | Budget = 32,
        method: str = "vqtoken",
        fps: float | None = None,
        start_s: float = 0.0,
        end_s: float | None = None,
        seed: int = 0,
        cancel: CancelToken | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> TokenizedVideo:
        """Turn a video (path or bytes) into tokens; see `events` for the arguments and errors."""
        options = {"tokens": tokens, "method": method, "fps": fps, "start_s": start_s, "end_s": end_s, "seed": seed}
        return drain(self.events(source, **options, cancel=cancel), on_event)

    generate = tokenize

    def events(
        self,
        source: MediaInput,
        *,
        tokens: int | str | Budget = 32,
        method: str = "vqtoken",
        fps: float | None = None,
        start_s: float = 0.0,
        end_s: float | None = None,
        seed: int = 0,
        cancel: CancelToken | None = None,
    ) -> Iterator[Event]:
        """Tokenize a video and say how far it is: Progress events, at last Finished with a TokenizedVideo.

        Args: `tokens` is the budget, 1 to 1,024, or "adaptive" (see `budget_of`); `method` one of `methods.METHODS`,
        vqtoken being the clustering that the block was trained on (baselines take videos of one window only); `fps`
        frames a second that are looked at, by default the model's; `start_s` and `end_s` cut out a part.
        Videos longer than one window (`config.frames.most_frames`) are reduced window by window at flat memory.
        Raises: UsageError, MediaError, LimitError; Cancelled within one window after `cancel` was asked to.
        """
        budget, rate = budget_of(tokens), self.config.frames.fps if fps is None else fps
        check_times({"fps": rate, "start_s": start_s, "end_s": end_s})
        check_seed(seed)
        if method not in METHODS:
            raise UsageError(f"there is no reducer {method!r}; choose one of: {', '.join(METHODS)}")
        work = _Work(self, budget, method, seed)
        side = 2 * self.config.frames.side
        with open_source(source, self.limits) as media:
            size = media.size_bytes
            length_s = probe(media, limits=self.limits).duration_s
            if method not in CLUSTERING_METHODS:
                self._check_length(method, rate, (length_s, start_s, end_s))
            span = {"start_s": start_s, "end_s": end_s}
            with iter_frames(media, fps=rate, max_side=side, limits=self.limits, **span) as reader:
                for frame in reader:
                    if cancel is not None:
                        cancel.check()
                    work.add(frame.time_s, frame.image)
                    if work.is_full:
                        work.flush()
                        yield Progress(len(work.times_s), None, "frames", f"{frame.time_s:.0f} s of video")
                notes = reader.notes
            if not work.times_s:
                whole = "" if length_s is None else f"; it is {length_s:.1f} s long"
                until = "its end" if end_s is None else f"{end_s:g} s"
                raise MediaError(f"the video has no picture from {start_s:g} s to {until}{whole}")
        yield Progress(len(work.times_s), None, "frames", "choosing tokens")
        until_s = end_of(work.times_s[-1], 1.0 / rate, length_s, end_s)
        yield Finished(self._result(work, {"fps": rate, **span}, until_s, notes, _source_bytes(source, size)))

    def _check_length(self, method: str, rate: float, span_s: tuple[float | None, float, float | None]) -> None:
        """Refuse a video that is too long for a baseline before it is read, where the file says how long it is."""
        length_s, start_s, end_s = span_s
        if length_s is None:
            return
        frames = (min(length_s, math.inf if end_s is None else end_s) - start_s) * rate
        if frames > self.config.frames.most_frames + 1:
            raise UsageError(_too_long(method, self.config.frames.most_frames, f", these are about {frames:.0f}"))

    def _result(
        self, work: _Work, settings: dict[str, Any], until_s: float, notes: tuple[str, ...], size: int
    ) -> TokenizedVideo:
        reduced = work.finish()
        notes = list(notes)
        wanted = work.budget.tokens if isinstance(work.budget, Fixed) else 0
        found = int(reduced.mask[0].sum())
        if found == 0:
            raise MediaError("no part of the video gave a usable feature, so there is nothing to tokenize")
        if found < wanted:
            notes.append(f"the video has only {found} distinct tokens, so {wanted} were not needed")
        total = float(work.total)
        lost = float(reduced.stats.get("distortion", 0.0)) / total if total > 0 else 0.0
        held, budget = 1.0 - lost, work.budget
        if stored_budget(budget) == "adaptive" and found == budget.most and held < budget.explained:
            share = f"{100 * held:.0f} % of the variance, not {100 * budget.explained:.0f} %"
            notes.append(
                f"{found} tokens, the most that adaptive takes, hold {share}; give a number of tokens for more"
            )
        return TokenizedVideo(
            settings={**settings, "tokens": stored_budget(work.budget), "method": work.method, "lost": min(1.0, lost)},
            seeds=(work.seed,),
            model=self.model,
            timings=work.timings,
            notes=tuple(notes),
            reduced=reduced,
            times_s=np.asarray(work.times_s),
            seconds=float(until_s - work.times_s[0]),
            frame_size=work.size,
            source_bytes=size,
            variance=total,
        )

    def unpack(self, code: bytes) -> ReducedVideo:
        """The reduced video of a code (`ReducedVideo.to_bytes`, a .gmvq file), its tokens made by this model's block.

        Raises: DataError when the code is damaged, UsageError when it is of features of another width.
        """
        stored = ReducedVideo.from_bytes(code)
        width, own = stored.codebook.shape[-1], self.encoder.width
        if width != own:
            raise UsageError(f"the code has tokens of width {width}, model {self.name} makes {own}; take its own model")
        block = self._fitting_block(stored.codebook)
        if block is None or not stored.codebook.shape[1]:
            return stored
        place = self.device
        with torch.no_grad():
            parts = (stored.codebook, stored.index_map, stored.mask)
            tokens, mask = run_block(block, *(part.to(place) for part in parts))
        return dataclasses.replace(stored, tokens=tokens, token_mask=mask)

    # ------------------------------------------------------------ answers

    def answer(self, video: TokenizedVideo | ReducedVideo | MediaInput, question: str) -> VideoAnswer:
        """Answer a question about a video with the embedded answerer, which knows its own small world.

        A video that is not tokenized yet is tokenized with the budget the answerer was trained with.
        Raises: UsageError when the checkpoint has no answerer, or when it cannot read the question.
        """
        return self.answers(video, [question])[0]

    def answers(self, video: TokenizedVideo | ReducedVideo | MediaInput, questions: list[str]) -> list[VideoAnswer]:
        """Answer several questions about one video. Raises: UsageError for what the answerer cannot read."""
        if self.answerer is None:
            raise UsageError(
                f"model {self.name} has no answerer; use the model vqtoken, or pull one: genmm pull vqtoken"
            )
        words = self.answerer.encode(questions)
        if not isinstance(video, TokenizedVideo | ReducedVideo):
            video = self.tokenize(video, tokens=self.answerer.config.tokens)
        reduced = video.reduced if isinstance(video, TokenizedVideo) else video
        if len(reduced) != 1:
            raise UsageError(f"questions are about one video, these are {len(reduced)}; take clip(i) of them")
        width, own = reduced.tokens.shape[-1], self.config.vision.width
        if width != own:
            raise UsageError(
                f"the answerer reads tokens of width {own} from the model's own encoder, these have {width}"
            )
        with torch.inference_mode():
            place = next(self.answerer.parameters()).device
            tokens, mask = reduced.tokens[:1].to(place).float(), reduced.token_mask[:1].to(place)
            scores = self.answerer(tokens, mask, words.unsqueeze(0).to(place))[0].softmax(-1).cpu()
        names = self.answerer.config.answers
        out = []
        for row in scores:
            best = row.topk(min(4, len(names)))
            pairs = [(names[int(i)], float(p)) for p, i in zip(best.values, best.indices, strict=True)]
            out.append(VideoAnswer(pairs[0][0], pairs[0][1], tuple(pairs[1:])))
        return out


def _too_long(method: str, most: int, found: str = "") -> str:
    others = ", ".join(CLUSTERING_METHODS)
    return (
        f"the reducer {method} takes at most {most} frames of a video at once{found}; take a part of the video, fewer "
        f"frames a second, or one of the reducers {others}"
    )


def _source_bytes(source: Any, size: int) -> int:
    if isinstance(source, bytes | bytearray):
        return len(source)
    try:
        return os.stat(source).st_size
    except (TypeError, OSError, ValueError):
        return int(size or 0)


class _Work:
    """Frames on their way to tokens: encoded window by window."""

    def __init__(self, pipeline: VqTokenPipeline, budget: Budget, method: str, seed: int) -> None:
        self.pipeline, self.budget, self.method, self.seed = pipeline, budget, method, seed
        self.times_s: list[float] = []
        self.size = (0, 0)
        self.timings: dict[str, float] = {"encode": 0.0, "reduce": 0.0}
        self.clusters = method in CLUSTERING_METHODS
        self._frames: list[np.ndarray] = []
        self._first: Tensor | None = None
        self._merger: WindowMerger | None = None
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, time_s: float, image: np.ndarray) -> None:
        """Take one frame; it is scaled at once, so that a window holds small pictures."""
        self.times_s.append(time_s)
        if self.size == (0, 0):
            self.size = image.shape[:2]
        self._frames.append(image)

    @property
    def is_full(self) -> bool:
        """Whether a whole window has come."""
        return len(self._frames) >= self.pipeline.config.frames.most_frames

    def flush(self) -> None:
        """Encode the frames that have come; cluster them when they are not the only window."""
        if not self._frames:
            return
        started = time.perf_counter()
        features = self.pipeline.features(np.stack(self._frames))
        self._frames = []
        self._note(features)
        self.timings["encode"] += time.perf_counter() - started
        started = time.perf_counter()
        if self._merger is None and self._first is None:
            self._first = features
        else:
            self._merge(features)
        self.timings["reduce"] += time.perf_counter() - started

    def _note(self, features: Tensor) -> None:
        unit, valid = unit_rows(features.flatten(0, 2).unsqueeze(0))  # rows without a direction are zero
        own = unit[0].sum(0).double()
        self._sum = own if self._sum is None else self._sum + own
        self._count += int(valid.sum())

    @property
    def total(self) -> float:
        """Squared distance of all unit features to their mean."""
        if self._sum is None:
            return 0.0
        return float(self._count - self._sum.square().sum() / max(1, self._count))

    def _merge(self, features: Tensor) -> None:
        if not self.clusters:
            raise UsageError(_too_long(self.method, self.pipeline.config.frames.most_frames))
        if self._merger is None:
            kind, block = self.pipeline.config.block, self.pipeline._fitting_block(features)
            clustering = self.method if self.method in CLUSTERINGS else kind.clustering
            how = {"scale": kind.codebook_scale, "clustering": clustering, "seed": self.seed}
            self._merger = WindowMerger(self.budget, block=block, **how)
            self._merger.add(self._first)  # type: ignore[arg-type]
            self._first = None
        self._merger.add(features)

    def finish(self) -> ReducedVideo:
        """Tokens and map of everything, at least one frame."""
        self.flush()
        started = time.perf_counter()
        if self._merger is not None:
            reduced = self._merger.finish()
        else:
            seeds = [self.seed]
            reduced = self.pipeline.reduce(self._first, self.budget, method=self.method, seeds=seeds)  # type: ignore
            if not self.clusters:
                reduced.stats["distortion"] = _loss(self._first, reduced)  # type: ignore[index, arg-type]
            reduced.stats["distortion"] = float(reduced.stats["distortion"])  # type: ignore[index]
        self.timings["reduce"] += time.perf_counter() - started
        return reduced


def _loss(features: Tensor, reduced: ReducedVideo) -> float:
    """Squared distance between unit features and what map and tokens give back (their lengths left aside)."""
    unit, valid = unit_rows(features.flatten(0, 2).unsqueeze(0))
    back = torch.nn.functional.normalize(reduced.decode().flatten(1, 3).float(), dim=-1)
    return float((unit - back)[valid].square().sum())
