"""What the pipelines of all systems have in common: the checkpoint folder they came from and what they say about it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from genmm.core.checkpoint import fingerprint, read_config
from genmm.core.errors import CheckpointError
from genmm.core.limits import Limits

__all__ = ["CheckpointPipeline"]

CARD = "README.md"
ABOUT = ("licence", "description", "origin")
"""Entries of config.json that are kept as they are."""


class CheckpointPipeline:
    """Base of the pipelines of all systems. Subclasses put the parts of one checkpoint together and use them.

    They implement `from_folder`, `to`, `save`, `device`, `events`, `_parts` and the methods named after what they make;
    see the protocol `genmm.registry.Pipeline` for all that the commands and the page ask of one.
    """

    system: ClassVar[str] = ""
    """Its key in `genmm.registry.SYSTEMS`."""
    title: ClassVar[str] = ""
    """The name of the system as people write it."""

    def __init__(self, *, name: str, folder: Path | None, about: Mapping[str, Any] | None, limits: Limits) -> None:
        self.name, self.folder, self.about, self.limits = name, folder, dict(about or {}), limits
        self._fingerprint: str | None = None

    @classmethod
    def _read_config(cls, folder: str | os.PathLike[str]) -> dict[str, Any]:
        """config.json of a checkpoint folder. Raises: CheckpointError when it is one of another system."""
        config = read_config(folder)
        if config["system"] != cls.system:
            raise CheckpointError(f"{folder} is a checkpoint of {config['system']}, not of {cls.title}")
        return config

    @staticmethod
    def _identity(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments name, folder and about of a pipeline that comes from a checkpoint folder."""
        about = {key: config[key] for key in ABOUT if key in config}
        return {"name": folder.resolve().name, "folder": folder, "about": about}

    @property
    def model(self) -> dict[str, str]:
        """What a recipe says about the model: name, system and fingerprint of the checkpoint."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.folder) if self.folder else "unsaved"
        return {"name": self.name, "system": self.system, "fingerprint": self._fingerprint}

    @property
    def info(self) -> dict[str, Any]:
        """Name, system, fingerprint, sizes and origin of the checkpoint, JSON-able."""
        count = sum(parameter.numel() for part in self._parts() for parameter in part.parameters())
        return {**self.about, **self.model, "parameters": count, **self._facts()}

    def _parts(self) -> Iterable[nn.Module]:
        """The networks whose parameters `info` counts."""
        raise NotImplementedError

    def _facts(self) -> dict[str, Any]:
        """What `info` says beside name, origin and parameters."""
        return {}

    def _card(self) -> dict[str, bytes]:
        """The card of the folder that it came from, as a file of a new one."""
        card = self.folder / CARD if self.folder else None
        return {CARD: card.read_bytes()} if card is not None and card.is_file() else {}
