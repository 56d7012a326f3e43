"""From a filled form to pictures on disk: the part of the Image tab that knows pipelines and no components."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.web.pool import ModelPool
from genmm.core.checkpoint import read_config
from genmm.core.errors import GenerationError, UsageError
from genmm.core.events import CancelToken, Event, Finished, Progress
from genmm.core.files import atomic_path, safe_stem
from genmm.core.limits import DEFAULT_LIMITS, Limits, clean_text
from genmm.media.image import write_image
from genmm.systems.tokenset.heat import heat_picture
from genmm.systems.tokenset.pictures import square
from genmm.systems.tokenset.pipeline import TokenSetPipeline
from genmm.systems.tokenset.request import PictureSettings
from genmm.systems.tokenset.result import ImageResult

__all__ = [
    "NEEDS_SECOND",
    "OPERATIONS",
    "SYSTEM",
    "Drawn",
    "ImageForm",
    "Take",
    "check_form",
    "image_events",
    "model_facts",
]

SYSTEM = "tokenset"
OPERATIONS = {
    "redraw": "Redraw the marked part",
    "vary": "Vary the whole picture",
    "clean": "Clean it up",
    "fewer": "Rebuild it from fewer or more tokens",
    "mix": "Go over to a second picture",
    "swap": "Exchange the marked part with a second picture",
    "map": "Show where it spends its tokens",
}
"""What the Edit part can do: key -> what the page calls it."""
NEEDS_REGION, NEEDS_SECOND = ("redraw", "swap"), ("mix", "swap")
MOST = 8
"""Pictures of one click."""
THUMBNAIL = (320, 180)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageForm:
    """What a visitor asks for."""

    operation: str = "draw"
    """draw, or a key of OPERATIONS."""
    text: str = ""
    """What to draw; empty draws anything."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Label field -> value."""
    model: str | None = None
    """Name of a model; None takes the default."""
    count: int = 1
    """How many pictures."""
    seeds: tuple[int, ...] = ()
    """None, one, or one per picture."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of PictureSettings that differ from the model's defaults."""
    picture: np.ndarray | None = None
    """The picture to change, [H, W, 3] uint8."""
    region: np.ndarray | None = None
    """The marked part, [H, W] bool, of the picture's size."""
    free: tuple[int, ...] = ()
    """Codes to redraw instead of those that carry the marked part."""
    second: np.ndarray | None = None
    """The second picture."""
    strength: float = 1.0
    """How far from the old picture."""
    tokens: int | None = None
    """Set size for "fewer"."""


@dataclass(frozen=True)
class Take:
    """One picture on disk."""

    path: Path
    recipe: Path
    thumbnail: Path
    seed: int
    tokens: int


@dataclass(frozen=True)
class Drawn:
    """What a run made, as files in one folder."""

    takes: tuple[Take, ...]
    title: str
    model: str
    operation: str
    seconds: float
    heat: Path | None = None
    """Heat map of the first picture."""
    table: tuple[tuple[int, int, float], ...] = ()
    """Code, times, share of its effect inside the marked part."""
    notes: tuple[str, ...] = ()


def model_facts(
    pool: ModelPool, name: str | None
) -> tuple[dict[str, tuple[str, ...]], PictureSettings, tuple[int, ...]]:
    """Labels, default settings and set sizes of a model, without loading it. Raises: UsageError, CheckpointError."""
    name = name or pool.default(SYSTEM)
    if name is None:
        return {}, PictureSettings(), ()
    folder = pool.info(name, SYSTEM).path
    config = read_config(folder)
    labels = {key: tuple(values) for key, values in config.get("network", {}).get("labels", {}).items()}
    inner = folder / "tokenizer"
    tokenizer = (read_config(inner) if (inner / "config.json").is_file() else config).get("tokenizer", {})
    sizes = tuple(tokenizer.get("sizes") or [tokenizer.get("tokens", 0)])
    return labels, PictureSettings.from_dict(config.get("defaults", {})), sizes


def check_form(form: ImageForm, limits: Limits = DEFAULT_LIMITS) -> None:
    """Find cheap mistakes before a run waits in the queue. Raises: UsageError, LimitError."""
    if form.text.strip():
        clean_text(form.text, limits)
    if not 1 <= form.count <= MOST:
        raise UsageError(f"pictures must be from 1 to {MOST}, got {form.count}")
    PictureSettings().changed(form.settings)
    if form.operation == "draw":
        return
    if form.operation not in OPERATIONS:
        raise UsageError(f"there is no operation {form.operation!r}; choose one of {', '.join(OPERATIONS)}")
    if form.picture is None:
        raise UsageError("put a picture on the canvas first: upload one, or send one of the results here")
    marked = form.region is not None and form.region.any()
    if form.operation in NEEDS_REGION and not marked and not (form.free and form.operation == "redraw"):
        raise UsageError("mark a part of the picture with the brush first")
    if form.operation in NEEDS_SECOND and form.second is None:
        raise UsageError("this needs a second picture; upload it below the canvas")


