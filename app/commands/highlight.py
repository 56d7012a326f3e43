"""`genmm highlight`: the best moments of a video as a reel and as files for editors; fitting to one's own footage."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.options import read_setting
from genmm.core.errors import UsageError
from genmm.core.files import check_targets
from genmm.core.wording import counted
from genmm.media.recipes import find_recipe

if TYPE_CHECKING:
    from app.progress import ProgressDisplay
    from genmm.systems.rasl.pipeline import RaslPipeline
    from genmm.systems.rasl.result import HighlightResult

DESCRIPTION = """\
Find the moments worth keeping in a video, with or without sound and of any length, cut
them to a reel, and write them as files that editors open. Nothing is sent anywhere."""
EPILOG = """\
examples:
  genmm highlight game.mp4                                         list the moments
  genmm highlight game.mp4 -o reel.mp4 --seconds 30 --json h.json --edl h.edl
  genmm highlight talk.mkv --share 0.1 --chapters chapters.txt --sheet sheet.png
  genmm highlight walk.mp4 --count 5 --thumbnails pictures/ --modality v
  genmm highlight game.mp4 --recipe h.json -o again.mp4            the segments of a file, perhaps edited
  genmm highlight game.mp4 --recipe reel.mp4 --edl reel.edl        a reel knows its segments too
  genmm highlight --adapt footage/ --save my-model                 fit the model to your videos
  genmm highlight game.mp4 --model ./my-model -o reel.mp4

