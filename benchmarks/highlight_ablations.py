"""`genmm bench highlight_ablations`: what each part of the highlight objective, and each reading of it, is worth.

Every row is trained from the same starts on the same computed scenes with the same steps and tested on families that
were not trained on. Finished trainings are kept in the cache folder, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.highlight_study import SMALL, interval, measured, scorer_of, signed_interval, trained
from datamodules.highlight_tables import LabelledTable, rendered_tables
from datamodules.rendered_video_events import TEST_FAMILIES, TRAIN_FAMILIES
from genmm.core.files import read_json, write_json
from genmm.core.paths import genmm_home
from genmm.systems.rasl.feature_table import FeatureTable

DESCRIPTION = """\
Train the small highlight model on computed scenes with parts of its objective switched
off and with every reading of the activations, several seeds each, and measure it on
scenes of families that it has not seen. Takes about a quarter of an hour on one core;
what is finished is kept, and the same command goes on after an interruption."""
WHOLE = "whole objective, energy"
BASE: Mapping[str, Any] = {"spread": 1.0}
"""The first row: every term at work, the anti-collapse term too, which by default acts without sound only."""
ROWS: Mapping[str, Mapping[str, Any]] = {
    WHOLE: {},
    "channel_topk": {"reading": "channel_topk"},
    "gate": {"reading": "gate"},
    "no contrast between streams (SCL)": {"contrast": 0.0},
    "no k-point contrast": {"k_point": 0.0},
    "neither contrast": {"contrast": 0.0, "k_point": 0.0},
    "no masked reconstruction": {"masked": 0.0},
    "no anti-collapse term": {"spread": 0.0},
    "anti-collapse without rareness": {"rareness": 0.0},
    "trained without sound": {"sound": False},
    "random start, not trained": {"steps": 0},
}
"""Name in the table -> what differs from the first row: weights of the objective, the reading, steps, sound."""
CONDITIONS = {"av": "pictures and sound", "v": "pictures alone", "a": "sound alone"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help="rows (all)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each row (3)")
    parser.add_argument("--train", type=int, default=140, help="scenes to train on (140)")
    parser.add_argument("--test", type=int, default=40, help="scenes to test on (40)")
    parser.add_argument("--steps", type=int, default=200, help="training steps (200)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder for features and finished trainings")


@dataclass
class AblationReport:
    """All trainings, and the table that they make."""

    settings: dict[str, Any]
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    """"row/seed" -> condition -> average precision of every test video."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"name": "highlight_ablations", "settings": self.settings, "rows": self.rows(), "cells": self.cells}

    def rows(self) -> dict[str, Any]:
        """Of each row and condition: mean over seeds with the interval over videos, range of the seeds, difference."""
        whole = self._seeds(WHOLE)
        table: dict[str, Any] = {}
        for name in ROWS:
            seeds = self._seeds(name)
            if not seeds:
                continue
            table[name] = {"seeds": sorted(seeds)}
            for condition in CONDITIONS:
                runs = {seed: np.asarray(cell[condition]) for seed, cell in seeds.items()}
                means = [float(run.mean()) for run in runs.values()]
                entry: dict[str, Any] = interval(np.mean(list(runs.values()), axis=0))
                entry |= {"lowest": round(min(means), 4), "highest": round(max(means), 4)}
                shared = [seed for seed in runs if seed in whole]
                if name != WHOLE and shared:
                    off = [runs[seed] - np.asarray(whole[seed][condition]) for seed in shared]
                    entry["difference"] = signed_interval(np.mean(off, axis=0))
                table[name][condition] = entry
        return table

    def _seeds(self, name: str) -> dict[int, dict[str, Any]]:
        return {cell["seed"]: cell for cell in self.cells.values() if cell["row"] == name}

    def to_markdown(self) -> str:
        """One table: mean, interval over videos, lowest and highest seed, for each condition."""
        head = " | ".join(CONDITIONS.values())
        lines = [
            "# What the parts of the highlight objective are worth",
            "",
            f"mAP over all clips of {self.settings['test']} videos of unseen families; {self.settings['train']} "
            f"training videos, {self.settings['steps']} steps, the last step; mean over the seeds, [95 % interval over "
            "videos], (lowest to highest seed).",
            "",
            f"| | seeds | {head} | difference by pictures alone |",
            "|---|---|" + "---|" * (len(CONDITIONS) + 1),
        ]
        for name, row in self.rows().items():
            cells = " | ".join(_cell(row[condition]) for condition in CONDITIONS)
            off = row["v"].get("difference")
            change = f"{off['value']:+.3f} [{off['low']:+.3f}, {off['high']:+.3f}]" if off else ""
            lines.append(f"| {name} | {len(row['seeds'])} | {cells} | {change} |")
        return "\n".join(lines)


def _cell(entry: Mapping[str, float]) -> str:
    return (
        f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}] "
        f"({entry['lowest']:.3f} to {entry['highest']:.3f})"
    )


def measure(args: argparse.Namespace) -> AblationReport:
    """Train and test what is not there yet; the seeds take turns, so that an unfinished table is an even one."""
    if args.quick:
        args.train, args.test, args.steps, args.seeds = 2, 2, 2, 1
    cache = args.cache or genmm_home() / "features" / "rendered"
    train = [video.table for video in rendered_tables(cache / "train", args.train, families=TRAIN_FAMILIES, seed=1)]
    test = rendered_tables(cache / "test", args.test, families=TEST_FAMILIES, seed=2)
    settings = {"train": args.train, "test": args.test, "steps": args.steps, "width": SMALL.width}
    store = cache / f"ablations-{args.train}-{args.test}-{args.steps}.json"
    report = AblationReport(settings, read_json(store)["cells"] if store.is_file() else {})
    for seed in range(args.seeds):
        for name in args.rows:
            if f"{name}/{seed}" in report.cells:
                continue
            started = time.process_time()
            values = train_row(name, train, test, args.steps, seed)
            spent = round(time.process_time() - started, 1)
            report.cells[f"{name}/{seed}"] = {"row": name, "seed": seed, "cpu_s": spent, **values}
            write_json(store, report.to_dict())
            means = ", ".join(f"{key} {np.mean(values[key]):.3f}" for key in CONDITIONS)
            print(f"{name}, seed {seed}: {means}, {spent} s", file=sys.stderr, flush=True)
    return report


def train_row(
    name: str, train: Sequence[FeatureTable], test: Sequence[LabelledTable], steps: int, seed: int
) -> dict[str, list[float]]:
    """Train one row with one seed; gives back the average precision of every test video for each condition."""
    changes = {**BASE, **ROWS[name]}
    network = dataclasses.replace(SMALL, reading=changes.pop("reading", SMALL.reading))
    sound, steps = changes.pop("sound", True), changes.pop("steps", steps)
    with torch.random.fork_rng(devices=[]):
        model = trained(train, seed, steps, sound=sound, network=network, **changes)
    return {key: measured(test, scorer_of(model), key)["ap"].tolist() for key in CONDITIONS}
