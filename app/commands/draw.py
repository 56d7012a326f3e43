"""`genmm draw`: a few words in, pictures out; or an edit of a picture by its tokens."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.notes import say
from app.options import read_setting
from genmm.core.errors import DataError, UsageError
from genmm.core.files import check_target, free_name
from genmm.core.wording import counted
from genmm.media.recipes import find_recipe

if TYPE_CHECKING:
    from genmm.systems.tokenset.pipeline import TokenSetPipeline
    from genmm.systems.tokenset.result import ImageResult

DESCRIPTION = """\
Draw pictures from a few words. Each file's recipe (text, labels, settings, seed, tokens,
model) is written beside it as .json and inside it; --recipe makes the same again.
With --edit a picture of yours is changed: part of its tokens is locked, the rest is
drawn anew."""
EPILOG = """\
examples:
  genmm draw "red heart" -n 4 -o out/                       four versions in a folder
  genmm draw "red heart" --label style=twemoji -o heart.png
  genmm draw "red heart, noto style" --seed 7 --set steps=50 --set guidance=3
  genmm draw --recipe heart.json -o again.png               the same once more
  genmm draw "face" --edit smile.png --region 0,0,64,32     redraw the upper half
  genmm draw --edit smile.png --strength 0.4 -n 4           four pictures near it
  genmm draw --edit one.png --towards two.png -n 6          six steps from one to the other
  genmm draw --edit one.png --swap two.png --region 0,0,32,64   exchange the left halves
  genmm draw --edit noisy.png --denoise 2                   through its tokens, twice

which labels a model knows: genmm models tokenset; pictures as tokens: genmm tokenize-image."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("draw", help="draw or edit pictures", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("text", nargs="?", help="what to draw, at most 2000 characters; left out: anything")
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        metavar="FILE|FOLDER",
        help="picture (.png, .jpg, .webp) or folder; default: picture.png, or a free name",
    )
    group.add_argument("-n", "--count", type=int, metavar="N", help="pictures, 1 to 64; default: 1")
    group.add_argument("--seed", type=int, metavar="N", help="seed of the first picture; default: a new one")
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--label", action="append", default=[], metavar="NAME=VALUE", help="a label of the model, such as style=noto"
    )
    group.add_argument("--steps", type=int, metavar="N", help="sampling steps, 1 to 1000")
    group.add_argument(
        "--guidance", metavar="X", help="how strongly text and labels are followed; 1 is off; 4_50_55 is a schedule"
    )
    group.add_argument("--temperature", type=float, metavar="X", help="variety, 0 to 10; lower is safer")
    group.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting, such as engine=repair"
    )
    group.add_argument("--recipe", metavar="FILE", help="start from the recipe of a file (.json or the picture)")
    group = parser.add_argument_group("editing")
    group.add_argument("--edit", metavar="FILE", help="picture to change")
    group.add_argument(
        "--region",
        metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="part to redraw, in pixels of the model; tokens of the rest stay",
    )
    group.add_argument(
        "--free", metavar="CODES", help="tokens to redraw, such as 17,203; see genmm tokenize-image --map"
    )
    group.add_argument(
        "--strength", type=float, metavar="X", help="how far from the old picture, above 0 to 1; default: 1"
    )
    group.add_argument(
        "--at-least", action="append", default=[], metavar="CODE=N", help="a token that every picture gets N times"
    )
    group.add_argument(
        "--at-most", action="append", default=[], metavar="CODE=N", help="a token that no picture gets more often"
    )
    group.add_argument("--towards", metavar="FILE", help="second picture: show the way from the first to it")
    group.add_argument("--swap", metavar="FILE", help="second picture: exchange the tokens of --region with it")
    group.add_argument("--denoise", type=int, metavar="N", help="clean the picture: N times through its tokens")
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="NAME|FOLDER", help="see `genmm models`; default: tokenset")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N, mps; default: auto")
    group.add_argument("--dtype", default="auto", metavar="NAME", help="auto, float32, bfloat16; default: auto")


