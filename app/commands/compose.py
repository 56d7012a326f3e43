"""`genmm compose`: a description in, music out."""

from __future__ import annotations

import argparse

from app import music_work as work

DESCRIPTION = """\
Make music from a description. What the model understood is shown; the recipe (text,
settings, seed, model) is written beside the file as .json and inside it."""
EPILOG = """\
examples:
  genmm compose "calm piano in A minor, 90 bpm, no drums" --seconds 20 -o out.flac
  genmm compose "energetic synth" --bpm 128 --key "F minor" --takes 4     four versions: music_1.flac ...
  genmm compose "calm guitar" --then "busy strings" --seconds 60          one piece that changes on its way
  genmm compose --recipe out.json -o again.flac                           the same once more
  genmm compose "warm jazz trio" --model melodyflow-t24-30secs            the published model (genmm pull melodyflow)

Longer music than the model's window is made in windows that are sampled together."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "compose", help="make music from a description", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument(
        "text", nargs="?", help='what the music is like, at most 2000 characters; "" lets the model choose'
    )
    work.add_output(parser, "music.flac")
    parser.add_argument("--seconds", type=float, metavar="X", help="length, 0.5 to 300; default: 10")
    parser.add_argument(
        "--then",
        action="append",
        default=[],
        metavar="TEXT",
        help="what follows, evenly over the length; may be repeated",
    )
    work.add_settings(parser, new_music=True)


def run(args: argparse.Namespace) -> int:
    """Compose, save, say what was made."""
    output, recipe = work.checked_output(args), work.recipe_of(args, "generate")
    texts = work.texts_of(args, recipe, 'genmm compose "calm piano, 90 bpm" -o out.flac')
    wanted = work.asked(args, recipe)
    before = recipe["settings"] if recipe else {}
    seconds = before.get("duration_s", 10.0) if args.seconds is None else args.seconds
    from app.progress import ProgressDisplay
    from genmm.core.events import Progress

    with ProgressDisplay("composing") as show:
        show(Progress(0, None, "", "loading the model"))
        pipeline = work.load(args, recipe)
        result = pipeline.long_form(texts, duration_s=seconds, **wanted, on_event=show)
    return work.finish(result, output)
