"""A model card for an exported folder that has none of its own: what was trained, on what, how far, how well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import genmm
from genmm.core.files import write_text

CARD = "README.md"
MARK = "<!-- written by genmm export; remove this line to keep your own words -->"
"""A card with this line is written anew by the next export."""


def add_card(folder: Path, config: Mapping[str, Any], step: int, values: Mapping[str, float] | None = None) -> Path:
    """Write README.md into an exported folder unless somebody else's is there; gives back its path.

    Args:
        folder: The exported pipeline folder.
        config: The configuration of the run, as in its config.yaml.
        step: Optimizer steps of the exported weights.
        values: Validation values at the end of the run, where they are known.
    """
    path = folder / CARD
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return path
    return write_text(path, card_text(config, step, values or {}))


def card_text(config: Mapping[str, Any], step: int, values: Mapping[str, float]) -> str:
    """The text of a card: a YAML head and sections on use, training data, training and measured values."""
    task, data = _class_name(config, "model"), _class_name(config, "data")
    trainer = config.get("trainer") or {}
    facts = {
        "Task": task,
        "Data": data,
        "Optimizer steps": step,
        "Seed": config.get("seed_everything"),
        "Precision": trainer.get("precision") or "32-true",
    }
    rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    measured = "".join(f"| {name} | {value:.6g} |\n" for name, value in sorted(values.items()))
    measured = f"| value | at the end |\n|---|---|\n{measured}" if measured else "Nothing was measured.\n"
    settings = yaml.safe_dump({key: config[key] for key in ("model", "data") if key in config}, sort_keys=False)
    return f"""---
library_name: genmm
tags: [genmm]
---
# Model trained with {task}

{MARK}
Written by genmm {genmm.__version__} at the end of a training run. Licence, intended use and limits follow from the
training data and are for whoever trained it to state.

## Training

| what | value |
|---|---|
{rows}
```yaml
{settings}```

## Measured on the validation data

{measured}"""


def validation_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The validation values among what a Trainer has logged."""
    return {name: float(value) for name, value in metrics.items() if name.startswith("val/")}


def _class_name(config: Mapping[str, Any], part: str) -> str:
    return str((config.get(part) or {}).get("class_path", "not stated")).rpartition(".")[2]