def run(args: argparse.Namespace) -> int:
    """Draw, save, say what was made."""
    recipe = find_recipe(args.recipe) if args.recipe else None
    if recipe is not None and recipe["task"] != "image":
        raise UsageError(f"{args.recipe} is a recipe for {recipe['task']}, not for pictures")
    _check_use(args)
    if recipe is not None:
        _check_recipe(recipe["settings"], args.recipe)
    from app.progress import ProgressDisplay
    from genmm.core.events import Progress

    with ProgressDisplay("drawing") as show:
        show(Progress(0, None, "", "loading the model"))
        pipeline = _load(args, recipe)
        result = _made(pipeline, args, recipe, show)
    paths = result.save(_target(args.output))
    pictures = [path for path in paths if path.suffix != ".json"]
    for path, seed in zip(pictures, result.seeds, strict=True):
        print(path)
        say(f"{path.name}: seed {seed}, {counted(len(result.sets[0]), 'token')}")
    for note in result.notes:
        say(note)
    return 0


def _check_recipe(settings: dict[str, Any], name: str) -> None:
    """Raises: DataError for a recipe whose entries are not what a drawing has."""
    kinds = {"labels": dict, "text": (str, type(None)), "at_least": dict, "at_most": dict}
    if settings.get("operation") == "edit":
        kinds |= {"source": list, "free": list, "strength": (int, float)}
        wrong = [key for key in ("source", "free", "strength") if key not in settings]
    else:
        wrong = []
    wrong += [key for key, kind in kinds.items() if key in settings and not isinstance(settings[key], kind)]
    if wrong:
        raise DataError(f"{name} is not a recipe for pictures: the entry {wrong[0]!r} is missing or of the wrong kind")


def _check_use(args: argparse.Namespace) -> None:
    editing = args.region, args.free, args.towards, args.swap, args.at_least, args.at_most
    if not args.edit and (any(editing) or args.strength is not None or args.denoise is not None):
        raise UsageError(
            "--region, --free, --strength, --at-least, --at-most, --towards, --swap and --denoise change a picture; "
            "name it with --edit FILE"
        )
    ways = [name for name in ("towards", "swap", "denoise") if getattr(args, name) is not None]
    if len(ways) > 1:
        raise UsageError(f"give one of --{' and --'.join(ways)} at a time")
    if ways and (args.text is not None or args.label or args.free or args.strength is not None or args.recipe):
        raise UsageError(f"--{ways[0]} draws nothing new; leave words, labels, --free, --strength and --recipe out")
    if ways and bool(args.region) != (ways[0] == "swap"):
        raise UsageError("--swap needs --region LEFT,TOP,RIGHT,BOTTOM; --towards and --denoise take none")
    if args.region and args.free:
        raise UsageError("give --region or --free, not both")
    if args.output and Path(args.output).suffix and Path(args.output).suffix.lower() not in SUFFIXES:
        raise UsageError(f"pictures are written as {', '.join(SUFFIXES)}, got {args.output!r}; change the suffix")
    target, sources = _target(args.output), [path for path in (args.edit, args.towards, args.swap) if path]
    check_target(target, sources=sources, several=bool(args.recipe or args.towards or (args.count or 1) > 1))


def _made(
    pipeline: TokenSetPipeline, args: argparse.Namespace, recipe: dict[str, Any] | None, show: Any
) -> ImageResult:
    if recipe is not None and recipe["settings"].get("operation") not in (None, "draw", "edit"):
        return pipeline.again(recipe)
    wanted = _wanted(args, recipe)
    if args.towards:
        return pipeline.interpolate(
            args.edit, args.towards, steps=5 if wanted["count"] is None else wanted["count"], seed=wanted["seed"]
        )
    if args.swap:
        return pipeline.swap_region(args.edit, args.swap, _region(args.region, pipeline.image_size))
    if args.denoise is not None:
        return pipeline.denoise(args.edit, args.denoise)
    wanted["count"] = 1 if wanted["count"] is None else wanted["count"]
    old = recipe["settings"] if recipe and recipe["settings"].get("operation") == "edit" and not args.edit else None
    if old is None and not args.edit:
        return pipeline.generate(**wanted, on_event=show)
    from genmm.quantizers.multiset import TokenSet

    own = TokenSet.from_tokens(old["source"], pipeline.codes) if old else pipeline.tokenize([args.edit])[0]
    strength = args.strength if args.strength is not None else old["strength"] if old else 1.0
    bounds = {name: _bounds(getattr(args, name), name, old) for name in ("at_least", "at_most")}
    free = _free(pipeline, own, args, old)
    return pipeline.edit(own, free=free, strength=strength, on_event=show, **bounds, **wanted)


