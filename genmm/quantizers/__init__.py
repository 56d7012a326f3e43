"""Turning vectors into codes and back."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["ResidualVQ", "VectorQuantize"]


def __getattr__(name: str) -> Any:
    """Import the drop-in classes when they are asked for: the package that they extend takes a while to import."""
    places = {"ResidualVQ": "genmm.quantizers.vector_residual", "VectorQuantize": "genmm.quantizers.vector"}
    if name not in places:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(places[name]), name)
