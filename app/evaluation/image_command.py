"""`genmm evaluate` for image models: measure, print, write the report, the card and a sheet of pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from genmm.core.errors import CheckpointError, UsageError
from genmm.core.files import write_json, write_text

if TYPE_CHECKING:
    from datamodules.image_sources import PictureSource

JUDGE = "judge"
"""Folder inside a model folder with the features that measure it."""
KNOWN = ("emoji", "sign_digits", "drawn")
"""Sets of pictures with a name of their own."""
SHEET = "pictures.png"
"""Drawn pictures, below each the nearest training picture, below that the one asked for."""


def run(args: argparse.Namespace, with_tables: Callable[[str, str], str]) -> int:
    """Measure the model that `args` names. Raises: CheckpointError when it brings no judge."""
    import genmm
    from app.evaluation.images import ImageEvaluation, evaluate_images, report_markdown
    from app.progress import ProgressDisplay
    from genmm.media.image import write_image

    if args.seed < 0:
        raise UsageError(f"--seed must be at least 0, got {args.seed}")
    source = picture_source(args.pictures)
    pipeline = genmm.load(args.model, device=args.device)
    judge = pipeline.folder / JUDGE
    if not (judge / "config.json").is_file():
        raise CheckpointError(
            f"model {pipeline.name} brings no folder {JUDGE} with picture features to measure with; train one with "
            "configs/tokenset/features_demo.yaml and put its export there"
        )
    options = ImageEvaluation.quick(args.seed) if args.quick else ImageEvaluation(seed=args.seed)
    with ProgressDisplay("measuring") as show:
        report = evaluate_images(pipeline, judge, options, source, on_event=show)
    text = report_markdown(report.figures)
    print(text)
    if args.out:
        write_json(args.out / "image.json", report.figures)
        write_text(args.out / "image.md", f"# {pipeline.name}\n\n{text}")
        if report.sheet is not None:
            write_image(args.out / SHEET, report.sheet)
        print(f"written: {args.out / 'image.json'}, image.md and {SHEET}", file=sys.stderr)
    if args.card:
        old = args.card.read_text(encoding="utf-8") if args.card.is_file() else f"# {pipeline.name}\n"
        write_text(args.card, with_tables(old, text))
        if report.sheet is not None:
            write_image(args.card.with_name(SHEET), report.sheet)
        print(f"written: {args.card}", file=sys.stderr)
    return 0


def picture_source(name: str) -> PictureSource:
    """The pictures that `--pictures` names. Raises: UsageError for no known set, folder or tar file."""
    from datamodules.image_sources import PictureSource

    if name in KNOWN:
        return PictureSource(kind=name)
    path = Path(name)
    if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
        return PictureSource(kind="webdataset", path=name)
    if not path.is_dir():
        raise UsageError(f"--pictures takes {', '.join(KNOWN)}, a folder or a tar file; there is no {name!r}")
    return PictureSource(kind="folder", path=name)
