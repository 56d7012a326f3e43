"""`genmm tokenize-image`: pictures in, token sets out, and back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from app.standard_input import read_standard_input
from genmm.core.errors import UsageError
from genmm.core.files import check_targets

DESCRIPTION = """\
Turn pictures into unordered sets of tokens. One line of JSON for each picture: file,
tokens (ascending; their order means nothing) and counts (code -> times).
--decode turns such lines back into pictures."""
EPILOG = """\
examples:
  genmm tokenize-image heart.png star.png                   lines to standard output
  genmm tokenize-image *.png --tokens 64 -o sets.jsonl
  genmm tokenize-image heart.png --reconstruct back.png     the picture through its tokens
  genmm tokenize-image heart.png --map map.png              where it spends its tokens
  genmm tokenize-image --decode sets.jsonl -o pictures/"""
LINES = 100_000
"""Most lines that are decoded."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "tokenize-image", help="pictures to token sets and back", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("pictures", nargs="*", metavar="FILE", help="PNG, JPEG, WebP, GIF, BMP or TIFF")
    parser.add_argument("--tokens", type=int, metavar="N", help="tokens of a set; default: as drawn pictures have")
    parser.add_argument("-o", "--output", metavar="FILE|FOLDER", help="file for the lines, or folder with --decode")
    parser.add_argument("--decode", metavar="FILE", help="lines of JSON with tokens; - reads standard input")
    parser.add_argument("--reconstruct", metavar="FILE", help="write the first picture as its tokens give it back")
    parser.add_argument("--map", metavar="FILE", help="write a heat map of the first picture; its tokens go to stdout")
    parser.add_argument("--model", default="tokenset", metavar="NAME|FOLDER", help="default: tokenset")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N, mps; default: auto")


def run(args: argparse.Namespace) -> int:
    """Tokenise or decode."""
    if bool(args.decode) == bool(args.pictures):
        raise UsageError("name pictures to tokenise, or lines to turn back with --decode FILE")
    if args.decode and (args.map or args.reconstruct):
        raise UsageError("--map and --reconstruct look at a picture; leave --decode out")
    written = (
        Path(args.output, "00001.png") if args.decode and args.output else args.output,
        args.map,
        args.reconstruct,
    )
    check_targets([path for path in written if path], sources=args.pictures)
    import genmm

    pipeline = genmm.load(args.model, device=args.device)
    if pipeline.system != "tokenset":
        raise UsageError(f"model {args.model} is of the system {pipeline.system}, which makes no token sets")
    if args.decode:
        return _decode(pipeline, args)
    sets = pipeline.tokenize(args.pictures, args.tokens)
    lines = [_line(name, one) for name, one in zip(args.pictures, sets, strict=True)]
    if args.map:
        lines[0] = {**lines[0], "map": _write_map(pipeline, sets[0], args.map)}
    if args.reconstruct:
        pipeline.reconstruct(args.pictures[0], args.tokens).save(args.reconstruct)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if args.output:
        from genmm.core.files import write_text

        print(write_text(args.output, text))
    else:
        print(text, end="")
    return 0


def _line(name: str, one: Any) -> dict[str, Any]:
    return {"file": name, "tokens": list(one), "counts": {str(code): times for code, times in one.pairs}}


def _write_map(pipeline: Any, one: Any, path: str) -> list[dict[str, Any]]:
    """Write the heat map; gives back where each token acts, as shares of the four quarters."""
    import numpy as np

    from genmm.media.image import write_image
    from genmm.systems.tokenset.heat import heat_picture

    found = pipeline.token_map(one)
    write_image(path, heat_picture(pipeline.decode([one])[0], found.heat))
    half = pipeline.image_size // 2
    quarters = {}
    for name, rows, columns in (
        ("upper_left", slice(0, half), slice(0, half)), ("upper_right", slice(0, half), slice(half, None)),
        ("lower_left", slice(half, None), slice(0, half)), ("lower_right", slice(half, None), slice(half, None)),
    ):  # fmt: skip
        region = np.zeros((pipeline.image_size, pipeline.image_size), dtype=bool)
        region[rows, columns] = True
        quarters[name] = found.shares(region)
    return [
        {"code": code, "times": times, **{name: round(float(shares[row]), 3) for name, shares in quarters.items()}}
        for row, (code, times) in enumerate(zip(found.codes, found.times, strict=True))
    ]


def _decode(pipeline: Any, args: argparse.Namespace) -> int:
    from genmm.core.files import parse_json
    from genmm.media.image import write_image

    if not args.output:
        raise UsageError("--decode writes pictures; name a folder with -o")
    rows = [
        (number, parse_json(line, source=f"line {number}"))
        for number, line in enumerate(_lines(args.decode)[:LINES], 1)
        if line.strip()
    ]
    if not rows:
        raise UsageError(f"{args.decode} holds no lines to decode")
    sets = [_set_of(row, number, pipeline) for number, row in rows]
    folder = Path(args.output)
    for number, picture in enumerate(pipeline.decode(sets), 1):
        print(write_image(folder / f"{number:05d}.png", picture))
    return 0


def _lines(name: str) -> list[str]:
    if name != "-" and not Path(name).is_file():
        raise UsageError(f"there is no file {name}")
    try:
        return (read_standard_input() if name == "-" else Path(name).read_text(encoding="utf-8")).splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is no text; --decode reads the lines that genmm tokenize-image writes") from error


def _set_of(row: Any, number: int, pipeline: Any) -> Any:
    """The token set of a line: a list of tokens, an object with tokens, or one with counts (code -> times)."""
    from genmm.quantizers.multiset import TokenSet

    tokens = row.get("tokens") if isinstance(row, dict) else row
    counts = row.get("counts") if isinstance(row, dict) else None
    try:
        if tokens is None and isinstance(counts, dict) and counts:
            if not all(code.isdecimal() and type(times) is int for code, times in counts.items()):
                raise UsageError("counts must be whole numbers by code")
            found = TokenSet.from_mapping({int(code): times for code, times in counts.items()}, pipeline.codes)
        elif not isinstance(tokens, list) or not tokens or not all(type(token) is int for token in tokens):
            raise UsageError('there is no list of whole numbers "tokens" and no object "counts"')
        else:
            found = TokenSet.from_tokens(tokens, pipeline.codes)
        most = pipeline.tokenizer.config.tokens
        if not 1 <= len(found) <= most:
            raise UsageError(f"a set has 1 to {most} tokens, this one has {len(found)}")
        if isinstance(counts, dict) and tokens is not None and counts != {str(c): n for c, n in found.pairs}:
            raise UsageError("tokens and counts contradict each other; leave one out")
    except UsageError as error:
        raise UsageError(f"line {number}: {error}") from error
    return found
