"""`genmm edit`: a sound and a new description in, the edited sound out; regions of it, or all."""

from __future__ import annotations

import argparse

from app import music_work as work
from genmm.core.errors import UsageError

DESCRIPTION = """\
Bring a recording closer to a description, or to each of several, while it stays
recognisable; or, with --region, make only a part of it anew and keep every other
sample as it is."""
EPILOG = """\
examples:
  genmm edit in.flac "same tune on guitar" --strength 0.8 -o out.flac
  genmm edit in.flac "organ" --then "choir" --then "calm guitar" three edits: edited_1_organ.flac ...
  genmm edit in.flac "guitar" --source-text "piano" --method plain
  genmm edit in.flac "piano" --region 3.5:6 -o patched.flac      only from 3.5 to 6 seconds

strength: 0 gives the recording back, 1 follows the text most; 0.75 to 1 are usual.
several descriptions: the inversion, which is most of the work, is made once for all
of them; each edit becomes a file of its own, with the recipe that makes it alone."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("edit", help="edit a recording by words", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("source", metavar="FILE", help="the recording, 0.5 to 300 seconds")
    parser.add_argument("text", nargs="?", help="what it should become")
    work.add_output(parser, "edited.flac")
    parser.add_argument("--strength", type=float, metavar="X", help="0 to 1; default: 0.9")
    method = "inversion: regularised follows the text better, plain is faster and keeps more. Default: regularised"
    parser.add_argument("--method", choices=("regularised", "plain"), help=method)
    said = "what the recording is; what the text leaves open stays so. Default: as the recipe beside it says"
    parser.add_argument("--source-text", metavar="TEXT", help=said)
    parser.add_argument(
        "--then",
        action="append",
        default=[],
        metavar="TEXT",
        help="another edit of the same recording, from the same inversion; may be repeated, 8 edits at most",
    )
    parser.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="START:END",
        help="seconds to make anew, the rest stays exactly as it is; may be repeated",
    )
    work.add_settings(parser, new_music=True)


def run(args: argparse.Namespace) -> int:
    """Edit, save, say what was made."""
    output = work.checked_output(args)
    regions = [_region(text) for text in args.region]
    recipe = work.recipe_of(args, "inpaint" if regions else "edit")
    texts = work.texts_of(args, recipe, 'genmm edit in.flac "same tune on guitar" -o out.flac')
    wanted = _one_take(work.asked(args, recipe, steps="steps" if regions else "edit_steps"))
    own = _own(args, recipe)
    if regions and (len(texts) > 1 or args.strength is not None or args.method):
        raise UsageError("--region makes a part anew: it takes one description and neither --strength nor --method")
    from genmm.systems.melodyflow.captions import caption_of
    from genmm.systems.melodyflow.request import check_texts

    check_texts("edit", texts, wanted["takes"])
    source = work.read_source(args.source)
    if recipe is None and args.source_text is None:
        own["source_text"] = caption_of(args.source)
    from app.progress import ProgressDisplay
    from genmm.core.events import Progress

    with ProgressDisplay("editing") as show:
        show(Progress(0, None, "", "loading the model"))
        pipeline = work.load(args, recipe)
        if regions:
            result = pipeline.inpaint(
                source, regions, texts[0], source_text=own["source_text"], **wanted, on_event=show
            )
        else:
            result = pipeline.edit(source, texts, **own, **wanted, on_event=show)
    return work.finish(result, output)


def _own(args: argparse.Namespace, recipe: dict | None) -> dict:
    before = recipe["settings"] if recipe else {}
    return {
        "strength": before.get("strength", 0.9) if args.strength is None else args.strength,
        "method": args.method or before.get("method", "regularised"),
        "source_text": before.get("source_text", "") if args.source_text is None else args.source_text,
    }


def _one_take(wanted: dict) -> dict:
    """The recipe of several descriptions names their common seed once for each."""
    if len(set(wanted["seeds"])) == 1:
        return {**wanted, "seeds": wanted["seeds"][:1], "takes": 1}
    return wanted


def _region(text: str) -> tuple[float, float]:
    start, colon, end = text.partition(":")
    try:
        if colon:
            return float(start), float(end)
    except ValueError:
        pass
    raise UsageError(f"--region takes START:END in seconds, such as 3.5:6, got {text!r}")
