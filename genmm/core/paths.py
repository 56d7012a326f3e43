"""Where genmm keeps things: its home, pulled models, data. Environment variables are read at each call."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["data_home", "embedded_home", "extra_model_folders", "genmm_home", "models_home"]

_PACKAGE = Path(__file__).resolve().parents[1]


def genmm_home() -> Path:
    """$GENMM_HOME, else ~/.cache/genmm. The folder need not exist."""
    return _from_environment("GENMM_HOME") or Path.home() / ".cache" / "genmm"


def models_home() -> Path:
    """The folder that holds one checkpoint folder per pulled model."""
    return genmm_home() / "models"


def embedded_home() -> Path:
    """The folder inside the package that holds one checkpoint folder per embedded model."""
    return _PACKAGE / "checkpoints"


def extra_model_folders() -> tuple[Path, ...]:
    """The folders of $GENMM_MODELS, a list like PATH: each is a checkpoint folder or a folder of checkpoint folders."""
    text = os.environ.get("GENMM_MODELS", "")
    return tuple(Path(part).expanduser() for part in text.split(os.pathsep) if part.strip())


def data_home() -> Path:
    """$GENMM_DATA, else shared/data beside the repository when it exists, else the folder data in `genmm_home`."""
    chosen = _from_environment("GENMM_DATA")
    if chosen is not None:
        return chosen
    beside = _PACKAGE.parents[1] / "shared" / "data"
    return beside if beside.is_dir() else genmm_home() / "data"


def _from_environment(name: str) -> Path | None:
    text = os.environ.get(name, "").strip()
    return Path(text).expanduser() if text else None
