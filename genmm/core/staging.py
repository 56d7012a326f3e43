"""Whole folders that appear in one step or not at all: built beside the target, then moved there."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genmm.core.errors import UsageError
from genmm.core.files import sync_folder

__all__ = ["check_target", "staged_folder"]


@contextmanager
def staged_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a new folder beside `target` that takes its place in one step when the block ends without an error.

    On an error the new folder is removed and the target stays. With `overwrite` an old target is moved aside first and
    put back when the last step fails.
    Raises: UsageError when the target may not be replaced (see `check_target`), at the end of the block; call
    `check_target` first to find that out before the work.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = target.parent / f".{target.name}.{secrets.token_hex(6)}.partial"
    old = stage.with_suffix(".old")
    stage.mkdir()
    try:
        yield stage
        check_target(target, overwrite=overwrite)
        if target.exists():
            target.rename(old)
        try:
            stage.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def check_target(target: Path, *, overwrite: bool = False) -> None:
    """Refuse a checkpoint folder to be written that is a file, holds foreign things, or exists and may not be replaced.

    A missing or an empty folder is fine; with `overwrite` so is one that holds a config.json.
    Raises: UsageError.
    """
    if target.is_file() or target.is_symlink():
        raise UsageError(f"{target} is a file; name a folder to write the checkpoint to")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{target} exists; name another folder, or allow it to be replaced (--overwrite)")
    if not (target / "config.json").is_file():
        raise UsageError(f"{target} is not a checkpoint folder, so it is not replaced; name another folder")
