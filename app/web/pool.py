"""Models in memory: loaded when first needed, the one used longest ago dropped, chosen by name and never by path."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmm.core.errors import UsageError
from genmm.registry import ModelInfo, find_model, load, models

__all__ = ["LoadedModel", "ModelPool"]

log = logging.getLogger(__name__)

LISTED_FOR_S = 5.0
"""The list of models is read from disk at most this often."""


@dataclass(frozen=True)
class LoadedModel:
    """One model in memory, for the status page."""

    name: str
    """Its name."""
    system: str
    """Its system."""
    device: str
    """Where it runs."""


class ModelPool:
    """Pipelines by name. Work on the device is queued by the page, so at most one thread uses a pipeline."""

    def __init__(
        self, *, first: str | None = None, device: str = "auto", dtype: str = "auto", capacity: int = 2
    ) -> None:
        """`first` is a name or folder given by the person who starts the server; it comes first among the choices.

        Raises: UsageError when there is no such model.
        """
        self.device, self.dtype, self.capacity = device, dtype, capacity
        self._first = find_model(first) if first is not None else None
        self._loaded: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._listed: list[ModelInfo] = []
        self._listed_at = -LISTED_FOR_S - 1.0

    def infos(self) -> list[ModelInfo]:
        """All models that can be named, the one the server was started with first; looked up every few seconds."""
        now = time.monotonic()
        if now - self._listed_at > LISTED_FOR_S:
            found, first = models(), self._first
            self._listed = [*([first] if first else []), *(i for i in found if first is None or i.name != first.name)]
            self._listed_at = now
        return list(self._listed)

    def choices(self, system: str) -> list[str]:
        """Names of the usable models of a system, the default first."""
        return [info.name for info in self.infos() if info.system == system and not info.problem]

    def default(self, system: str) -> str | None:
        """The model that a tab of this system starts with, or None when there is none."""
        return next(iter(self.choices(system)), None)

    def info(self, name: str, system: str) -> ModelInfo:
        """Describe a model of a system. Raises: UsageError that lists the choices."""
        for info in self.infos():
            if info.name == name and info.system == system:
                return info
        known = ", ".join(self.choices(system)) or "none"
        raise UsageError(f"there is no {system} model named {str(name)[:80]!r} here; choose one of: {known}")

    def get(self, name: str | None, system: str) -> Any:
        """Give back the pipeline of a model, loading it when needed; None means the default.

        Raises: UsageError for an unknown name, CheckpointError for a damaged checkpoint.
        """
        name = name or self.default(system)
        if name is None:
            raise UsageError(f"there is no {system} model on this machine; see `genmm pull {system}`")
        info = self.info(name, system)
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= self.capacity:
                    self._forget(next(iter(self._loaded)))
                self._loaded[name] = load(Path(info.path), device=self.device, dtype=self.dtype)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def loaded(self) -> list[LoadedModel]:
        """Models in memory, the one used last at the end."""
        known = {info.name: info.system for info in self.infos()}
        return [
            LoadedModel(name, known.get(name, ""), str(getattr(pipeline, "device", self.device)))
            for name, pipeline in list(self._loaded.items())
        ]

    def unload(self) -> int:
        """Forget all models and give their memory back; gives back how many there were."""
        with self._lock:
            names = list(self._loaded)
            for name in names:
                self._forget(name)
        return len(names)

    def _forget(self, name: str) -> None:
        self._loaded.pop(name, None)
        log.info("unloaded model %s", name)
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
