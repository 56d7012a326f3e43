"""`genmm export`: from a training run or checkpoint to a pipeline folder with the averaged weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jsonargparse
import pytorch_lightning as pl
import yaml

from app.train import ALLOWED_IMPORTS
from app.training.card import add_card
from app.training.session import can_export, take_allowed_imports
from genmm.core.errors import ConfigError, UsageError
from models.checkpointing import LAST, read_checkpoint
from models.ema import averaged_state


def export_command(argv: Sequence[str]) -> int:
    """`RUN_OR_CKPT OUT_FOLDER`; prints the folder and gives back 0."""
    argv, extra = take_allowed_imports(argv)
    if len(argv) != 2 or argv[0].startswith("-"):
        raise UsageError("genmm export needs two arguments: RUN_OR_CKPT OUT_FOLDER")
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*ALLOWED_IMPORTS, *extra])
    print(f"pipeline folder: {export_run(Path(argv[0]), Path(argv[1]))}")
    return 0


def export_run(source: Path, out: Path) -> Path:
    """Write the pipeline folder of a run folder (its last checkpoint) or of a .ckpt file inside a run.

    Raises: UsageError when there is nothing to export; CheckpointError or ConfigError when the run is incomplete or its
    task writes no pipeline folder.
    """
    checkpoint_path = _checkpoint_of(source)
    checkpoint = read_checkpoint(checkpoint_path)
    config_path = checkpoint_path.parent.parent / "config.yaml"
    task = task_of_run(config_path)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(averaged_state(checkpoint))
    task.eval()
    task.export(out)
    add_card(out, yaml.safe_load(config_path.read_text(encoding="utf-8")), checkpoint["global_step"])
    return out


def _checkpoint_of(source: Path) -> Path:
    if source.is_file():
        return source
    if (source / "config.json").is_file():
        raise UsageError(f"{source} is a model folder already: commands take it as --model {source}")
    last = source / "checkpoints" / LAST
    if not last.is_file():
        what = "has no checkpoint yet" if (source / "config.yaml").is_file() else "is no folder of a training run"
        raise UsageError(
            f"{source} {what} (there is no checkpoints/{LAST} in it); name a run, runs/<system>/<name>, or a .ckpt file"
        )
    return last


def task_of_run(config_path: Path) -> pl.LightningModule:
    """The task that a run's config.yaml describes, with fresh weights."""
    if not config_path.is_file():
        raise ConfigError(f"there is no {config_path}; export needs the run folder that `genmm fit` made")
    config = yaml.safe_load(config_path.read_text(encoding="utf-8"))
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "model", fail_untyped=False)
    try:
        task = parser.instantiate_classes(parser.parse_object({"model": config["model"]})).model
    except (jsonargparse.ArgumentError, KeyError) as error:
        raise ConfigError(f"{config_path} does not describe a task of this version: {error}") from error
    if not can_export(task):
        raise ConfigError(f"{type(task).__name__} does not write a pipeline folder")
    return task
