"""Training checkpoints that are really on disk: verified writes, last + best k, saved on errors and signals."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from genmm.core.errors import CheckpointError, ConfigError
from genmm.core.files import atomic_path
from models.base import TrainingDiverged

log = logging.getLogger(__name__)
LAST = "last.ckpt"


class VerifiedCheckpointIO(CheckpointIO):
    """Writes beside the target, reads the file back, then puts it in place; any failure is raised at once.

    Reading uses torch's safe mode only: tensors and plain values, never code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`. Raises: CheckpointError, with the reason of the system (rights, space)."""
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as beside:
                torch.save(checkpoint, beside)
                verify_checkpoint(beside, checkpoint)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise CheckpointError(
                f"cannot save the checkpoint {path}: {error}; make the folder writable or free some space, "
                "then continue with --resume"
            ) from error
        if not path.is_file():
            raise CheckpointError(f"the checkpoint {path} was written but is not there; check the file system")

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint in safe mode. Raises: CheckpointError when it is missing, damaged or holds code."""
        return read_checkpoint(path, map_location=map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: str | Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Training checkpoint as a dict, read in torch's safe mode.

    Raises: CheckpointError when the file is missing, damaged, or needs code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; give a .ckpt file, or start without --resume")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        why = f": {reason}" if " " in reason else ""  # a KeyError of the unpickler says nothing but a number
        raise CheckpointError(f"{path} is damaged or no training checkpoint{why}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} is not a training checkpoint: it has no state_dict")
    return checkpoint


def verify_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Read `path` back without copying its tensors into memory; RuntimeError when it differs from `checkpoint`."""
    stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if stored.keys() != checkpoint.keys():
        raise RuntimeError("the file read back has other keys than were written")
    for name, value in checkpoint.get("state_dict", {}).items():
        if stored["state_dict"][name].shape != value.shape:
            raise RuntimeError(f"the file read back has another shape for {name}")


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt` and the best k of a validation metric; saves on Ctrl-C, SIGTERM and errors.

    A new file is complete and verified before an old one is removed. After a diverged step nothing is saved, so the
    last good checkpoint stays. A signal stops the run after the optimizer step in work, and after the validation that
    follows it, at a point from which it resumes exactly; a second Ctrl-C stops at once.
    """

    STATE_KEY = "genmm.checkpoints"

    def __init__(
        self,
        every_steps: int = 1000,
        every_minutes: float = 10.0,
        monitor: str | None = "val/loss",
        mode: Literal["min", "max"] = "min",
        keep_best: int = 2,
        keep_every: int = 0,
        dirpath: str | None = None,
    ) -> None:
        """
        Args:
            every_steps: Save last.ckpt after this many optimizer steps; 0 turns it off.
            every_minutes: Save last.ckpt also when this many minutes have passed; 0 turns it off.
            monitor: Logged validation value that ranks the best checkpoints; null keeps only last.ckpt.
            mode: Whether the smallest or the largest value is best.
            keep_best: Number of best checkpoints, at least 0.
            keep_every: Also keep a copy for good after this many steps; 0 turns it off.
            dirpath: Folder; null means checkpoints/ in the run folder.
        """
        if min(every_steps, every_minutes, keep_best, keep_every) < 0:
            raise ConfigError("checkpoints: every_steps, every_minutes, keep_best and keep_every must be at least 0")
        self.every_steps, self.every_minutes, self.keep_every = every_steps, every_minutes, keep_every
        self.monitor, self.mode, self.keep_best = monitor, mode, keep_best
        self.dirpath = dirpath
        self.best: dict[str, float] = {}
        self._saved_step = 0
        self._saved_at = time.monotonic()
        self._signal: int | None = None
        self._forced = False
        self._old_handlers: dict[int, Any] = {}

    @property
    def folder(self) -> Path:
        """Folder of the checkpoints; known after setup."""
        return Path(self.dirpath or "checkpoints")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = trainer.strategy.broadcast(str(checkpoint_folder(trainer.default_root_dir, self.dirpath)))
        if stage == "fit" and trainer.is_global_zero:
            VerifiedCheckpointIO().save_checkpoint({"state_dict": {}}, self.folder / ".write_test")
            (self.folder / ".write_test").unlink()  # a folder that cannot be written shows now, not in an hour

    # Saving ----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        # A run that goes on from a checkpoint of another folder must not rank its own by files that are not there.
        present = {name: score for name, score in self.best.items() if (self.folder / name).is_file()}
        self.best = trainer.strategy.broadcast(present)
        self._take_signals(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop._should_accumulate():
            return  # the gradient so far is in no checkpoint
        follows, asked = self._validation_follows(trainer), self._asked_to_stop(trainer)
        if asked and not follows:
            self._stop()
        # A stop that waits for a validation saves before it too: whoever asked may not wait as long.
        if trainer.global_step != self._saved_step and (asked or (self._due(trainer) and not follows)):
            self.save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or trainer.global_step == 0:
            return
        due = self._due(trainer)
        self._save_if_best(trainer)  # first, so that last.ckpt knows of it
        asked = self._asked_to_stop(trainer)
        if asked or due:
            self.save_last(trainer)
        if asked:
            self._stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._give_signals_back()
        if trainer.global_step != self._saved_step or not (self.folder / LAST).exists():
            self.save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._give_signals_back()
        if trainer.state.fn != "fit" or trainer.global_step == self._saved_step:
            return
        # After an error on one of several ranks the others are elsewhere, and saving together would wait for ever.
        alone = trainer.world_size > 1 and not isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if self._forced or alone or isinstance(exception, TrainingDiverged | CheckpointError):
            log.warning("not saved; %s is from step %d", self.folder / LAST, self._saved_step)
            return
        self.save_last(trainer)
        log.warning("saved %s after %s", self.folder / LAST, type(exception).__name__)

    def save_last(self, trainer: Trainer) -> None:
        """Write last.ckpt now; all ranks call this."""
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        trainer.save_checkpoint(self.folder / LAST)
        if self.keep_every and trainer.global_step % self.keep_every == 0 and trainer.is_global_zero:
            link_or_copy(self.folder / LAST, self.folder / f"step={trainer.global_step}.ckpt")

    def _save_if_best(self, trainer: Trainer) -> None:
        if self.monitor is None or self.keep_best == 0:
            return
        if self.monitor not in trainer.callback_metrics:
            raise ConfigError(
                f"checkpoints.monitor {self.monitor!r} is not logged; logged are {sorted(trainer.callback_metrics)}"
            )
        score = float(trainer.callback_metrics[self.monitor])
        if score != score:
            return
        sign = 1.0 if self.mode == "min" else -1.0
        worst = max(self.best, key=lambda name: sign * self.best[name], default=None)
        if len(self.best) >= self.keep_best and sign * score >= sign * self.best[worst]:
            return
        name = f"best-step={trainer.global_step}.ckpt"
        self.best[name] = score
        dropped = worst if len(self.best) > self.keep_best else None
        if dropped is not None:
            del self.best[dropped]
        trainer.save_checkpoint(self.folder / name)
        if dropped not in (None, name) and trainer.is_global_zero:
            (self.folder / dropped).unlink(missing_ok=True)

    def _due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        by_step = self.every_steps > 0 and step // self.every_steps > self._saved_step // self.every_steps
        by_keep = self.keep_every > 0 and step % self.keep_every == 0
        by_time = self.every_minutes > 0 and time.monotonic() - self._saved_at > 60 * self.every_minutes
        if trainer.world_size > 1 and self.every_minutes > 0:
            by_time = trainer.strategy.broadcast(by_time)
        return by_step or by_keep or by_time

    @staticmethod
    def _validation_follows(trainer: Trainer) -> bool:
        """Whether validation runs right after this batch: the save then waits for its end, so no value is lost."""
        return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)

    # Signals and state -----------------------------------------------------------------------------------------

    def _take_signals(self, trainer: Trainer) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        environment = trainer._accelerator_connector.cluster_environment
        requeues = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
        for number in (signal.SIGINT,) if requeues else (signal.SIGINT, signal.SIGTERM):
            self._old_handlers[number] = signal.signal(number, self._ask_to_stop)

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        if self._signal is not None and number == signal.SIGINT:
            self._forced = True
            raise KeyboardInterrupt
        self._signal = number
        log.warning("stopping after this step; press Ctrl-C again to stop at once")

    def _asked_to_stop(self, trainer: Trainer) -> bool:
        """Whether any of the ranks was asked to stop, so that all end after the same batch."""
        asked = self._signal is not None
        return trainer.strategy.reduce_boolean_decision(asked, all=False) if trainer.world_size > 1 else asked

    def _stop(self) -> None:
        raise SIGTERMException if self._signal == signal.SIGTERM else KeyboardInterrupt

    def _give_signals_back(self) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._old_handlers = {}

    @property
    def state_key(self) -> str:
        return self.STATE_KEY

    def state_dict(self) -> dict[str, Any]:
        return {"best": dict(self.best), "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = dict(state_dict.get("best", {}))


def checkpoint_folder(root: str | Path, dirpath: str | None) -> Path:
    """Where a run whose folder is `root` keeps its checkpoints, unless it is told a folder for them."""
    return Path(dirpath or Path(root) / "checkpoints")


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a second name of the complete file `source`, or a copy where the file system has no links."""
    with atomic_path(target) as beside:
        beside.unlink(missing_ok=True)
        try:
            os.link(source, beside)
        except OSError:
            beside.write_bytes(source.read_bytes())
