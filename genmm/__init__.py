"""genmm: multimodal generative models on one library of quantizers and samplers.

`genmm.load("sled")` gives a pipeline, `genmm.models()` lists what can be loaded. Importing this package imports
neither torch nor anything else heavy; that happens at the first `load`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genmm.registry import load, models

__version__ = "0.1.0"
__all__ = ["__version__", "load", "models"]


def __getattr__(name: str) -> Any:
    if name in ("load", "models"):
        return getattr(import_module("genmm.registry"), name)
    raise AttributeError(f"module 'genmm' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
