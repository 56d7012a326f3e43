"""`genmm batch TASK`: a manifest in, results out, resumable. The options of a task are the fields of its class."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import signal
import sys
import threading
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from app.notes import say
from genmm.batch.results_log import FAILED, read_records
from genmm.batch.shards import Shard
from genmm.batch.task import TASKS, row_fields, task_class
from genmm.core.seeds import check_seed
from genmm.core.wording import counted
from genmm.registry import find_model

if TYPE_CHECKING:
    from genmm.batch.runner import BatchReport

DESCRIPTION = """\
Make results for every line of a manifest. A manifest is a text file with one JSON
object a line; each has a unique "id", which names the files made for it.

Everything is checked before any work starts. The same command goes on where it
stopped, also after a crash or kill -9: finished items are not made again, failed
ones are tried again. A bad item is recorded and the others are made. One run belongs
to one folder; other settings need another folder."""
EPILOG = """\
example:
  genmm batch speech --manifest in.jsonl --out spoken/

exit codes: 0 all done, 2 wrong usage or manifest, 3 some items failed or were left, 130 interrupted (the batch
in flight is dropped), 143 SIGTERM (the batch in flight was finished)."""
SHOWN_FAILURES = 5
"""How many failed items are named at the end."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "batch", help="make results for every line of a manifest", description=DESCRIPTION, epilog=EPILOG
    )
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True, title="tasks")
    for name in sorted(TASKS):
        _add_task(tasks, name)


def _add_task(tasks: argparse._SubParsersAction, name: str) -> None:
    kind = task_class(name)
    summary = (inspect.getdoc(kind) or name).splitlines()[0].rstrip(".")
    summary = summary[0].lower() + summary[1:]
    rows = "\n".join(f"  {field:<12} {text}" for field, text in row_fields(kind).items())  # type: ignore[arg-type]
    epilog = f"fields of a row:\n  {'id':<12} unique name of the item and of its files (required)\n{rows}\n\n"
    epilog += getattr(kind, "examples", "") + "\n" + EPILOG.split("\n\n")[1]
    parser = tasks.add_parser(name, help=summary, description=DESCRIPTION, epilog=epilog)
    parser.set_defaults(task_kind=kind)
    _add_run_options(parser)
    group = parser.add_argument_group(f"{name} options", "used for rows that do not say otherwise")
    for entry in _option_fields(kind):
        _add_field(group, kind, entry)


def _option_fields(kind: type) -> list[dataclasses.Field]:
    return [entry for entry in dataclasses.fields(kind) if "help" in entry.metadata]


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    def add(flag: str, text: str, **more: Any) -> None:
        parser.add_argument(flag, help=text, **more)

    seed = "run seed, 0 to 2**63 - 1; items derive theirs from it and their id. Default: 0"
    shard = (
        "work on every n-th row only, for n machines; all parts together make the same as one run. "
        "Parts that share DIR are merged by the last one"
    )
    workers = "processes (local) or actors (ray), 1 to 1024; each takes its own GPU where there are several. Default: 1"
    errors = "give up when more than N items failed; 5%% or 0.05 is a share of the items to do. Default: never"
    add("--manifest", "the manifest, JSON lines", required=True, metavar="FILE")
    add("--out", "the run folder; made when it is missing", required=True, metavar="DIR")
    add("--seed", seed, type=int, default=0, metavar="N")
    add("--shard", shard, metavar="i/n")
    size = "items made together, 1 to 4096; halved when memory runs out. Default: 8; music and videos: 1"
    add("--batch-size", size, type=int, default=8, metavar="N")
    add("--workers", workers, type=int, default=1, metavar="N")
    engine = "local processes, or a Ray cluster (pip install 'genmm[ray]'). Default: local"
    add("--engine", engine, choices=("local", "ray"), default="local")
    add("--max-errors", errors, type=_count_or_share, metavar="N")
    add("--no-retry-failed", "leave items that failed in an earlier run as they are", action="store_true")
    add(
        "--check",
        "check manifest, options and folder, say what is left to do, and stop",
        action="store_true",
    )


def _add_field(group: argparse._ArgumentGroup, kind: type, entry: dataclasses.Field) -> None:
    hint = typing.get_type_hints(kind)[entry.name]
    plain = [part for part in typing.get_args(hint) if part is not type(None)] if _is_union(hint) else [hint]
    default = "" if entry.default in (None, "") else f". Default: {entry.default}"
    group.add_argument(
        f"--{entry.name.replace('_', '-')}",
        dest=f"task_{entry.name}",
        type=plain[0] if plain[0] in (int, float) else str,
        choices=entry.metadata.get("choices"),
        default=entry.default,
        metavar=entry.metadata.get("metavar"),
        help=(entry.metadata["help"] + default).replace("%", "%%"),
    )


def run(args: argparse.Namespace) -> int:
    """Run or check a batch; prints a summary, names some failed items on stderr."""
    task = args.task_kind(**{e.name: getattr(args, f"task_{e.name}") for e in _option_fields(args.task_kind)})
    shard = Shard.parse(args.shard) if args.shard else Shard()
    check_seed(args.seed)
    named = getattr(task, "model", None)
    if isinstance(named, str) and named not in getattr(task, "presets", ()):
        find_model(named)  # before the heavy imports below, so that a mistyped name is answered at once
    from genmm.batch.runner import check_batch, run_batch

    how = {
        "seed": args.seed,
        "shard": shard,
        "workers": args.workers,
        "batch_size": args.batch_size,
        "max_errors": args.max_errors,
        "engine": args.engine,
    }
    if args.check:
        plan, found = check_batch(task, args.manifest, args.out, **how)
        part = "" if shard.is_whole else f", {found.total} in shard {shard}"
        known = f"{found.done} done, {found.failed} failed before, {found.left} new"
        print(f"{args.manifest} is fine: {counted(len(plan.rows), 'item')}{part}; in {args.out}: {known}")
        return 0
    from app.progress import ProgressDisplay

    with _stop_on_sigterm() as stop, ProgressDisplay(f"batch {task.name}") as show:
        report = run_batch(
            task,
            args.manifest,
            args.out,
            **how,
            retry_failed=not args.no_retry_failed,
            on_event=show,
            stop=stop,
        )
    _tell(report)
    return report.exit_code


def _tell(report: BatchReport) -> None:
    left = f", {report.left} left" if report.left else ""
    print(f"{report.done} of {report.total} done ({report.made} now), {report.failed} failed{left}: {report.results}")
    if report.failed:
        failed = (record for record in read_records(report.results) if record.status == FAILED and record.error)
        for record in islice(failed, SHOWN_FAILURES):
            say(f"{record.id} failed: {record.error['type']}: {record.error['text']}")
        if report.failed > SHOWN_FAILURES:
            say(f"... and {report.failed - SHOWN_FAILURES} more, all in the results file")
    if report.stopped == "errors":
        say("gave up because of too many errors (--max-errors)")
    if report.left:
        say("the same command goes on where this one stopped")


@contextmanager
def _stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that the first SIGTERM sets; a second one ends the process at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: types.FrameType | None) -> None:
        if stop.is_set():
            sys.exit(128 + number)
        stop.set()
        say("finishing the batch in flight, then stopping")

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _count_or_share(text: str) -> int | float:
    """Read "10", "5%" or "0.05". Raises: argparse.ArgumentTypeError."""
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if 0 <= share < 1:
                return share
        else:
            number = float(text)
            if 0 <= number < 1 or (number >= 0 and number.is_integer()):
                return number if 0 < number < 1 else int(number)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"write a count (10), a share (5% or 0.05) below 100%, got {text!r}")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)
