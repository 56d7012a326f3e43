"""`genmm loop`: a description in, whole bars whose end joins their start out."""

from __future__ import annotations

import argparse

from app import music_work as work

DESCRIPTION = """\
Make a loop: whole bars whose end joins their start without a seam. The tempo moves by
less than a hundredth so that the bars fill whole frames; the exact one is shown."""
EPILOG = """\
examples:
  genmm loop "energetic synth, electronic drums" --bpm 120 --bars 4 -o loop.wav
  genmm loop "calm guitar in D major, 80 bpm" --bars 2 --takes 4"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("loop", help="make a seamless loop", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("text", nargs="?", help="what the music is like, at most 2000 characters")
    work.add_output(parser, "loop.wav")
    parser.add_argument("--bars", type=int, metavar="N", help="length in bars, 1 to 64; default: 4")
    work.add_settings(parser, new_music=True)


def run(args: argparse.Namespace) -> int:
    """Loop, save, say what was made."""
    output, recipe = work.checked_output(args), work.recipe_of(args, "loop")
    texts = work.texts_of(args, recipe, 'genmm loop "calm guitar" --bpm 100 --bars 4 -o loop.wav')
    wanted = work.asked(args, recipe)
    bars = args.bars if args.bars is not None else recipe["settings"].get("bars", 4) if recipe else 4
    from app.progress import ProgressDisplay
    from genmm.core.events import Progress

    with ProgressDisplay("looping") as show:
        show(Progress(0, None, "", "loading the model"))
        pipeline = work.load(args, recipe)
        result = pipeline.loop(texts[0], bars=bars, **wanted, on_event=show)
    return work.finish(result, output)
