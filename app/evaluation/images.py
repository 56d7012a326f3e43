"""Everything that is measured about an image model, and its model card.

Reconstruction at every set size, order, codebook, drawing of held-out combinations of style and name, and how near
what is drawn lies to training pictures. Feature distances use a judge of our own that no training has seen: they are
Frechet distances on these features, never an FID, and compare only with figures of the same judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.image_sources import PictureSource
from datamodules.images import PictureStore
from genmm.core.errors import DataError
from genmm.core.events import Event, Progress
from genmm.metrics.image_features import PictureFeatures, load_features
from genmm.metrics.image_quality import frechet_distance, nearest_pictures, precision_recall, psnr, ssim
from genmm.quantizers.codebook import Usage
from genmm.systems.tokenset.pictures import as_tensor
from genmm.systems.tokenset.pipeline import TokenSetPipeline
from genmm.systems.tokenset.request import PictureRequest

BATCH = 64
COPY_DISTANCE = 0.05
"""Root mean square difference (0 to 1) below which a drawn picture counts as a copy of a training picture."""


@dataclass(frozen=True, kw_only=True)
class ImageEvaluation:
    """How much is measured."""

    sample: int = 512
    """Training pictures that reconstruction and drawing are compared on."""
    drawn: int = 256
    """Pictures drawn from training captions."""
    seed: int = 2024
    """Seed of the choice and of the drawing."""

    @classmethod
    def quick(cls, seed: int) -> ImageEvaluation:
        """A few pictures: shows that it works."""
        return cls(sample=16, drawn=8, seed=seed)


@dataclass(frozen=True)
class ImageReport:
    """All figures, JSON-able, and a sheet of drawn pictures with their nearest training pictures."""

    figures: dict[str, Any]
    sheet: np.ndarray | None


@torch.inference_mode()
def evaluate_images(
    pipeline: TokenSetPipeline,
    judge_folder: Path,
    options: ImageEvaluation,
    source: PictureSource | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> ImageReport:
    """Measure a model on the pictures it was trained on. Raises: DataError when these are not there."""
    say = on_event or (lambda event: None)
    store = PictureStore(source or PictureSource(), pipeline.image_size)
    held = [*store.chosen("val"), *store.chosen("test")]
    train = store.chosen("train")
    if not held or not train:
        raise DataError("the source has no held-out pictures; evaluation needs some")
    _check_labels(pipeline, store)
    rng = np.random.default_rng(options.seed)
    some = sorted(rng.choice(train, min(options.sample, len(train)), replace=False).tolist())
    held = held[: options.sample]
    judge = load_features(judge_folder)
    figures: dict[str, Any] = {
        "pictures": {"held_out": len(held), "training_sample": len(some), "training": len(train)}
    }
    say(Progress(0, 4, "steps", "reconstruction"))
    figures["reconstruction"] = {
        f"{size}": {
            "held_out": _reconstruction(pipeline, judge, store, held, size),
            "training": _reconstruction(pipeline, judge, store, some, size),
        }
        for size in pipeline.tokenizer.config.set_sizes
    }
    say(Progress(1, 4, "steps", "order and codebook"))
    figures["order"] = _order(pipeline, store, held)
    figures["codebook"] = _codebook(pipeline, store, [*some, *held])
    sheet = None
    if pipeline.generator is not None:
        say(Progress(2, 4, "steps", "drawing held-out combinations"))
        figures["held_out_drawing"] = _held_out(pipeline, judge, store, held, options.seed)
        say(Progress(3, 4, "steps", "drawing training captions"))
        drawn = [train[i] for i in rng.choice(len(train), min(options.drawn, len(train)), replace=False)]
        figures["drawing"], sheet = _drawing(pipeline, judge, store, drawn, train, options.seed)
    say(Progress(4, 4, "steps", "done"))
    return ImageReport(figures, sheet)


def _check_labels(pipeline: TokenSetPipeline, store: PictureStore) -> None:
    found = {name for entry in store.entries for name in entry.labels}
    if pipeline.labels and not found & set(pipeline.labels):
        raise DataError(
            f"the model is asked by {', '.join(pipeline.labels)}, the pictures are labelled by "
            f"{', '.join(sorted(found)) or 'nothing'}; name the pictures it was trained on with --pictures"
        )


def _pixels(store: PictureStore, indices: Sequence[int]) -> Tensor:
    return as_tensor([store[index] for index in indices])


def _features(judge: PictureFeatures, pictures: Tensor) -> Tensor:
    return torch.cat([judge(part) for part in pictures.split(BATCH)])


def _reconstruction(
    pipeline: TokenSetPipeline, judge: PictureFeatures, store: PictureStore, indices: Sequence[int], size: int
) -> dict[str, float]:
    real = _pixels(store, indices)
    made = torch.cat([pipeline.tokenizer.decode(pipeline.tokenizer.encode(part, size)) for part in real.split(BATCH)])
    made = made.clamp(-1, 1)
    return {
        "psnr_db": float(psnr(made, real).mean()),
        "ssim": float(ssim(made, real).mean()),
        "judge_frechet": frechet_distance(_features(judge, real), _features(judge, made)),
    }


def _order(pipeline: TokenSetPipeline, store: PictureStore, indices: Sequence[int]) -> dict[str, float]:
    """Largest and mean difference of pixels (0 to 1) between two orders of the same sets; what decoding twice keeps."""
    tokens = pipeline.tokenizer.encode(_pixels(store, indices), pipeline.tokens)
    one = pipeline.tokenizer.decode(tokens)
    shuffled = tokens[:, torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(0))]
    apart = (pipeline.tokenizer.decode(shuffled) - one).abs() / 2.0
    again = pipeline.tokenizer.encode(one.clamp(-1, 1), pipeline.tokens)
    bags = zip(map(Counter, tokens.tolist()), map(Counter, again.tolist()), strict=True)
    kept = [(one_bag & other_bag).total() / one_bag.total() for one_bag, other_bag in bags]
    return {
        "max": float(apart.max()),
        "mean": float(apart.mean()),
        "tokens_kept_on_encoding_again": float(np.mean(kept)),
    }


def _codebook(pipeline: TokenSetPipeline, store: PictureStore, indices: Sequence[int]) -> dict[str, float]:
    uses = torch.zeros(pipeline.codes)
    for part in _pixels(store, indices).split(BATCH):
        ids = pipeline.tokenizer.encode(part, pipeline.tokens).flatten()
        uses.index_add_(0, ids, torch.ones(len(ids)))
    usage = Usage.of(uses)
    return {"used": usage.used, "entropy": usage.entropy, "dead": usage.dead}


def _asked(store: PictureStore, indices: Sequence[int], pipeline: TokenSetPipeline, seed: int) -> list[PictureRequest]:
    """A request for each picture: its caption and the labels that the model knows."""
    requests = []
    for number, index in enumerate(indices):
        entry = store.entries[index]
        labels = {name: value for name, value in entry.labels.items() if value in pipeline.labels.get(name, ())}
        text = entry.caption if pipeline.reads_text and entry.caption else None
        requests.append(PictureRequest(text=text, labels=labels, seed=seed + number))
    return requests


def _drawn(pipeline: TokenSetPipeline, requests: Sequence[PictureRequest]) -> tuple[Tensor, list[Any]]:
    results = pipeline.generate_batch(requests, batch_size=32)
    return as_tensor([result.images[0] for result in results]), [result.sets[0] for result in results]


def _held_out(
    pipeline: TokenSetPipeline, judge: PictureFeatures, store: PictureStore, indices: Sequence[int], seed: int
) -> dict[str, float]:
    """Are pictures of unseen combinations the ones that were asked for?

    Each drawn picture is compared with all held-out pictures by the judge's features: where does its own one rank?
    """
    made, sets = _drawn(pipeline, _asked(store, indices, pipeline, seed))
    real = _pixels(store, indices)
    one, other = _features(judge, made), _features(judge, real)
    scale = other.std(0).clamp_min(1e-6)
    distance = torch.cdist(one / scale, other / scale)
    own = distance.diagonal()[:, None]
    rank = (distance < own).sum(1)
    true_sets = pipeline.tokenize([store[index] for index in indices])
    overlap = [len(a & b) / len(b) for a, b in zip(sets, true_sets, strict=True)]
    by_chance = [len(a & b) / len(b) for a, b in zip(sets, [*true_sets[1:], true_sets[0]], strict=True)]
    return {
        "pictures": len(indices),
        "own_picture_first": float((rank == 0).double().mean()),
        "own_picture_in_first_5": float((rank < 5).double().mean()),
        "chance_first": 1.0 / len(indices),
        "chance_in_first_5": min(1.0, 5.0 / len(indices)),
        "tokens_shared_with_own_picture": float(np.mean(overlap)),
        "tokens_shared_with_another_picture": float(np.mean(by_chance)),
    }


def _drawing(
    pipeline: TokenSetPipeline, judge: PictureFeatures, store: PictureStore, indices: Sequence[int],
    train: Sequence[int], seed: int,
) -> tuple[dict[str, Any], np.ndarray]:  # fmt: skip
    made, _ = _drawn(pipeline, _asked(store, indices, pipeline, seed))
    everything = _pixels(store, train)
    real = _pixels(store, indices)
    features = _features(judge, made), _features(judge, real)
    found = precision_recall(features[1], features[0])
    nearest, distance = nearest_pictures(made, everything)
    own = torch.tensor([train[int(index)] for index in nearest]) == torch.tensor(list(indices))
    figures = {
        "pictures": len(indices),
        "judge_frechet": frechet_distance(features[1], features[0]),
        "judge_frechet_of_reconstructions": _reconstruction(pipeline, judge, store, indices, pipeline.tokens)[
            "judge_frechet"
        ],
        "precision": found.precision,
        "recall": found.recall,
        "nearest_training_picture_is_the_one_asked_for": float(own.double().mean()),
        "rms_to_nearest_training_picture": float(distance.mean()),
        "copies_of_training_pictures": float((distance < COPY_DISTANCE).double().mean()),
    }
    return figures, contact_sheet([made[:16], everything[nearest[:16]], real[:16]])


def contact_sheet(rows: Sequence[Tensor], border: int = 2) -> np.ndarray:
    """Rows of pictures [N, 3, H, H] in [-1, 1] as one picture, [H', W', 3] uint8."""
    tiles = []
    for row in rows:
        padded = torch.nn.functional.pad(row, (border,) * 4, value=1.0)
        tiles.append(torch.cat(list(padded), dim=2))
    whole = torch.cat(tiles, dim=1).clamp(-1, 1)
    return ((whole + 1.0) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


def report_markdown(figures: dict[str, Any]) -> str:
    """The tables of a report."""
    lines = ["| tokens | PSNR held out | SSIM held out | judge distance held out | PSNR training | SSIM training |"]
    lines.append("|---|---|---|---|---|---|")
    for size, row in figures["reconstruction"].items():
        one, other = row["held_out"], row["training"]
        lines.append(
            f"| {size} | {one['psnr_db']:.1f} dB | {one['ssim']:.3f} | {one['judge_frechet']:.1f} | "
            f"{other['psnr_db']:.1f} dB | {other['ssim']:.3f} |"
        )
    for name in ("codebook", "order", "held_out_drawing", "drawing"):
        if name in figures:
            lines += ["", f"| {name.replace('_', ' ')} | |", "|---|---|"]
            lines += [f"| {key.replace('_', ' ')} | {_text(value)} |" for key, value in figures[name].items()]
    return "\n".join(lines) + "\n"


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"
