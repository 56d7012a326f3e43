"""A resumed run ends with exactly the bits of an uninterrupted one, wherever it was interrupted."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

from datamodules.toy import ToyData
from genmm.core.errors import DataError
from models.callbacks import BatchSeeds
from models.checkpointing import Checkpoints, VerifiedCheckpointIO, read_checkpoint
from models.ema import EMA
from models.optim import OptimConfig
from models.toy import ToyTask

ROOT = Path(__file__).resolve().parents[2]
LONGEST_S = 600
"""A training process of these tests that takes longer hangs; alone on two cores it needs ten seconds."""
STEPS = 26
"""Epochs have 11 batches and validation comes after every 4, so saves fall before, after and between both."""


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def train(folder: Path, *, ckpt: Path | None = None, steps: int = STEPS, accumulate: int = 1, **extra: Any) -> dict:
    """Train the toy task to `steps`; gives back its last checkpoint."""
    if ckpt is not None:  # a run that goes on elsewhere takes along what it ranks by
        shutil.copytree(ckpt.parent, folder / "checkpoints", ignore=shutil.ignore_patterns("last.ckpt", "step=*"))
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


EVERY_STEP = [pytest.param(step, marks=() if step in (3, 4, 11, 19, 22) else pytest.mark.slow) for step in range(1, 26)]


@pytest.mark.parametrize("step", EVERY_STEP)
def test_resume_at_any_step_gives_the_same_bits(straight, tmp_path, step):
    folder, expected = straight
    resumed = train(tmp_path, ckpt=folder / "checkpoints" / f"step={step}.ckpt", sanity=step % 2)
    assert differences(state_of(expected), state_of(resumed)) == []


def test_random_state_matters_to_this_task(straight, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    assert differences(state_of(straight[1]), state_of(train(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 5, 6, 11])
def test_resume_with_accumulated_gradients(tmp_path, step):
    expected = train(tmp_path / "straight", steps=12, accumulate=2)
    checkpoint = tmp_path / "straight" / "checkpoints" / f"step={step}.ckpt"
    resumed = train(tmp_path / "resumed", ckpt=checkpoint, steps=12, accumulate=2)
    assert differences(state_of(expected), state_of(resumed)) == []


@pytest.mark.slow
def test_resume_with_worker_processes(straight, tmp_path):
    folder, expected = straight
    resumed = train(tmp_path, ckpt=folder / "checkpoints" / "step=14.ckpt", workers=2)
    assert differences(state_of(expected), state_of(resumed)) == []


def test_resume_with_other_data_is_refused(straight, tmp_path):
    with pytest.raises(DataError, match="same data, batch size"):
        train(tmp_path, ckpt=straight[0] / "checkpoints" / "step=5.ckpt", batch_size=3)


# ---------------------------------------------------------------- whole processes

CONFIG = {
    "model": {"class_path": "models.toy.ToyTask"},
    "data": {"class_path": "datamodules.toy.ToyData"},
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 400,
        "val_check_interval": 7,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "checkpoints": {"every_steps": 3, "keep_best": 1},
    "ema": {"decay": 0.9},
}


def start(folder: Path, name: str, *more: str) -> subprocess.Popen:
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PL_")}
    command = [sys.executable, "-m", "app.train", "fit", "--config", str(folder / "config.yaml")]
    command += ["--run.root", str(folder), "--run.name", name, "--seed_everything", "3", *more]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen) -> None:
    try:
        said = process.communicate(timeout=LONGEST_S)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the other ranks too, which would wait for this one
    assert process.returncode == 0, said


@pytest.mark.slow
@pytest.mark.timeout(4 * LONGEST_S)
def test_kill_nine_and_resume_gives_the_same_bits(tmp_path):
    """Twice killed without warning, at whatever point the run happened to be, then finished."""
    finish(start(tmp_path, "straight"))
    last = tmp_path / "toy" / "killed" / "checkpoints" / "last.ckpt"
    for more in ((), ("--resume",)):
        process = start(tmp_path, "killed", *more)
        before = last.stat().st_mtime_ns if last.exists() else 0
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline and process.poll() is None:
            if last.exists() and last.stat().st_mtime_ns != before:
                break
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    stopped_at = read_checkpoint(last)["global_step"]
    assert 0 < stopped_at < 400
    finish(start(tmp_path, "killed", "--resume"))
    runs = [read_checkpoint(tmp_path / "toy" / name / "checkpoints" / "last.ckpt") for name in ("straight", "killed")]
    assert runs[0]["global_step"] == 400
    assert differences(state_of(runs[0]), state_of(runs[1])) == []
    left = [path.name for path in last.parent.iterdir() if ".partial" in path.name]
    assert len(left) <= 2, "at most the file that was being written at each kill"


@pytest.mark.slow
@pytest.mark.timeout(3 * LONGEST_S)
def test_two_processes_train_together_and_resume(tmp_path):
    """Gloo on this machine: both ranks end with the weights that one straight run of both ranks has.

    The schedule is given its length: left to the Trainer's max_steps, it would end at step 9 in the first part.
    """
    both = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.val_check_interval=3")
    both += ("--model.optimizer.total_steps=20", "--trainer.max_steps")
    finish(start(tmp_path, "straight", *both, "20"))
    finish(start(tmp_path, "parts", *both, "9"))
    finish(start(tmp_path, "parts", *both, "20", "--resume"))
    runs = [read_checkpoint(tmp_path / "toy" / name / "checkpoints" / "last.ckpt") for name in ("straight", "parts")]
    assert differences(runs[0]["state_dict"], runs[1]["state_dict"]) == []
    assert differences(runs[0]["callbacks"]["genmm.ema"], runs[1]["callbacks"]["genmm.ema"]) == []
