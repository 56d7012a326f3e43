"""`genmm fit`, `resume`, `validate`, `test`, `export`: the Lightning command line, which explains itself."""

from __future__ import annotations

import argparse

HELPS = {
    "fit": "train a model from a configuration",
    "resume": "continue a training run where it stopped",
    "validate": "measure a training checkpoint on the validation data",
    "test": "measure a training checkpoint on held-out data",
    "export": "write the model folder of a training run",
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    for name, text in HELPS.items():
        subparsers.add_parser(name, help=text, add_help=False)


def run(args: argparse.Namespace) -> int:
    """Hand the rest of the line, --help included, to the trainer."""
    from app.train import run_training

    return run_training(args.command, args.rest)
