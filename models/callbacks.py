"""Callbacks of every training: random state per batch, throughput, and samples to listen to or look at."""

from __future__ import annotations

import ctypes
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from genmm.core.errors import ConfigError, GenmmError
from genmm.core.seeds import derive_seed
from models.ema import EMA

log = logging.getLogger(__name__)


class BatchSeeds(Callback):
    """Starts every batch from random state derived from (run seed, batch number, rank).

    So a resumed run draws what the uninterrupted run would have drawn, on every rank, whatever happened in between
    (validation, sampling, a crash), and validation draws the same in every epoch.
    """

    def _seed(self, trainer: Trainer, *names: str | int) -> None:
        seed_all(derive_seed(run_seed(), *names, trainer.global_rank))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._seed(trainer, "train", trainer.fit_loop.epoch_loop.batch_progress.total.processed)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._seed(trainer, "validation", dataloader_idx, batch_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._seed(trainer, "test", dataloader_idx, batch_idx)


def run_seed() -> int:
    """Seed of the run, as `seed_everything` left it in the environment; 0 without."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def seed_all(seed: int) -> None:
    """Set the global random state of torch (all devices), numpy and Python. For training only."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - code called in a training step may use the global state
    torch.manual_seed(seed)


class Throughput(Callback):
    """Logs items and batches per second and the share of time spent waiting for data."""

    def __init__(self, every_batches: int = 20) -> None:
        """
        Args:
            every_batches: Batches over which a value is averaged.
        """
        self.every_batches = max(1, every_batches)
        self._items = self._batches = 0
        self._since = self._ended = time.monotonic()
        self._waited = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._waited += time.monotonic() - self._ended

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self._ended = time.monotonic()
        chooser = getattr(pl_module, "batch_items", None)
        self._items += (chooser(batch) or 0) if chooser is not None else 0
        self._batches += 1
        if self._batches < self.every_batches:
            return
        seconds = max(now - self._since, 1e-9)
        pl_module.log("speed/batches_per_s", self._batches / seconds, batch_size=1)
        if self._items:
            pl_module.log("speed/items_per_s", self._items * trainer.world_size / seconds, batch_size=1)
        pl_module.log("speed/waiting_for_data", min(1.0, self._waited / seconds), batch_size=1)
        self._items, self._batches, self._waited, self._since = 0, 0, 0.0, now


class ReturnMemory(Callback):
    """Gives freed memory back to the system now and then, when training on a CPU.

    Batches of ever different lengths scatter the heap of glibc: measured on a 5 M parameter SLED in bfloat16, 100 small
    batches held 400 MB too much, and the process kept growing. Does nothing on other systems and on GPUs.
    """

    def __init__(self, every_batches: int = 200) -> None:
        """
        Args:
            every_batches: Batches between two returns.
        """
        self.every_batches = max(1, every_batches)
        try:
            self._trim: Callable[[int], int] | None = ctypes.CDLL("libc.so.6").malloc_trim
        except (OSError, AttributeError):
            self._trim = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._trim is not None and pl_module.device.type == "cpu" and batch_idx % self.every_batches == 0:
            self._trim(0)


class SampleLogger(Callback):
    """Generates with the averaged weights during training and logs what comes out.

    It is handed a way to make a pipeline from the module in training, and knows nothing else about a system: results
    save themselves under samples/, and sound or pictures also go to TensorBoard. Generation has its own seeds, so it
    does not change the training. An unusable sample (an early model may never stop) is a warning, not an end.
    """

    def __init__(
        self,
        every_steps: int = 0,
        requests: list[dict[str, Any]] | None = None,
        folder: str | None = None,
        factory: Callable[[LightningModule, Path], Any] | None = None,
    ) -> None:
        """
        Args:
            every_steps: Optimizer steps between two rounds of samples; 0 turns them off.
            requests: Keyword arguments of pipeline.generate, one mapping for each sample, with its own seed.
            folder: Where results are written; null means samples/ in the run folder.
            factory: Makes a pipeline from the module and an empty folder that lasts as long as the pipeline is used;
                null exports the module there and loads it with genmm.load.
        """
        if every_steps < 0:
            raise ConfigError(f"samples.every_steps must be at least 0, got {every_steps}")
        self.every_steps, self.requests, self.folder = every_steps, requests or [], folder
        self.factory = factory or pipeline_of
        self._done_step = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.every_steps or step % self.every_steps or step == self._done_step or not trainer.is_global_zero:
            return
        self._done_step = step
        self.log_samples(trainer, pl_module)

    def log_samples(self, trainer: Trainer, pl_module: LightningModule) -> list[Path]:
        """Generate every request now and log the results; gives back the files written."""
        average = next((c for c in trainer.callbacks if isinstance(c, EMA)), EMA(enabled=False))
        with tempfile.TemporaryDirectory(prefix="genmm-samples-") as folder:
            with average.averaged(pl_module):
                pipeline = self.factory(pl_module, Path(folder))
            return self._generate(trainer, pipeline)

    def _generate(self, trainer: Trainer, pipeline: Any) -> list[Path]:
        folder = Path(self.folder or Path(trainer.default_root_dir) / "samples")
        written: list[Path] = []
        for number, request in enumerate(self.requests):
            try:
                result = pipeline.generate(**request)
                written += result.save(folder / f"step={trainer.global_step}-{number}{media_suffix(result)}")
            except GenmmError as error:
                log.warning("sample %d at step %d failed: %s", number, trainer.global_step, error)
                continue
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    log_media(logger.experiment, f"samples/{number}", result, trainer.global_step)
        return written


def pipeline_of(module: LightningModule, folder: Path) -> Any:
    """Pipeline with the weights that `module` holds now, exported into `folder`, on the module's device."""
    import genmm

    module.export(folder)
    return genmm.load(str(folder), device=str(module.device))


def media_suffix(result: Any) -> str:
    """File suffix for a result: by the media that it carries."""
    return ".wav" if hasattr(result, "sample_rate") else ".png"


def log_media(writer: Any, tag: str, result: Any, step: int) -> None:
    """Put sound (samples [S] or [C, S] of each take) or pictures (images [H, W, 3] uint8) on TensorBoard."""
    for take, samples in enumerate(getattr(result, "samples", ()) if hasattr(result, "sample_rate") else ()):
        sound = torch.as_tensor(samples).float().reshape(-1, torch.as_tensor(samples).shape[-1]).mean(0)
        writer.add_audio(f"{tag}/{take}", sound.clamp(-1, 1)[None], step, sample_rate=result.sample_rate)
    for take, image in enumerate(getattr(result, "images", ())):
        writer.add_image(f"{tag}/{take}", np.asarray(image), step, dataformats="HWC")
