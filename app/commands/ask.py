"""`genmm ask`: a question about a video, answered from its tokens."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from app.commands.tokenize import add_model_options, checked_video, load_video_model
from app.notes import say
from genmm.core.errors import DataError, UsageError
from genmm.systems.vqtoken.methods import BLOCKS

MOST_WORDS = 2048
"""Longest answer that may be asked for."""
USUAL_WORDS = 128
DESCRIPTION = """\
Answer a question about a video from its few tokens. The embedded model knows simple
scenes of moving shapes and a closed set of questions; a pulled language model
(genmm pull vqtoken) answers freely and its words appear while it writes."""
EPILOG = """\
examples:
  genmm ask shapes.mp4 "which way does the red circle move"
  genmm ask shapes.mp4 "how many squares are there" --json
  genmm ask shapes.gmvq "how many squares are there"      from tokens that were packed before
  genmm ask holiday.mp4 "What happens in this video?" --model vqtoken-llava-ov-0.5b"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("ask", help="ask about a video", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("video", help="video file, or its tokens as .gmvq (genmm tokenize)")
    parser.add_argument("question", help="what you want to know")
    parser.add_argument(
        "--tokens", metavar="N", help="1 to 1024, adaptive, explained, knee or silhouette; default: the model's"
    )
    told = f"longest answer of a language model, 1 to {MOST_WORDS}; default: {USUAL_WORDS}"
    parser.add_argument("--max-words", type=int, metavar="N", help=told)
    parser.add_argument(
        "--block",
        choices=list(BLOCKS),
        help="attention block of a language model, if its checkpoint has it, or none; default: as it was trained",
    )
    parser.add_argument("--json", action="store_true", help="print JSON with probabilities")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    video = checked_video(args.video)
    if video.suffix.lower() == ".safetensors":
        packed = f"genmm tokenize VIDEO -o {video.stem}.gmvq"
        raise UsageError(f"{video.name} cannot be asked; take the video, or its packed tokens: {packed}")
    if args.max_words is not None and not 1 <= args.max_words <= MOST_WORDS:
        raise UsageError(f"--max-words is 1 to {MOST_WORDS}, got {args.max_words}; {USUAL_WORDS} is usual")
    pipeline = load_video_model(args)
    packed = _unpacked(pipeline, video, args) if video.suffix.lower() == ".gmvq" else None
    if hasattr(pipeline, "answer_stream"):
        return _stream(pipeline, video if packed is None else packed, args)
    if args.block is not None:
        raise UsageError(f"--block is for language models; {pipeline.name} has one block, which it was trained with")
    if args.max_words is not None:
        raise UsageError(f"--max-words is for language models; {pipeline.name} gives short answers; leave it out")
    answerer = pipeline.answerer
    if answerer is not None:
        answerer.encode([args.question])  # before the video is read
    tokens = args.tokens or (answerer.config.tokens if answerer is not None else 32)
    seen = _read(pipeline, video, tokens) if packed is None else packed
    answer = pipeline.answer(seen, args.question)
    tokens, cells = int(seen.num_tokens[0]), int((seen.index_map >= 0).sum())
    if args.json:
        others = [{"answer": text, "probability": round(p, 4)} for text, p in answer.others]
        known = {"answer": answer.text, "probability": round(answer.confidence, 4), "others": others}
        print(json.dumps({**known, "tokens": tokens, "cells": cells}))
    else:
        print(answer.text)
        say(f"{100 * answer.confidence:.0f} % sure, from {tokens} of {cells} tokens")
    return 0


def _read(pipeline, video: Path, tokens: int | str):  # noqa: ANN001, ANN202 - no imports of torch here
    """The reduced video of a file, with progress and notes on stderr."""
    from app.progress import ProgressDisplay

    with ProgressDisplay("reading the video") as show:
        made = pipeline.tokenize(video, tokens=tokens, on_event=show)
    for note in made.notes:
        say(note)
    return made.reduced


def _unpacked(pipeline, path: Path, args: argparse.Namespace):  # noqa: ANN001, ANN202 - no imports of torch here
    """The reduced video of a .gmvq file. Raises: UsageError with options of the reduction, DataError when damaged."""
    if args.tokens is not None or args.block is not None:
        raise UsageError(
            f"{path.name} has its tokens already; leave --tokens and --block out, or ask about the video itself"
        )
    try:
        return pipeline.unpack(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _stream(pipeline, video, args: argparse.Namespace) -> int:  # noqa: ANN001
    """Print the words of a language model as they come; a path is read first."""
    if isinstance(video, Path):
        from app.progress import ProgressDisplay

        notes: list[str] = []
        with ProgressDisplay("reading the video") as show:
            options = {"tokens": args.tokens, "block": args.block}
            video = pipeline.watch(video, **options, on_event=show, on_notes=notes.extend)
        for note in notes:
            say(note)
    said = []
    words = USUAL_WORDS if args.max_words is None else args.max_words
    for piece in pipeline.answer_stream(video, args.question, max_new_tokens=words):
        said.append(piece)
        if not args.json:
            print(piece, end="", flush=True)
    print(json.dumps({"answer": "".join(said).strip()}) if args.json else "")
    return 0
