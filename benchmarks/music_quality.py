"""How well a music model follows what it is told: python -m benchmarks.music_quality --model NAME --out FOLDER.

The measurement of `genmm evaluate` with its amounts as options. Given the same --out again it goes on where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from app.evaluation.music import PARTS, MusicEvaluation, MusicMeasure
from app.evaluation.music_command import write_report
from app.evaluation.music_report import report_markdown
from app.progress import ProgressDisplay


def main(words: list[str] | None = None) -> None:
    """Measure a model and write music.json and music.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="melodyflow", help="name or folder (melodyflow)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (all)")
    parser.add_argument("--out", type=Path, required=True, help="folder for music.json, music.md and what goes on")
    parser.add_argument("--packing", choices=("live", "int8"), default="live", help="bytes of the weights (live)")
    start = MusicEvaluation()
    for entry in fields(MusicEvaluation):
        value = getattr(start, entry.name)
        parser.add_argument(f"--{entry.name}", type=type(value), default=value, help=f"as in MusicEvaluation ({value})")
    args = parser.parse_args(words)
    import genmm

    options = MusicEvaluation(**{entry.name: getattr(args, entry.name) for entry in fields(MusicEvaluation)})
    pipeline = genmm.load(args.model, packing=args.packing)
    with ProgressDisplay("measuring") as show:
        figures = MusicMeasure(pipeline, options, args.out, on_event=show).run(args.only)
    print(report_markdown(write_report(args.out, figures, pipeline.name)))


if __name__ == "__main__":
    main()
