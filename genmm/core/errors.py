"""Every error that a person can cause; the command line turns each into one message and an exit code."""

from __future__ import annotations

__all__ = [
    "Cancelled",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "GenerationError",
    "GenmmError",
    "LimitError",
    "MediaError",
    "MissingDependencyError",
    "ShapeError",
    "UsageError",
]


class GenmmError(Exception):
    """Base of all errors whose text is meant for the person who caused them."""

    exit_code: int = 2
    """What the `genmm` command exits with when this error ends it."""


class UsageError(GenmmError, ValueError):
    """An argument is outside what is allowed."""


class ShapeError(UsageError):
    """A tensor or array has the wrong shape, rank or dtype."""


class ConfigError(UsageError):
    """A configuration value or file cannot be used."""


class CheckpointError(GenmmError):
    """A checkpoint folder is missing, damaged, too large, or made for something else."""


class MediaError(GenmmError):
    """A sound, picture or video cannot be read or written."""


class LimitError(MediaError):
    """Input goes past a stated limit (see `genmm.core.limits.Limits`)."""


class DataError(GenmmError):
    """A data set, manifest or annotation is missing or malformed."""


class MissingDependencyError(GenmmError):
    """An optional package or program is not installed; the text names the command that installs it."""


class GenerationError(GenmmError):
    """A model produced something that is not a usable result."""


class Cancelled(GenmmError):
    """The work stopped because somebody asked for it."""

    exit_code = 130

    def __init__(self, message: str = "cancelled") -> None:
        super().__init__(message)
