"""`genmm evaluate` for music models: measure, print, write the report and the card."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genmm.core.errors import DataError
from genmm.core.files import read_json, write_json, write_text

REPORT = "music.json"
SAME = ("report", "model", "options", "seconds")
"""Entries in which two reports must agree to be one."""


def run(args: argparse.Namespace, with_tables: Callable[[str, str], str]) -> int:
    """Measure the parts that `args` names. Given the same --out again, it goes on where it stopped."""
    import genmm
    from app.evaluation.music import PARTS, MusicEvaluation, MusicMeasure
    from app.evaluation.music_report import report_markdown
    from app.progress import ProgressDisplay

    options = MusicEvaluation.quick(args.seed) if args.quick else MusicEvaluation(seed=args.seed)
    pipeline = genmm.load(args.model, device=args.device, packing=args.packing)
    with ProgressDisplay("measuring") as show:
        figures = MusicMeasure(pipeline, options, args.out, on_event=show).run(args.only or PARTS)
    if args.out:
        figures = write_report(args.out, figures, pipeline.name)
    print(report_markdown(figures))
    if args.out:
        print(f"written: {args.out / REPORT} and music.md", file=sys.stderr)
    if args.card:
        old = args.card.read_text(encoding="utf-8") if args.card.is_file() else f"# {pipeline.name}\n"
        write_text(args.card, with_tables(old, report_markdown(figures, level=3)))
        print(f"written: {args.card}", file=sys.stderr)
    return 0


def write_report(folder: Path, figures: dict[str, Any], name: str) -> dict[str, Any]:
    """Write the figures as JSON and as tables; gives back them all.

    Parts that an earlier report of the same model and amounts holds stay, so that parts can be measured one by one.
    """
    from app.evaluation.music_report import report_markdown

    try:
        before = read_json(folder / REPORT)
    except DataError:
        before = {}
    if isinstance(before, dict) and all(before.get(key) == figures[key] for key in SAME):
        figures = {**before, **figures}
    write_json(folder / REPORT, figures)
    write_text(folder / "music.md", f"# {name}\n\n{report_markdown(figures)}")
    return figures
