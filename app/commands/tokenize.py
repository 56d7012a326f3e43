"""`genmm tokenize`: a video in, a handful of tokens and a map out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.notes import say
from genmm.core.errors import UsageError
from genmm.core.files import check_targets
from genmm.core.wording import counted, percent
from genmm.media.recipes import find_recipe
from genmm.systems.vqtoken.methods import METHODS

if TYPE_CHECKING:
    from genmm.systems.vqtoken.result import TokenizedVideo

DEFAULT_MODEL = "vqtoken"
DESCRIPTION = """\
Turn a video into a few discrete tokens and an index map that says where each of them
is seen. The recipe is written beside the file as .json."""
EPILOG = """\
examples:
  genmm tokenize clip.mp4 -o clip.safetensors                   32 tokens, map and geometry
  genmm tokenize clip.mp4 --tokens adaptive -o clip.gmvq        as many as the video needs, packed
  genmm tokenize clip.mp4 --tokens 12 --overlay map.mp4         the map drawn over the video
  genmm tokenize clip.mp4 --tokens 12 --method pool             a baseline, to compare
  genmm tokenize other.mp4 --recipe clip.json -o other.gmvq     another video with the same settings

.safetensors holds tokens, codebook, index_map, counts, positions and spread; .gmvq the
codebook as float16 and the map at ceil(log2 tokens) bits a cell."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("tokenize", help="video to tokens", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("video", help="video file")
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", metavar="FILE", help=".safetensors or .gmvq; default: VIDEO.safetensors here")
    group.add_argument("--overlay", metavar="FILE", help="also draw the map over the video (.mp4) or a frame (.png)")
    group.add_argument("--json", action="store_true", help="print the figures as JSON")
    group = parser.add_argument_group("settings")
    group.add_argument("--tokens", metavar="N", help="1 to 1024, adaptive, explained, knee or silhouette; default: 32")
    group.add_argument("--method", choices=METHODS, help="reducer; default: vqtoken")
    group.add_argument(
        "--fps", type=float, metavar="X", help="frames a second that are looked at; default: the model's"
    )
    group.add_argument("--start", type=float, metavar="S", help="from this second on; default: 0")
    group.add_argument("--end", type=float, metavar="S", help="up to this second; default: the end")
    group.add_argument("--seed", type=int, metavar="N", help="seed of the clustering; default: 0")
    group.add_argument("--recipe", metavar="FILE", help="settings and model of a recipe; options go before it")
    add_model_options(parser, default=None)


def add_model_options(parser: argparse.ArgumentParser, *, default: str | None = DEFAULT_MODEL) -> None:
    """Model, device and number format."""
    group = parser.add_argument_group("model")
    told = f"see `genmm models`; default: {DEFAULT_MODEL}"
    group.add_argument("--model", default=default, metavar="NAME|FOLDER", help=told)
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N, mps; default: auto")
    group.add_argument(
        "--dtype", default="auto", metavar="NAME", help="auto, float32, bfloat16, float16; default: auto"
    )


def run(args: argparse.Namespace) -> int:
    """Tokenize, save, say what was made."""
    video = checked_video(args.video)
    output = Path(args.output or f"{video.stem}.safetensors")
    _check_names(args, output)
    recipe = _recipe(args)
    from app.progress import ProgressDisplay
    from genmm.core.events import Progress, in_seconds

    with ProgressDisplay("tokenizing") as show:
        show(Progress(0, None, "", "loading the model"))
        args.model = args.model or (recipe["model"].get("name") if recipe else None) or DEFAULT_MODEL
        pipeline = load_video_model(args)
        if recipe and recipe["model"].get("fingerprint") != pipeline.model["fingerprint"]:
            say(f"the recipe was made with another version of the model ({args.model})")
        made = pipeline.tokenize(video, **_options(args, recipe), on_event=show)
        paths = made.save(output)
        if args.overlay:
            drawn = in_seconds(show, made.seconds, "drawing the map")
            paths = (*paths, made.save_overlay(args.video, args.overlay, on_progress=drawn))
    _tell(made, paths, args.json)
    return 0


def _recipe(args: argparse.Namespace) -> dict[str, Any] | None:
    if not args.recipe:
        return None
    recipe = find_recipe(args.recipe)
    if recipe["task"] != "video":
        raise UsageError(f"{args.recipe} is a recipe for {recipe['task']}, not for the tokens of a video")
    return recipe


def _options(args: argparse.Namespace, recipe: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of `tokenize`: options, then the recipe, then the defaults of the pipeline."""
    given = {"tokens": args.tokens, "method": args.method, "fps": args.fps, "start_s": args.start, "end_s": args.end}
    options = {name: value for name, value in {**given, "seed": args.seed}.items() if value is not None}
    before = {}
    if recipe:
        before = {name: recipe["settings"][name] for name in given if recipe["settings"].get(name) is not None}
        before["seed"] = recipe["seeds"][0] if recipe["seeds"] else 0
    return before | options


def _check_names(args: argparse.Namespace, output: Path) -> None:
    if output.suffix.lower() not in (".safetensors", ".gmvq"):
        raise UsageError(f"tokens are written as .safetensors or .gmvq, got {output.name!r}; change the suffix")
    if args.overlay and Path(args.overlay).suffix.lower() not in (".mp4", ".m4v", ".mov", ".png", ".jpg", ".webp"):
        raise UsageError(f"an overlay is a video (.mp4) or a picture (.png, .jpg), got {args.overlay!r}")
    check_targets([output, *([args.overlay] if args.overlay else [])], sources=[args.video])


def checked_video(path: str) -> Path:
    """The path of a file that is there. Raises: UsageError otherwise."""
    if not path:
        raise UsageError("the name of the video is empty; name a file")
    if Path(path).is_dir():
        raise UsageError(f"{path} is a folder; name the video files in it")
    if not Path(path).is_file():
        raise UsageError(f"there is no file {path}")
    return Path(path)


def load_video_model(args: argparse.Namespace):  # noqa: ANN201 - a pipeline, which is not imported here
    """The model of the options. Raises: UsageError when it is not one for videos."""
    import genmm

    pipeline = genmm.load(args.model, device=args.device, dtype=args.dtype)
    if pipeline.system != "vqtoken":
        raise UsageError(f"model {args.model} is of the system {pipeline.system}, which does not read videos")
    return pipeline


def _tell(made: TokenizedVideo, paths: tuple[Path, ...], as_json: bool) -> None:
    facts = made.facts()
    if as_json:
        print(json.dumps({**facts, "files": [str(path) for path in paths]}))
        return
    share, lost = percent(facts["token_share"]), 100 * facts["lost"]
    print(f"{counted(facts['tokens'], 'token')} of {facts['cells']} ({share}), {lost:.1f} % of the variance lost")
    size = facts["code_bits"] / 8
    times = facts["file_bytes"] / max(size, 1.0)
    versus = f", {times:.0f} times smaller than the file" if times >= 1.5 else ""
    seen = counted(facts["frames"], "frame")
    print(f"{seen} over {facts['seconds']:.1f} s; the code has {counted(round(size), 'byte')}{versus}")
    for note in made.notes:
        print(f"note: {note}")
    print("\n".join(str(path) for path in paths))
