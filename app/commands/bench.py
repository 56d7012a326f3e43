"""`genmm bench`: side-by-side measurements against what a user would pick instead."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from genmm.core.errors import MissingDependencyError

HELP = """\
usage: genmm bench [NAME] [options]

Measure speed on this machine, side by side with the usual alternatives and with
the physical limit, in one run. Ratios matter; absolute times belong to the machine.

examples:
  genmm bench --list               what can be measured
  genmm bench --out DIR            all of it, into DIR/all.json and DIR/all.md
  genmm bench speech               speech: decoding, first sound, memory, batches
  genmm bench speech --help        the options of one measurement

The measurements belong to the source tree (benchmarks/); they are not part of an installed wheel."""

ROOT = Path(__file__).resolve().parents[2]


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    subparsers.add_parser("bench", help="measure speed against the alternatives", add_help=False)


def run(args: argparse.Namespace) -> int:
    """Hand the rest of the line to benchmarks/run.py."""
    if args.rest in (["-h"], ["--help"]):
        print(HELP)
        return 0
    if not (ROOT / "benchmarks" / "run.py").is_file():
        raise MissingDependencyError(
            f"there is no benchmarks folder in {ROOT}: the measurements come with the source tree; "
            "clone the repository, run `make install` and start `genmm bench` from its environment"
        )
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from benchmarks.run import main

    return main(list(args.rest)) or 0
