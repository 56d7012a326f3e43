"""`genmm extend`: a recording in, the recording and more behind it out."""

from __future__ import annotations

import argparse

from app import music_work as work

DESCRIPTION = """\
Go on where a recording ends. The recording itself stays as it is, but for its last 20
milliseconds, which blend into what follows; that is made to fit it and the description."""
EPILOG = """\
examples:
  genmm extend in.flac "calm piano, 90 bpm" --seconds 8 -o longer.flac
  genmm extend in.flac "" --seconds 5 --takes 3          three ways to go on, without a description"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("extend", help="make a recording longer", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("source", metavar="FILE", help="the recording, 0.5 to 300 seconds")
    parser.add_argument("text", nargs="?", help='what the music is like; "" lets the model choose')
    work.add_output(parser, "extended.flac")
    parser.add_argument("--seconds", type=float, metavar="X", help="how much longer, 0.5 to 300; default: 5")
    said = "what the recording is; what the text leaves open goes on so. Default: as the recipe beside it says"
    parser.add_argument("--source-text", metavar="TEXT", help=said)
    work.add_settings(parser, new_music=True)


def run(args: argparse.Namespace) -> int:
    """Extend, save, say what was made."""
    output, recipe = work.checked_output(args), work.recipe_of(args, "extend")
    texts = work.texts_of(args, recipe, 'genmm extend in.flac "calm piano" --seconds 8 -o longer.flac')
    wanted = work.asked(args, recipe)
    before = recipe["settings"] if recipe else {}
    seconds = before.get("extra_s", 5.0) if args.seconds is None else args.seconds
    said = args.source_text
    if said is None:
        from genmm.systems.melodyflow.captions import caption_of

        said = before.get("source_text", "") or caption_of(args.source)
    source = work.read_source(args.source)
    from app.progress import ProgressDisplay
    from genmm.core.events import Progress

    with ProgressDisplay("extending") as show:
        show(Progress(0, None, "", "loading the model"))
        pipeline = work.load(args, recipe)
        result = pipeline.continue_(source, seconds, texts[0], source_text=said, **wanted, on_event=show)
    return work.finish(result, output)
