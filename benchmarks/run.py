"""The command behind `genmm bench`: finds a measurement by name (or takes all), runs it, writes JSON and Markdown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from genmm.core.suggest import did_you_mean

MEASUREMENTS = {
    "video": "clustering against the published code, video speed, memory over the length, bytes",
    "video_answers": "questions answered from the tokens of every reducer",
    "video_search": "recall of clips by changed parts: token sets against mean tokens",
    "speech": "decoding at the released size, first sound, speed, memory, batches",
    "music": "solver overhead, a guided step, codecs, whole pieces, memory",
    "image": "fixed-sum sampling against the published step, memory, whole pictures, encoding",
    "quantizers": "nearest-code search, sums of codes, k-means beside peers and the bare product",
    "highlight": "reading and scoring against decoding alone, memory over the length, training",
    "highlight_ablations": "what each part of the highlight objective is worth, on computed scenes",
}
"""Module of this folder -> one line about it."""
ALL = "all"
"""The name of all of them together, which may be left out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `genmm bench ARGV`; gives back the exit code. Raises: GenmmError for what a person can repair."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["--list"], ["--help"], ["-h"]):
        print("genmm bench [NAME] measures (all of these without a name):")
        print("\n".join(f"  {name:<20} {about}" for name, about in MEASUREMENTS.items()))
        return 0
    if not argv or argv[0].startswith("-"):
        argv.insert(0, ALL)
    name = _known(argv[0])
    module = import_module("benchmarks.everything" if name == ALL else f"benchmarks.{name}")
    parser = argparse.ArgumentParser(
        prog=f"genmm bench {name}",
        description=module.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_options(parser)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("--threads", type=int, metavar="N", help="torch threads (as torch chooses)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write DIR/NAME.json and DIR/NAME.md")
    args = parser.parse_args(argv[1:])
    _check(parser, args)
    return _measure(module, name, args)


def _known(name: str) -> str:
    """The name of a measurement as it was given; an unknown one ends with exit code 2, a guess, and all names."""
    names = [*MEASUREMENTS, ALL]
    if name not in names:
        parser = argparse.ArgumentParser(prog="genmm bench", usage="genmm bench [NAME] [options]")
        guess = did_you_mean(name, names)
        parser.error(f"there is no measurement {name!r}{guess or '.'} There are {', '.join(names)}")
    return name


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for option in ("threads", "frames", "runs", "batch"):
        value = getattr(args, option, None)
        if value is not None and value < 1:
            parser.error(f"--{option} must be at least 1, got {value}")


def _measure(module, name: str, args: argparse.Namespace) -> int:  # noqa: ANN001 - a module of this folder
    import torch

    from genmm.core.files import write_json, write_text

    if args.threads:
        torch.set_num_threads(args.threads)
    report = module.measure(args)
    text = report.to_markdown()
    print(text)
    if args.out:
        write_json(args.out / f"{name}.json", report.to_dict())
        write_text(args.out / f"{name}.md", text + "\n")
        print(f"written: {args.out / name}.json and .md", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
