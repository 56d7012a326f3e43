"""`genmm index`: a search index over the tokens of videos."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from app.commands.tokenize import add_model_options, checked_video, load_video_model
from app.notes import say
from genmm.core.errors import GenmmError, UsageError
from genmm.core.wording import counted

DESCRIPTION = """\
Keep the tokens of many videos in a folder and find moments in them by an example: a clip
or a picture. Adding is incremental; a video that is in the index and has not changed
costs nothing."""
EPILOG = """\
examples:
  genmm index add films/*.mp4 --index my-index
  genmm index search part.mp4 --index my-index --top 3
  genmm index search frame.png --index my-index --json
  genmm index list --index my-index
  genmm index remove films/old.mp4 --index my-index"""

ADD = """\
Read videos and keep the tokens of their moments. A video that is in the index and has not
changed costs nothing; one that has is read anew; one that cannot be read is left out and
said (exit code 3). The folder is made when it is missing.

examples:
  genmm index add films/*.mp4 --index my-index
  genmm index add talk.mkv --index my-index --moment 8 --tokens 16"""
SEARCH = """\
Show the moments that are most like a video or a picture, best first: similarity from -1 to
1, start and end in seconds, video.

examples:
  genmm index search part.mp4 --index my-index --top 3
  genmm index search frame.png --index my-index --per-video 1 --json"""
LIST = """\
Show every video of the index with its moments, tokens and length.

examples:
  genmm index list --index my-index
  genmm index list --index my-index --json | jq '.entries[].path'"""
REMOVE = """\
Take videos out of the index; the files themselves stay. Either all that are named are in
it, or nothing is removed.

example:
  genmm index remove films/old.mp4 --index my-index"""


def _action(actions: argparse._SubParsersAction, name: str, summary: str, text: str) -> argparse.ArgumentParser:
    description, examples = text.split("\n\n")
    return actions.add_parser(name, help=summary, description=description, epilog=examples)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("index", help="search videos by example", description=DESCRIPTION, epilog=EPILOG)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    add = _action(actions, "add", "add videos, or bring them up to date", ADD)
    add.add_argument("videos", nargs="+", help="video files")
    told = "of a moment: 1 to 1024, adaptive, explained, knee or silhouette; default: adaptive"
    add.add_argument("--tokens", default="adaptive", metavar="N", help=told)
    add.add_argument("--moment", type=float, default=4.0, metavar="S", help="seconds of a moment (4)")
    search = _action(actions, "search", "find moments like a clip or a picture", SEARCH)
    search.add_argument("query", help="video or picture")
    search.add_argument("--top", type=int, default=5, metavar="N", help="moments to show (5)")
    search.add_argument("--per-video", type=int, default=2, metavar="N", help="most moments of one video (2)")
    search.add_argument("--pooled", action="store_true", help="compare mean tokens only, as plain indexes do")
    search.add_argument("--json", action="store_true", help="one JSON object a line")
    listing = _action(actions, "list", "what is in the index", LIST)
    listing.add_argument("--json", action="store_true", help="print JSON")
    remove = _action(actions, "remove", "take videos out", REMOVE)
    remove.add_argument("videos", nargs="+", help="video files as they were added")
    for action in (add, search, listing, remove):
        action.add_argument("--index", required=True, metavar="DIR", help="folder of the index")
    for action in (add, search):
        add_model_options(action)


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    if not args.index.strip():
        raise UsageError(f"--index is {args.index!r}; name a folder, such as --index my-index")
    return {"add": _add, "search": _search, "list": _list, "remove": _remove}[args.action](args)


def _add(args: argparse.Namespace) -> int:
    from app.progress import ProgressDisplay
    from genmm.systems.vqtoken.search import VideoIndex

    pipeline = load_video_model(args)
    index = VideoIndex.open(args.index, pipeline.encoder_fingerprint, create=True)
    failed = 0
    with ProgressDisplay("indexing") as show:
        for path in args.videos:
            if not Path(path).is_file():
                why = "is a folder; name the videos in it" if Path(path).is_dir() else "is not there"
                say(f"{path} was left out: it {why}")
                failed += 1
                continue
            is_known = index.holds(path)
            try:
                fresh = index.add(pipeline, path, tokens=args.tokens, moment_s=args.moment, on_event=show)
            except UsageError:
                raise
            except GenmmError as error:
                say(f"{path} was left out: {error}")
                failed += 1
                continue
            print(f"{'unchanged' if not fresh else 'updated' if is_known else 'added'} {path}")
            for note in index.notes:
                print(f"note: {path}: {note}")
    return 3 if failed else 0


def _search(args: argparse.Namespace) -> int:
    from app.progress import ProgressDisplay
    from genmm.systems.vqtoken.search import VideoIndex, query_set

    for option, value in (("--top", args.top), ("--per-video", args.per_video)):
        if value < 1:
            raise UsageError(f"{option} must be at least 1, got {value}")
    checked_video(args.query)
    VideoIndex.open(args.index)  # says so when there is none, before a model is loaded
    pipeline = load_video_model(args)
    index = VideoIndex.open(args.index, pipeline.encoder_fingerprint)
    notes: list[str] = []
    with ProgressDisplay("reading the query") as show:
        query = query_set(pipeline, args.query, on_event=show, on_notes=notes.extend)
    for note in notes:
        say(note)
    for hit in index.search(query, top=args.top, per_video=args.per_video, pooled=args.pooled):
        if args.json:
            print(json.dumps(hit.__dict__))
        else:
            print(f"{hit.score:6.3f}  {hit.start_s:8.2f} to {hit.end_s:8.2f} s  {_named(hit.video)}")
    return 0


def _named(video: str) -> str:
    return video if Path(video).is_file() else f"{video}  (the file is gone)"


def _list(args: argparse.Namespace) -> int:
    from genmm.systems.vqtoken.index_table import IndexTable

    index = IndexTable.open(args.index)
    facts = index.facts()
    if args.json:
        entries = [{**entry.__dict__, "is_there": Path(entry.path).is_file()} for entry in index.entries]
        print(json.dumps({**facts, "entries": entries}))
        return 0
    for entry in index.entries:
        print(f"{entry.moments:5d} moments  {entry.tokens:6d} tokens  {entry.seconds:8.1f} s  {_named(entry.path)}")
    print(", ".join(counted(facts[f"{noun}s"], noun) for noun in ("video", "moment", "token", "byte")))
    return 0


def _remove(args: argparse.Namespace) -> int:
    from genmm.systems.vqtoken.index_table import IndexTable

    index = IndexTable.open(args.index)
    absent = [path for path in args.videos if not index.holds(path)]
    if absent:
        known = "see genmm index list; nothing was removed"
        raise UsageError(f"not in the index: {', '.join(str(Path(path)) for path in absent)}; {known}")
    for path in args.videos:
        index.remove(path)
        print(f"removed {path}")
    return 0
