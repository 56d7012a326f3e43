"""`genmm evaluate`: measure a model whole and write the report, for people and for its model card."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Let a model speak fixed lists of number sequences, letters and sentences in several
voices, and measure the outcome: words by a recogniser that was not trained here
(pocketsphinx), calibration on held-out frames, endings, voices, speed. Every figure
stands beside that of real recordings. Takes some minutes; the recordings come from the
data folder ($GENMM_DATA). Image and music models are measured in their own ways; for music
the same command with the same --out goes on where it was stopped."""
EPILOG = """\
examples:
  genmm evaluate --out reports/sled              writes reports/sled/speech.json and .md
  genmm evaluate --quick                         a minute, to see that everything works
  genmm evaluate --model tokenset                an image model: reconstruction, drawing, memorising
  genmm evaluate --model my-signs --pictures sign_digits
  genmm evaluate --model melodyflow --out reports/music    a music model: adherence, edits, codec, distance
  genmm evaluate --model melodyflow --only codec edits     parts of that
  genmm evaluate --model runs/sled/demo/export --card runs/sled/demo/export/README.md"""
MUSIC_PARTS = ("adherence", "instruments", "edits", "codec", "distance")
"""As in app.evaluation.music, which is slow to import."""
ELSEWHERE = {
    "vqtoken": "Answers from tokens are measured by genmm bench video_answers, search by genmm bench video_search",
    "rasl": "Highlights are measured by python -m benchmarks.highlight_study scenes (or tvsum) in the source tree",
}
"""Systems that are measured by other commands, and by which."""
BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "evaluate", help="measure a model with outside judges", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("--model", default="sled", metavar="NAME", help="name or folder of the model (sled)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (auto)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the speech corpora ($GENMM_DATA)")
    parser.add_argument(
        "--pictures",
        default="emoji",
        metavar="NAME|FOLDER|TAR",
        help="image models: pictures that the model was trained on: emoji, sign_digits, drawn, a folder or tar files "
        "(emoji)",
    )
    parser.add_argument("--seed", type=int, default=2024, help="seed of texts and speech (2024)")
    parser.add_argument("--quick", action="store_true", help="few utterances: shows that it works")
    parser.add_argument("--packing", choices=("auto", "live", "split", "float16", "int8"), default="auto",
                        help="speech, music: bytes of the weights on a CPU, what smaller ones cost (auto)")  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=MUSIC_PARTS, metavar="PART",
                        help=f"music: parts to measure, of {', '.join(MUSIC_PARTS)} (all)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the report as .json and .md into DIR")
    parser.add_argument("--card", type=Path, metavar="FILE", help="put the tables into this model card (README.md)")
    parser.add_argument("--save-audio", type=Path, metavar="DIR", help="also write everything that was spoken")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    from genmm.core.errors import UsageError
    from genmm.registry import find_model

    system = find_model(args.model).system
    if system in ELSEWHERE:
        raise UsageError(
            f"{args.model} is a model of {system}; genmm evaluate measures speech, image and music models. "
            f"{ELSEWHERE[system]}"
        )
    if args.only and system != "melodyflow":
        raise UsageError(f"--only chooses parts of the measurement of music models, and {args.model} makes none")
    if args.packing != "auto" and system not in ("sled", "melodyflow"):
        raise UsageError(f"--packing is for speech and music models, and {args.model} is neither")
    if system == "tokenset":
        from app.evaluation import image_command

        return image_command.run(args, with_tables)
    if system == "melodyflow":
        from app.evaluation import music_command

        return music_command.run(args, with_tables)
    import genmm
    from app.evaluation.speech import EvaluationOptions, evaluate_speech
    from app.progress import ProgressDisplay
    from genmm.core.files import write_json, write_text
    from genmm.core.paths import data_home
    from genmm.metrics.speech_tables import report_markdown

    if args.seed < 0:
        raise UsageError(f"--seed must be at least 0, got {args.seed}")
    options = EvaluationOptions.quick(args.seed) if args.quick else EvaluationOptions(seed=args.seed)
    pipeline = genmm.load(args.model, device=args.device, packing=args.packing)
    with ProgressDisplay("measuring") as show:
        report = evaluate_speech(pipeline, args.data or data_home(), options, on_event=show, keep=args.save_audio)
    text = report_markdown(report)
    print(text)
    if args.out:
        write_json(args.out / "speech.json", report.to_dict())
        write_text(args.out / "speech.md", f"# {pipeline.name}\n\n{text}")
        print(f"written: {args.out / 'speech.json'} and speech.md", file=sys.stderr)
    if args.card:
        old = args.card.read_text(encoding="utf-8") if args.card.is_file() else f"# {pipeline.name}\n"
        write_text(args.card, with_tables(old, report_markdown(report, level=3)))
        print(f"written: {args.card}", file=sys.stderr)
    return 0


def with_tables(card: str, tables: str) -> str:
    """The card with the tables between its two marks; without marks they come at the end, as a section."""
    block = f"{BEGIN}\n{tables.rstrip()}\n{END}"
    if BEGIN in card and END in card.split(BEGIN, 1)[1]:
        before, rest = card.split(BEGIN, 1)
        return before + block + rest.split(END, 1)[1]
    return f"{card.rstrip()}\n\n## Evaluation\n\n{block}\n"
