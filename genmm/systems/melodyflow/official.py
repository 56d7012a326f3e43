"""The files of facebook/melodyflow-t24-30secs and how their configuration maps to ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from genmm.core.errors import CheckpointError
from genmm.systems.melodyflow.pickled import config_tree, read_pickled

FLOW_FILE, CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"
"""Names of the published files."""


@dataclass(frozen=True)
class OfficialPart:
    """One of the two published files."""

    config: Mapping[str, Any]
    """Its configuration, nested."""
    tensors: Mapping[str, Tensor]
    """Its state dict under the official names."""


def published_file(folder: Path, name: str) -> Path:
    """A file of a folder that the user named. Raises: CheckpointError when it is missing."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; name the one with the files as they are published")
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {name}; fetch it from the repository that the other files are from")
    return path


def read_part(path: Path) -> OfficialPart:
    """Read one published file without running anything in it.

    Raises: CheckpointError when it is no dict of "xp.cfg" and "best_state" with nothing but tensors in the latter.
    """
    stored = read_pickled(path)
    if not isinstance(stored, dict) or "best_state" not in stored or "xp.cfg" not in stored:
        raise CheckpointError(f"{path} is no published MelodyFlow file: it needs the entries xp.cfg and best_state")
    state = stored["best_state"]
    if isinstance(state, dict) and "model" in state and isinstance(state["model"], dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: best_state holds something other than tensors")
    return OfficialPart(config_tree(stored["xp.cfg"]), state)


def condition_width(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """Width of the text states that the network was trained with, read from its projection."""
    from genmm.systems.melodyflow.network import TEXT_PROJECTION

    weight = tensors.get(f"{TEXT_PROJECTION}weight")
    if weight is None:
        raise CheckpointError("the flow checkpoint has no projection of text states; it is not a MelodyFlow model")
    return int(config.get("cond_dim") or weight.shape[1])