def _free(pipeline: TokenSetPipeline, own: Any, args: argparse.Namespace, old: dict[str, Any] | None) -> list[int]:
    if args.free:
        return [_number(part, "--free") for part in args.free.split(",")]
    if args.region:
        return list(pipeline.token_map(own).inside(_region(args.region, pipeline.image_size)))
    return old["free"] if old else [code for code, _ in own.pairs]


def _bounds(given: list[str], name: str, old: dict[str, Any] | None) -> dict[int, int]:
    option = f"--{name.replace('_', '-')}"
    if not given:
        return {int(code): times for code, times in (old or {}).get(name, {}).items()}
    pairs = (_label(text, option) for text in given)
    return {_number(code, option): _number(times, option) for code, times in pairs}


def _region(text: str, side: int) -> Any:
    import numpy as np

    parts = [_number(part, "--region") for part in text.split(",")]
    if len(parts) != 4 or not (0 <= parts[0] < parts[2] <= side and 0 <= parts[1] < parts[3] <= side):
        raise UsageError(f"--region is LEFT,TOP,RIGHT,BOTTOM within 0 to {side}, got {text!r}")
    region = np.zeros((side, side), dtype=bool)
    region[parts[1] : parts[3], parts[0] : parts[2]] = True
    return region


def _number(text: str, option: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"{option} takes whole numbers, got {text!r}") from error


def _wanted(args: argparse.Namespace, recipe: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of the pipeline; options go before the recipe."""
    old = recipe["settings"] if recipe else {}
    settings = _known_settings(old) | dict(read_setting(text) for text in args.set)
    own = {"steps": args.steps, "guidance": args.guidance, "temperature": args.temperature}
    settings |= {name: value for name, value in own.items() if value is not None}
    labels = {**old.get("labels", {}), **dict(_label(text) for text in args.label)}
    count, seeds = args.count, ()
    if recipe and args.seed is None and count in (None, len(recipe["seeds"])):
        seeds = tuple(recipe["seeds"])
        count = len(seeds)
    text = args.text if args.text is not None else old.get("text")
    return {
        "text": text, "labels": labels, "count": count, "seed": args.seed, "seeds": seeds, "settings": settings,
    }  # fmt: skip


def _known_settings(settings: dict[str, Any]) -> dict[str, Any]:
    import dataclasses

    from genmm.systems.tokenset.request import PictureSettings

    names = {entry.name for entry in dataclasses.fields(PictureSettings)}
    return {name: value for name, value in settings.items() if name in names}


def _label(text: str, option: str = "--label") -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} takes NAME=VALUE, got {text!r}")
    return name.strip(), value.strip()


def _load(args: argparse.Namespace, recipe: dict[str, Any] | None) -> TokenSetPipeline:
    import genmm

    name = args.model or (recipe["model"].get("name") if recipe else None) or "tokenset"
    pipeline = genmm.load(name, device=args.device, dtype=args.dtype)
    if pipeline.system != "tokenset":
        raise UsageError(f"model {name} is of the system {pipeline.system}, which does not draw; see `genmm models`")
    if recipe and recipe["model"].get("fingerprint") != pipeline.model["fingerprint"]:
        say(f"the recipe was made with another version of the model ({name}); pictures will differ")
    return pipeline


def _target(output: str | None) -> Path:
    """The file that -o names, or, where it names a folder or is left out, one whose name is free."""
    path = Path(output or ".")
    if not output or output.endswith(("/", "\\")) or path.is_dir() or not path.suffix:
        return free_name(path / "picture.png")
    return path
