"""A resumed run ends with exactly the bits of an uninterrupted one, wherever it was interrupted."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from datamodules.toy import ToyData
from models.callbacks import BatchSeeds
from models.checkpointing import Checkpoints, VerifiedCheckpointIO, read_checkpoint
from models.ema import EMA
from models.optim import OptimConfig
from models.toy import ToyTask

STEPS = (
    26  # epochs of 11 batches; validation after every 4 batches of an epoch and at its end is not aligned with saves
)


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def train(folder: Path, *, ckpt: Path | None = None, steps: int = STEPS, accumulate: int = 1, **extra: Any) -> dict:
    """Train the toy task to `steps`; gives back its last checkpoint."""
    torch.manual_seed(1)
    task = ToyTask(optimizer=OptimConfig(learning_rate=1e-2, warmup_steps=3, schedule="cosine", total_steps=40))
    callbacks = [BatchSeeds(), EMA(decay=0.9), *extra.pop("callbacks", [])]
    callbacks.append(Checkpoints(every_steps=1, keep_every=1, keep_best=1))
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=4,
        accumulate_grad_batches=accumulate,
        num_sanity_val_steps=extra.pop("sanity", 0),
        callbacks=callbacks,
        plugins=[VerifiedCheckpointIO()],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        gradient_clip_val=1.0,
    )
    torch.manual_seed(os.getpid() + (ckpt is not None))  # whatever the global state is, it must not matter
    trainer.fit(task, datamodule=ToyData(**extra), ckpt_path=ckpt)
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Paths at which two checkpoints differ in any bit."""
    if isinstance(left, torch.Tensor):
        return [] if isinstance(right, torch.Tensor) and torch.equal(left, right) else [path]
    if isinstance(left, dict):
        if not isinstance(right, dict) or left.keys() != right.keys():
            return [path + " keys"]
        return [place for key in left for place in differences(left[key], right[key], f"{path}/{key}")]
    if isinstance(left, list | tuple):
        if len(left) != len(right):
            return [path + " length"]
        return [p for i, (a, b) in enumerate(zip(left, right, strict=True)) for p in differences(a, b, f"{path}/{i}")]
    return [] if left == right else [f"{path}: {left!r} is not {right!r}"]


def state_of(checkpoint: dict) -> dict:
    """What decides how training goes on: weights, optimizer, average, schedule, position, best values."""
    keys = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "callbacks", "ToyData")
    return {key: checkpoint[key] for key in keys}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Path, dict]:
    os.environ["PL_GLOBAL_SEED"] = "5"
    folder = tmp_path_factory.mktemp("straight")
    return folder, train(folder)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 8, 10, 11, 12, 15, 16, 21, 22, 23, 25])
def test_resume_at_any_step_gives_the_same_bits(straight, tmp_path, step):
    folder, expected = straight
    resumed = train(tmp_path, ckpt=folder / "checkpoints" / f"step={step}.ckpt", sanity=step % 2)
    assert differences(state_of(expected), state_of(resumed)) == []


def test_random_state_matters_to_this_task(straight, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    assert differences(state_of(straight[1]), state_of(train(tmp_path)))
