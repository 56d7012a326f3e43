"""`genmm pull`: fetch a published model, convert it, register it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from genmm.core.errors import UsageError
from genmm.hub.recipes import BY_HAND, RECIPES

if TYPE_CHECKING:
    from genmm.core.events import Progress
    from genmm.hub.install import PullPlan

DESCRIPTION = """\
Fetch the checkpoint that the authors of a method published, convert it and register
it, so that every command and the page take it with --model. First it shows what will be
downloaded, how large it is and under which licence, and asks.

A download that stopped goes on where it was when the command is given again. Every
file is compared with its published checksum. The model appears only when all of it has
arrived, been converted and been tried; otherwise nothing changes."""
EPILOG = """\
what there is to pull:
{table}

examples:
  genmm pull sled                     offline SLED: the whole text first, highest quality
  genmm pull sled --streaming         streaming SLED: speaks while the text is written
  genmm pull sled --yes               without asking, for scripts
  genmm speak "Good morning." --model sled-libriheavy -o morning.wav
  genmm pull melodyflow               music for non-commercial use; then compose --model melodyflow-t24-30secs

Models are kept in ~/.cache/genmm/models; GENMM_HOME moves that. Without a connection the
command says which files to fetch by hand and how to convert them. HF_ENDPOINT names
another hub, HF_HUB_OFFLINE=1 forbids to ask any."""

TRY = {
    "sled": 'speak "Good morning."',
    "vqtoken": 'ask video.mp4 "What happens?"',
    "melodyflow": 'compose "warm jazz trio, perfect for a film" --seconds 10',
}
"""System -> the command that shows what its model does."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    names = [f"{recipe.system} --{recipe.variant}" if recipe.variant else recipe.system for recipe in RECIPES]
    lines = zip(names, RECIPES, strict=True)
    table = "\n".join(f"  {name:<18} {recipe.model}\n  {'':<18} {recipe.title}" for name, recipe in lines)
    parser = subparsers.add_parser(
        "pull", help="fetch a published model", description=DESCRIPTION, epilog=EPILOG.format(table=table)
    )
    systems = list(dict.fromkeys([*(recipe.system for recipe in RECIPES), *BY_HAND]))
    parser.add_argument("system", choices=systems, metavar="SYSTEM", help=f"which method: {', '.join(systems)}")
    parser.add_argument("--streaming", action="store_true", help="the model that speaks while text arrives")
    parser.add_argument("--yes", action="store_true", help="do not ask; you know size and licence")


def run(args: argparse.Namespace) -> int:
    """Plan, ask, pull, and say how to use the model."""
    from app.progress import ProgressDisplay
    from genmm.hub import plan_pull, run_pull

    plan = plan_pull(args.system, variant="streaming" if args.streaming else "")
    print(plan.describe(), file=sys.stderr)
    if plan.is_installed:
        print(f"\ngenmm: {plan.recipe.model} is here already and up to date", file=sys.stderr)
    elif not args.yes and not _agrees(plan):
        print("genmm: nothing was downloaded", file=sys.stderr)
        return 130
    with ProgressDisplay(f"pulling {plan.recipe.model}") as show:
        info = run_pull(plan, on_event=lambda event: show(_in_megabytes(event)))
    print(info.name)
    example = TRY.get(args.system, TRY["sled"])
    print(f"genmm: in {info.path}; try: genmm {example} --model {info.name}", file=sys.stderr)
    return 0


def _agrees(plan: PullPlan) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(
            f"somebody must agree to {plan.recipe.model}, and nobody can be asked here; if you do, add --yes"
        )
    print("\ndownload it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _in_megabytes(event: Progress) -> Progress:
    if event.unit != "bytes":
        return event
    total = None if event.total is None else -(-event.total // 10**6)
    return dataclasses.replace(event, done=event.done // 10**6, total=total, unit="MB")
