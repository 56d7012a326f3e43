"""`genmm tokenize`: a video in, a handful of tokens and a map out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from genmm.core.errors import UsageError
from genmm.core.files import check_target
from genmm.systems.vqtoken.methods import METHODS

if TYPE_CHECKING:
    from genmm.systems.vqtoken.result import TokenizedVideo

DESCRIPTION = """\
Turn a video into a few discrete tokens and an index map that says where each of them
is seen. The recipe is written beside the file as .json."""
EPILOG = """\
examples:
  genmm tokenize clip.mp4 -o clip.safetensors                   32 tokens, map and geometry
  genmm tokenize clip.mp4 --tokens adaptive -o clip.gmvq        as many as the video needs, packed
  genmm tokenize clip.mp4 --tokens 12 --overlay map.mp4         the map drawn over the video
  genmm tokenize clip.mp4 --tokens 12 --method pool             a baseline, to compare

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
    group.add_argument(
        "--tokens", default="32", metavar="N", help="1 to 1024, adaptive, explained, knee or silhouette; default: 32"
    )
    group.add_argument("--method", default="vqtoken", choices=METHODS, help="reducer; default: vqtoken")
    group.add_argument(
        "--fps", type=float, metavar="X", help="frames a second that are looked at; default: the model's"
    )
    group.add_argument("--start", type=float, default=0.0, metavar="S", help="from this second on; default: 0")
    group.add_argument("--end", type=float, metavar="S", help="up to this second; default: the end")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the clustering; default: 0")
    add_model_options(parser)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Model, device and number format."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="vqtoken", metavar="NAME|FOLDER", help="see `genmm models`; default: vqtoken")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N, mps; default: auto")
    group.add_argument(
        "--dtype", default="auto", metavar="NAME", help="auto, float32, bfloat16, float16; default: auto"
    )


def run(args: argparse.Namespace) -> int:
    """Tokenize, save, say what was made."""
    output = Path(args.output or f"{Path(args.video).stem}.safetensors")
    _check_names(args, output)
    from app.progress import ProgressDisplay
    from genmm.core.events import Progress

    with ProgressDisplay("tokenizing") as show:
        show(Progress(0, None, "", "loading the model"))
        pipeline = load_video_model(args)
        options = {"method": args.method, "fps": args.fps, "start_s": args.start, "end_s": args.end, "seed": args.seed}
        made = pipeline.tokenize(checked_video(args.video), tokens=args.tokens, **options, on_event=show)
        paths = made.save(output)
        if args.overlay:
            show(Progress(len(made.times_s), None, "frames", "drawing the map"))
            paths = (*paths, made.save_overlay(args.video, args.overlay))
    _tell(made, paths, args.json)
    return 0


def _check_names(args: argparse.Namespace, output: Path) -> None:
    if output.suffix.lower() not in (".safetensors", ".gmvq"):
        raise UsageError(f"tokens are written as .safetensors or .gmvq, got {output.name!r}; change the suffix")
    if args.overlay and Path(args.overlay).suffix.lower() not in (".mp4", ".m4v", ".mov", ".png", ".jpg", ".webp"):
        raise UsageError(f"an overlay is a video (.mp4) or a picture (.png, .jpg), got {args.overlay!r}")
    if args.overlay and Path(args.overlay).resolve() == Path(args.video).resolve():
        raise UsageError("the overlay would take the place of the video; give it another name")
    for path in (output, *([args.overlay] if args.overlay else [])):
        check_target(path)


def checked_video(path: str) -> Path:
    """The path of a file that is there. Raises: UsageError otherwise."""
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
    share, lost = 100 * facts["token_share"], 100 * facts["lost"]
    print(f"{facts['tokens']} tokens of {facts['cells']} ({share:.2g} %), {lost:.1f} % of the variance lost")
    size = facts["code_bits"] / 8
    versus = f", {facts['file_bytes'] / size:.0f} times smaller than the file" if facts["file_bytes"] > size else ""
    print(f"{facts['frames']} frames over {facts['seconds']:.1f} s; the code has {size:.0f} bytes{versus}")
    for note in made.notes:
        print(f"note: {note}")
    print("\n".join(str(path) for path in paths))
