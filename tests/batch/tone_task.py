"""A small real task for the runner's tests: every item becomes a decaying tone with noise from its seed.

Rows: `hertz`, and switches with which tests make an item misbehave.
"""

from __future__ import annotations

import json
import time
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genmm.batch.manifest import ManifestRow
from genmm.batch.task import BatchItem
from genmm.core.errors import MediaError, UsageError
from genmm.core.events import CancelToken
from genmm.core.results import Result

RATE = 8000


@dataclass(frozen=True, kw_only=True)
class ToneResult(Result):
    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))
    save_to: str = ""

    def save(self, path: Path | str) -> tuple[Path, ...]:
        path = Path(path)
        if self.save_to:  # /dev/full refuses every byte, as a full disk does
            Path(self.save_to).write_bytes(self.samples.tobytes())
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, RATE, len(self.samples), "NONE", ""))
            file.writeframes(self.samples.tobytes())
        return path, self.save_recipe(path)


@dataclass(frozen=True)
class ToneTask:
    name: ClassVar[str] = "tone"
    suffix: ClassVar[str] = ".wav"
    fields: ClassVar[Mapping[str, str]] = {
        "hertz": "pitch, 20 to 4000",
        "poison": "raise this kind of error",
        "seconds": "length",
    }
    gain: float = field(default=0.5, metadata={"help": "peak level from 0 to 1"})
    fits: int = 1000
    """Largest batch before memory runs out."""
    pause_s: float = 0.0
    """Time that an item takes."""
    log: str = ""
    """File that collects the ids of every batch."""

    def validate(self, row: ManifestRow) -> dict[str, Any]:
        hertz = row.fields.get("hertz", 440)
        if not isinstance(hertz, int | float) or isinstance(hertz, bool) or not 20 <= hertz <= 4000:
            raise UsageError(f"hertz must be a number from 20 to 4000, got {hertz!r}")
        return {"hertz": hertz, "poison": row.fields.get("poison"), "seconds": row.fields.get("seconds", 0.02)}

    def cost(self, request: dict[str, Any]) -> float:
        return request["seconds"]

    def fingerprint(self) -> dict[str, Any]:
        return {"gain": self.gain}

    def setup(self) -> None:
        pass

    def run(self, items: Sequence[BatchItem], cancel: CancelToken) -> list[Result | Exception]:
        if self.log:
            with open(self.log, "a") as file:
                file.write(json.dumps([item.id for item in items]) + "\n")
        if len(items) > self.fits:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return [self._one(item, cancel) for item in items]

    def _one(self, item: BatchItem, cancel: CancelToken) -> Result | Exception:
        cancel.wait(self.pause_s) if self.pause_s else None
        cancel.check()
        poison = item.request["poison"]
        if poison == "batch":
            raise ValueError(f"bad\nitem {item.id}")
        if poison == "item":
            return MediaError("the voice of this item cannot be read")
        if poison == "memory":
            raise MemoryError
        if poison == "flaky" and not Path(self.log).with_suffix(".mended").exists():
            return MediaError("not today")
        if poison == "crash":
            time.sleep(0.3)  # let the other workers log something first
            import os

            os._exit(9)
        t = np.arange(int(RATE * item.request["seconds"])) / RATE
        noise = np.random.default_rng(item.seed).standard_normal(len(t))
        wavef = self.gain * np.exp(-20 * t) * (0.9 * np.sin(2 * np.pi * item.request["hertz"] * t) + 0.02 * noise)
        samples = np.round(32767 * wavef).astype(np.int16)
        return ToneResult(
            settings=dict(item.request),
            seeds=(item.seed,),
            model={"name": "tone", "system": "tone", "fingerprint": "0"},
            samples=samples,
            save_to="/dev/full" if poison == "disk" else "",
        )

    def facts(self, result: Result) -> dict[str, Any]:
        if result.settings["poison"] == "facts":
            return {"level": float("nan")}
        return {"samples": len(result.samples)}  # type: ignore[attr-defined]
