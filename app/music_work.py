"""What compose, edit, extend and loop share: options, recipes, loading, saving, and what is said at the end."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.notes import say
from app.options import read_setting
from genmm.core.errors import UsageError
from genmm.core.files import check_target, free_name
from genmm.media.recipes import find_recipe

if TYPE_CHECKING:
    from genmm.media.audio import Audio
    from genmm.systems.melodyflow.pipeline import MelodyFlowPipeline
    from genmm.systems.melodyflow.result import MusicResult

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
DEFAULT_MODEL = "melodyflow"
KINDS = {
    "generate": "new music",
    "edit": "an edit",
    "inpaint": "a part made anew",
    "extend": "a continuation",
    "loop": "a loop",
}
"""What a recipe of music is for, in words."""


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    """Where the sound goes."""
    parser.set_defaults(default_output=default)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=f".wav, .flac, .mp3 or .ogg; several results get numbers. Default: {default}, or a free name",
    )


def add_settings(parser: argparse.ArgumentParser, *, new_music: bool) -> None:
    """Options of every music command."""
    group = parser.add_argument_group("music")
    if new_music:
        group.add_argument("--bpm", type=float, metavar="N", help="tempo in beats a minute, goes before the text")
        group.add_argument("--key", metavar="KEY", help='key, such as "A minor" or Eb, goes before the text')
    group.add_argument("--negative", default=None, metavar="TEXT", help="what it should not be")
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--seed", type=int, metavar="N", help="seed of the first take, 0 to 2**63 - 1; default: a new one"
    )
    group.add_argument("--takes", type=int, metavar="N", help="variations, 1 to 8; default: 1")
    group.add_argument(
        "--guidance", type=float, metavar="X", help="how strongly the text is followed, 0 to 15; 0 is off"
    )
    steps = "steps, even for the midpoint solver (not in edits); more is finer and slower. Default: the model's"
    group.add_argument("--steps", type=int, metavar="N", help=steps)
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other music setting, such as loudness_lufs=-14 or guidance_end=0.8; may be repeated",
    )
    group.add_argument("--recipe", metavar="FILE", help="start from the recipe of a file (.json or the sound itself)")
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="NAME|FOLDER", help=f"see `genmm models`; default: {DEFAULT_MODEL}")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N, mps; default: auto")
    group.add_argument("--dtype", default="auto", metavar="NAME", help="auto, float32 or bfloat16; default: auto")
    group.add_argument("--packing", default="live", choices=("live", "int8"),
                       help="int8: weights and activations of a float32 model in bytes, faster on a CPU, a little less "
                       "exact. Default: live, as they are")  # fmt: skip


def checked_output(args: argparse.Namespace) -> Path:
    """The file to write. Raises: UsageError for one that cannot be written, the recording itself, or another suffix;
    for a recording that is not there."""
    sources = [args.source] if getattr(args, "source", None) else []
    if sources and not Path(args.source).exists():
        raise UsageError(f"there is no file {args.source}")
    several = bool(args.recipe or (args.takes or 1) > 1 or getattr(args, "then", []))
    path = check_target(args.output or free_name(args.default_output), sources=sources, several=several)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"music is written as {', '.join(SUFFIXES)}, got {path.name!r}; change the suffix")
    return path


def recipe_of(args: argparse.Namespace, kind: str) -> dict[str, Any] | None:
    """The recipe that the person starts from. Raises: UsageError when it is for something else."""
    if not args.recipe:
        return None
    recipe = find_recipe(args.recipe)
    found = recipe["settings"].get("kind") if recipe["task"] == "music" else recipe["task"]
    if found != kind:
        raise UsageError(f"{args.recipe} is a recipe for {KINDS.get(str(found), found)}, not for {KINDS[kind]}")
    return recipe


def asked(args: argparse.Namespace, recipe: dict[str, Any] | None, *, steps: str = "steps") -> dict[str, Any]:
    """Arguments that every music call takes; options go before the recipe. --steps gives the setting `steps`: an edit
    walks there and back, and its steps are a setting of their own."""
    settings: dict[str, Any] = {}
    before = recipe["settings"] if recipe else {}
    if recipe:
        settings |= _known_settings(before)
    settings |= dict(read_setting(text) for text in args.set)
    for name, value in {"guidance": args.guidance, steps: args.steps}.items():
        if value is not None:
            settings[name] = value
    takes, seeds = args.takes, ()
    if recipe and args.seed is None and takes in (None, len(recipe["seeds"])):
        seeds = tuple(recipe["seeds"])
    wanted: dict[str, Any] = {
        "settings": settings,
        "seeds": seeds,
        "takes": takes if takes is not None else len(seeds) or 1,
        "negative_text": args.negative if args.negative is not None else before.get("negative_text", ""),
    }
    if not seeds:
        wanted["seed"] = args.seed
    for name in ("bpm", "key"):
        if hasattr(args, name):
            given = getattr(args, name)
            wanted[name] = given if given is not None else before.get(name)
    return wanted


def texts_of(args: argparse.Namespace, recipe: dict[str, Any] | None, example: str) -> list[str]:
    """The descriptions, from the line or the recipe. Raises: UsageError when there is none."""
    given = [text for text in [args.text, *getattr(args, "then", [])] if text is not None]
    texts = given or (recipe["settings"].get("texts", []) if recipe else [])
    if not texts:
        raise UsageError(f'describe the music, for instance: {example}; "" lets the model choose')
    return list(texts)


def load(args: argparse.Namespace, recipe: dict[str, Any] | None) -> MelodyFlowPipeline:
    """The model that is asked for. Raises: UsageError when it makes no music."""
    import genmm

    named = recipe["model"].get("name") if recipe else None
    pipeline = genmm.load(
        args.model or named or DEFAULT_MODEL, device=args.device, dtype=args.dtype, packing=args.packing
    )
    if pipeline.system != "melodyflow":
        raise UsageError(f"model {pipeline.name} is of the system {pipeline.system}, which makes no music")
    if recipe and recipe["model"].get("fingerprint") != pipeline.model["fingerprint"]:
        say(f"the recipe was made with another version of the model ({named}); the music will differ")
    return pipeline


def read_source(path: str) -> Audio:
    """The sound of a file, with what was odd about it said."""
    from genmm.media.audio import read_audio

    return read_audio(Path(path).expanduser())


def finish(result: MusicResult, output: Path) -> int:
    """Save; paths on stdout, for scripts, everything else on stderr."""
    for path in result.save(output):
        if path.suffix != ".json":
            print(path)
    total = result.timings.get("total_s", 0.0)
    speed = f", {sum(result.seconds) / total:.1f} times real time" if total else ""
    for take, (seconds, seed, sentence) in enumerate(zip(result.seconds, result.seeds, result.understood, strict=True)):
        name = _name_of(result, take)
        say(f"{name}{sentence}")
        say(f"{name}{seconds:.2f} s of music, seed {seed}")
    say(f"made by {result.model['name']} in {total:.2f} s, {result.network_calls} network calls{speed}")
    for text in result.notes:
        say(text)
    return 0


def _name_of(result: MusicResult, take: int) -> str:
    """What a line about a take starts with, nothing when there is one alone."""
    if result.is_many_edits:
        return f"edit {take + 1} ({' '.join(result.texts[take].split())[:60]}): "
    return f"take {take + 1}: " if len(result.seeds) > 1 else ""


def _known_settings(settings: dict[str, Any]) -> dict[str, Any]:
    from genmm.systems.melodyflow.request import MusicSettings

    names = {entry.name for entry in dataclasses.fields(MusicSettings)}
    return {name: value for name, value in settings.items() if name in names}
