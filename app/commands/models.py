"""`genmm models`: what can be loaded here, and what could be pulled."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from genmm.core.errors import UsageError

if TYPE_CHECKING:
    from genmm.registry import ModelInfo

DESCRIPTION = """\
List the models that --model takes: embedded in this installation, pulled, and in
the folders of $GENMM_MODELS. For each its size, its licence, and whether it fits into
the memory of the device; then what could be pulled besides."""
EPILOG = """\
examples:
  genmm models
  genmm models sled tokenset                  with the voices and labels that they know
  genmm models ./my-sled                      describe a folder
  genmm models --device cpu --dtype bfloat16  whether it would fit there
  genmm models --json | jq '.models[].name'

exit codes: 0 done, 2 a named folder is no model."""

SHOWN = 40
"""How many names of a kind are printed; --json has all."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("models", help="list models", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("names", nargs="*", metavar="NAME|FOLDER", help="describe only these, with the names they know")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N, mps; default: auto")
    parser.add_argument(
        "--dtype", default="auto", metavar="NAME", help="auto, float32, bfloat16 or float16; default: auto"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the models, with the names on their own lines' starts for grep."""
    from genmm.core.devices import choose_device, choose_dtype, memory_bytes
    from genmm.registry import find_model, models

    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    found = [find_model(name) for name in args.names] if args.names else models()
    broken = [info for info in found if args.names and info.problem]
    if broken:
        raise UsageError(f"{broken[0].path}: {broken[0].problem}")
    place, total, item = str(device), memory_bytes(device), dtype.itemsize
    rows = [_row(info, total, item) for info in found]
    pullable = [] if args.names else _pullable({info.name for info in found})
    if args.json:
        print(json.dumps({"device": place, "models": rows, "pullable": pullable}, indent=2))
        return 0
    number = str(dtype).removeprefix("torch.")
    print(f"models for {place} in {number}, {_size(total) if total else 'unknown'} of memory")
    for row in rows:
        _print_model(row)
        for name, values in row["choices"].items() if args.names else ():
            more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
            print(f"  {name}: {', '.join(values[:SHOWN])}{more}")
    if not rows:
        print("\nno models yet")
    if pullable:
        print("\nto be pulled")
        for entry in pullable:
            print(f"  {entry['name']:<26}{entry['title']}\n  {'':<26}{entry['command']}")
    return 0


def _row(info: ModelInfo, total: int, item_bytes: int) -> dict[str, Any]:
    needed = info.memory_bytes(item_bytes)
    return {
        "name": info.name,
        "system": info.system,
        "source": info.source,
        "path": str(info.path),
        "size_bytes": info.size_bytes,
        "parameters": info.parameters,
        "licence": info.licence,
        "description": info.description,
        "memory_bytes": needed,
        "fits": None if info.problem or not total else needed <= total,
        "problem": info.problem,
        "choices": dict(info.choices),
    }


def _print_model(row: dict[str, Any]) -> None:
    print(f"\n{row['name']}")
    if row["problem"]:
        print(f"  cannot be loaded: {row['problem']}")
    else:
        fit = {True: "fits", False: "DOES NOT FIT", None: "memory of the device unknown"}[row["fits"]]
        print(f"  {row['description'] or row['system']}")
        print(f"  {row['parameters'] / 1e6:.1f} million parameters, needs at least {_size(row['memory_bytes'])}: {fit}")
        print(f"  licence: {row['licence'] or 'not stated'}")
    print(f"  {row['source']}, {_size(row['size_bytes'])} in {row['path']}")


def _pullable(present: set[str]) -> list[dict[str, str]]:
    from genmm.hub import RECIPES

    return [
        {
            "name": recipe.model,
            "title": recipe.title,
            "command": f"genmm pull {recipe.system}" + (f" --{recipe.variant}" if recipe.variant else ""),
        }
        for recipe in RECIPES
        if recipe.model not in present
    ]


def _size(count: int) -> str:
    from genmm.hub.install import size_text

    return size_text(count)