def image_events(
    form: ImageForm, pool: ModelPool, new_folder: Callable[[], Path]
) -> Callable[[CancelToken], Iterator[Event]]:
    """Give back a function that does the whole job as events, the last one Finished(Drawn).

    Raises (while running): GenmmError for whatever the visitor can repair, Cancelled.
    """

    def events(token: CancelToken) -> Iterator[Event]:
        started = time.monotonic()
        yield Progress(0, None, "", "Getting the model ready")
        pipeline: TokenSetPipeline = pool.get(form.model, SYSTEM)
        token.check()
        result: ImageResult | None = None
        for event in _work(pipeline, form, token):
            if isinstance(event, Finished):
                result = event.result
            else:
                yield event
        if result is None:
            raise GenerationError("the model ended without a result; please report it")
        yield Finished(_saved(result, pipeline, form, new_folder(), time.monotonic() - started))

    return events


def _work(pipeline: TokenSetPipeline, form: ImageForm, token: CancelToken) -> Iterator[Event]:
    wish: dict[str, Any] = {
        "text": form.text if form.text.strip() else None, "labels": form.labels, "settings": dict(form.settings),
        "count": form.count, **({"seed": form.seeds[0]} if len(form.seeds) == 1 else {"seeds": form.seeds}),
    }  # fmt: skip
    if form.operation == "draw":
        yield from pipeline.events(**wish, cancel=token)
        return
    own = pipeline.tokenize([form.picture], form.tokens if form.operation == "fewer" else None)[0]
    if form.operation in ("redraw", "vary"):
        free = [code for code, _ in own.pairs]
        if form.operation == "redraw" and form.free:
            free = list(form.free)
        elif form.operation == "redraw":
            yield Progress(0, None, "", "Looking which tokens carry the part")
            free = list(pipeline.token_map(own).inside(_region(pipeline, form)))
        yield from pipeline.edit_events(own, free=free, strength=form.strength, **wish, cancel=token)
    elif form.operation == "mix":
        yield Finished(
            pipeline.interpolate(own, form.second, steps=max(2, form.count), seed=form.seeds[0] if form.seeds else None)
        )
    elif form.operation == "swap":
        yield Finished(pipeline.swap_region(own, form.second, _region(pipeline, form)))
    else:
        yield Finished(pipeline.denoise(own) if form.operation == "clean" else pipeline.reconstruct(own))


def _region(pipeline: TokenSetPipeline, form: ImageForm) -> np.ndarray:
    """The marked part at the model's size, cut like the picture."""
    marked = np.repeat(form.region[..., None].astype(np.uint8) * 255, 3, axis=-1)  # type: ignore[index]
    return square(marked, pipeline.image_size)[..., 0] > 96


def _saved(result: ImageResult, pipeline: TokenSetPipeline, form: ImageForm, folder: Path, seconds: float) -> Drawn:
    """Write pictures, recipes, thumbnails and, for edits, the heat map of the first picture."""
    title = form.text.strip() or OPERATIONS.get(form.operation, "anything")
    paths = result.save(folder / f"{safe_stem(title, max_chars=40)}.png")
    many = len(result.images)
    takes = tuple(
        Take(path, recipe, _thumbnail(path, picture), seed, len(own))
        for path, recipe, picture, seed, own in zip(
            paths[:many], paths[many:], result.images, result.seeds, result.sets, strict=True
        )
    )
    heat, table = None, ()
    if form.operation in ("map", "redraw"):
        own = pipeline.tokenize([form.picture])[0] if form.operation == "redraw" else result.sets[0]
        found = pipeline.token_map(own)
        heat = write_image(folder / "heat.png", heat_picture(pipeline.decode([own])[0], found.heat))
        marked = form.region is not None and form.region.any()
        region = _region(pipeline, form) if marked else np.ones((pipeline.image_size,) * 2, bool)
        rows = zip(found.codes, found.times, found.shares(region).tolist(), strict=True)
        table = tuple(sorted(((c, n, round(share, 3)) for c, n, share in rows), key=lambda row: -row[2]))
    return Drawn(takes, title, result.model["name"], form.operation, seconds, heat, table, tuple(result.notes))


def _thumbnail(path: Path, picture: np.ndarray) -> Path:
    """The picture in the middle of a clear ground, for the history."""
    target = path.with_name(f"{path.stem}_small.png")
    ground = Image.new("RGBA", THUMBNAIL, (255, 255, 255, 0))
    shown = Image.fromarray(picture).convert("RGBA")
    shown = shown.resize((140, 140), Image.Resampling.NEAREST if picture.shape[0] < 140 else Image.Resampling.LANCZOS)
    ground.paste(shown, ((THUMBNAIL[0] - 140) // 2, 8))
    with atomic_path(target) as temporary:
        ground.save(temporary, format="PNG")
    return target