The JSON file is a recipe too, and so is the reel. What was odd about the file is said at the end."""
AMOUNTS = ("seconds", "share", "count")
BARS = " .:-=+*#%@"
REELS = (".mp4", ".m4v", ".mov")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "highlight", help="find the best moments of a video", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("video", nargs="?", help="video or sound file")
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", metavar="FILE", help="the reel, .mp4, .m4v or .mov (H.264 and AAC)")
    group.add_argument("--json", metavar="FILE", help="scores and segments, for programs")
    group.add_argument("--csv", metavar="FILE", help="segments as a table")
    group.add_argument("--edl", metavar="FILE", help="segments as a CMX 3600 edit decision list")
    group.add_argument("--edl-rest", metavar="FILE", help="what lies between the segments, as an edit decision list")
    group.add_argument("--chapters", metavar="FILE", help="chapters: .vtt, or .txt for ffmpeg")
    group.add_argument("--thumbnails", metavar="FOLDER", help="one picture for each segment")
    group.add_argument("--sheet", metavar="FILE", help="all of them in one picture, .png, .jpg or .webp")
    group.add_argument("--copy", action="store_true", help="cut the reel at key frames without encoding anew")
    group.add_argument("--max-side", type=int, metavar="N", help="longest side of the reel; default: 1280")
    group = parser.add_argument_group("how much")
    amounts = group.add_mutually_exclusive_group()
    amounts.add_argument("--seconds", type=float, metavar="X", help="length of all segments together; default: 30")
    amounts.add_argument("--share", type=float, metavar="X", help="the same as a share of the video, above 0, up to 1")
    amounts.add_argument("--count", type=int, metavar="N", help="number of segments")
    group = parser.add_argument_group("how")
    group.add_argument("--modality", choices=("auto", "av", "v", "a"), help="score pictures (v), sound (a) or both")
    group.add_argument("--scorer", choices=("auto", "model", "heuristic"), help="learned, or by movement and loudness")
    group.add_argument("--clip", type=float, metavar="S", help="length of a scored clip; default: 2 seconds")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, such as min_segment_s=3, or position=0 not to prefer the middle; may be repeated",
    )
    group.add_argument(
        "--recipe", metavar="FILE", help="take segments and settings from a JSON file or a reel of this command"
    )
    group = parser.add_argument_group("fitting to your footage")
    group.add_argument("--adapt", metavar="FOLDER", help="learn from all videos below it, without labels")
    group.add_argument("--save", metavar="FOLDER", help="where the fitted model goes; default: FOLDER-model")
    group.add_argument("--steps", type=int, default=150, metavar="N", help="steps of fitting; default: 150")
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="NAME|FOLDER", help="see `genmm models`; default: rasl, else the heuristic")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N, mps; default: auto")


def run(args: argparse.Namespace) -> int:
    """Find, write, tell."""
    if args.adapt:
        return _adapt(args)
    _check(args)
    recipe = _recipe(args)
    wanted = _wanted(args, recipe)
    from app.progress import ProgressDisplay
    from genmm.core.events import Progress

    with ProgressDisplay("finding highlights") as show:
        show(Progress(0, None, "", "loading the model"))
        pipeline = load_pipeline(args.model, args.device)
        result = pipeline.highlights(args.video, settings=wanted, on_event=show)
        if recipe and not any(getattr(args, name) is not None for name in AMOUNTS):
            result = _with_segments(result, recipe)
        written = _write(args, result, show)
    _tell(result, written)
    return 0


def load_pipeline(model: str | None, device: str) -> RaslPipeline:
    """The named model; without a name the embedded one, or the heuristic where none is installed."""
    import genmm
    from genmm.registry import find_model
    from genmm.systems.rasl.pipeline import RaslPipeline

    if model is None:
        try:
            find_model("rasl")
        except UsageError:
            return RaslPipeline.heuristic()
    info = find_model(model or "rasl")
    if info.system and info.system != "rasl":
        raise UsageError(f"model {info.name} is for {info.system}; highlights need a rasl model, see `genmm models`")
    return genmm.load(model or "rasl", device=device)


def _check(args: argparse.Namespace) -> None:
    if not args.video:
        raise UsageError("which video? Write: genmm highlight video.mp4 -o reel.mp4 --seconds 30")
    if args.save:
        raise UsageError("--save belongs to --adapt; a reel is written with -o")
    if args.output and Path(args.output).suffix.lower() not in REELS:
        raise UsageError(f"a reel is written as {', '.join(REELS)}, got {args.output!r}; change the suffix")
    outputs = [getattr(args, name) for name in ("output", "json", "csv", "edl", "edl_rest", "chapters", "sheet")]
    outputs += [Path(args.thumbnails, "1.jpg")] if args.thumbnails else []
    check_targets([path for path in outputs if path], sources=[args.video])
    if args.chapters and Path(args.chapters).suffix.lower() not in (".vtt", ".txt", ".ffmetadata"):
        raise UsageError(f"chapters are written as .vtt, .txt or .ffmetadata, got {args.chapters!r}")
    if args.max_side is not None and args.max_side < 16:
        raise UsageError(f"--max-side must be at least 16, got {args.max_side}")
    if args.max_side is not None and args.copy:
        raise UsageError("--copy leaves the pictures as they are; leave --max-side out, or encode anew without --copy")


def _recipe(args: argparse.Namespace) -> dict[str, Any] | None:
    if not args.recipe:
        return None
    from genmm.systems.rasl.result import DOCUMENT_BYTES

    recipe = find_recipe(args.recipe, max_bytes=DOCUMENT_BYTES)
    if recipe["task"] != "highlight":
        raise UsageError(f"{args.recipe} is a recipe for {recipe['task']}, not for highlights")
    return recipe


def _wanted(args: argparse.Namespace, recipe: dict[str, Any] | None) -> dict[str, Any]:
    """Settings: those of the recipe, then --set, then the options."""
    settings = dict(recipe["settings"]) if recipe else {}
    settings |= dict(read_setting(text) for text in args.set)
    given = {"modality": args.modality, "scorer": args.scorer, "clip_s": args.clip}
    settings |= {name: value for name, value in given.items() if value is not None}
    amounts = {name: getattr(args, name) for name in AMOUNTS if getattr(args, name) is not None}
    if amounts:
        settings = {name: value for name, value in settings.items() if name not in AMOUNTS} | amounts
    return settings


def _with_segments(result: HighlightResult, recipe: dict[str, Any]) -> HighlightResult:
    try:
        spans = [(float(part["start_s"]), float(part["end_s"])) for part in recipe["segments"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the recipe's segments need start_s and end_s in seconds: {error}") from error
    return result.with_segments(spans)


def _write(args: argparse.Namespace, result: HighlightResult, show: ProgressDisplay) -> list[Path]:
    """Write everything that was asked for; the reel comes last, so that a failing one loses nothing else."""
    from genmm.core.events import in_seconds
    from genmm.media.reel import REEL_SIDE

    writers = {
        "json": result.save_json,
        "csv": result.save_csv,
        "edl": result.save_edl,
        "edl_rest": lambda path: result.save_edl(path, discarded=True),
        "chapters": result.save_chapters,
        "sheet": result.contact_sheet,
    }
    written = [write(getattr(args, name)) for name, write in writers.items() if getattr(args, name)]
    if args.thumbnails:
        written += result.thumbnails(args.thumbnails)
    if args.output:
        reel = result.render(
            args.output,
            mode="copy" if args.copy else "encode",
            max_side=args.max_side or REEL_SIDE,
            on_progress=in_seconds(show, result.seconds, "cutting the reel"),
        )
        written.insert(0, reel)
    return written


def _tell(result: HighlightResult, written: list[Path]) -> None:
    count = counted(len(result.segments), "segment")
    print(f"{result.source}: {result.duration_s:.1f} s, {count}, {result.seconds:.1f} s kept")
    print(f"score over time |{curve(result.scores)}|")
    for number, segment in enumerate(result.segments, 1):
        print(f"  {number:3d}  {_clock(segment.start_s)} - {_clock(segment.end_s)}  score {segment.score:.2f}")
    for note in result.notes:
        print(f"note: {note}")
    for path in written:
        print(path)


def curve(scores: Any, columns: int = 60) -> str:
    """The scores [n] as one line of characters, darker for higher."""
    import numpy as np

    parts = np.array_split(np.asarray(scores), min(columns, len(scores)))
    return "".join(BARS[min(len(BARS) - 1, int(part.max() * len(BARS)))] for part in parts)


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(time_s, 60)
    return f"{int(minutes):3d}:{seconds:05.2f}"


def _adapt(args: argparse.Namespace) -> int:
    """Fit the model to a folder of videos and say whether it helped."""
    if args.video or args.output:
        raise UsageError("--adapt learns from a folder and takes no video; find highlights afterwards with --model")
    if args.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {args.steps}")
    from app.progress import ProgressDisplay
    from genmm.core.events import drain
    from genmm.core.paths import genmm_home
    from genmm.systems.rasl.adapting import adapt_events

    source = Path(args.adapt)
    folder = Path(args.save) if args.save else source.resolve().parent / f"{source.resolve().name}-model"
    with ProgressDisplay("fitting") as show:
        base = load_pipeline(args.model, args.device)
        events = adapt_events(base, source, folder, cache=genmm_home() / "features", steps=args.steps)
        report = drain(events, show)
    seen = f"{counted(report.videos, 'video')}, {report.minutes:.1f} min, {counted(report.steps, 'step')}"
    print(f"{seen}; {report.held_out} kept for judging")
    print(f"objective on what was kept back: {report.objective_before:.4f} before, {report.objective_after:.4f} after")
    print(f"agreement with the base model: {report.agreement:.2f} (rank correlation)")
    for line in report.left_out:
        print(f"left out: {line}")
    print(report.verdict)
    print(folder)
    return 0
