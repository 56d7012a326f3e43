"""Samples during training, throughput, random state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules.toy import ToyData
from genmm.core.errors import ConfigError, GenerationError
from models.callbacks import ReturnMemory, SampleLogger, Throughput
from models.ema import EMA
from models.toy import ToyTask


@dataclass(frozen=True)
class Sound:
    """A result as pipelines give it."""

    samples: tuple[np.ndarray, ...]
    sample_rate: int = 8000

    def save(self, path: Path) -> tuple[Path, ...]:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path.with_suffix(".npy"), self.samples[0])
        return (path.with_suffix(".npy"),)


class Pipeline:
    """Speaks the first weight of the module it was made from."""

    def __init__(self, module: ToyTask, folder: Path) -> None:
        assert folder.is_dir()
        self.value = float(module.network[0].weight[0, 0])

    def generate(self, *, text: str, seed: int) -> Sound:
        if text == "impossible":
            raise GenerationError("no end in sight")
        torch.manual_seed(seed)  # a careless pipeline
        return Sound((np.full(800, self.value, dtype=np.float32),))


def make_trainer(folder: Path, *callbacks: pl.Callback, **options) -> pl.Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(default_root_dir=folder, accelerator="cpu", callbacks=list(callbacks), **quiet, **options)


def test_samples_come_from_the_average_and_reach_files_and_tensorboard(tmp_path, caplog):
    ema = EMA(decay=0.9)
    requests = [{"text": "one", "seed": 1}, {"text": "impossible", "seed": 2}, {"text": "two", "seed": 3}]
    samples = SampleLogger(every_steps=3, requests=requests, factory=Pipeline)
    logger = TensorBoardLogger(str(tmp_path), name="tb", version="")
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, ema, samples, max_steps=6, limit_val_batches=0, logger=logger)
    trainer.fit(ToyTask(), datamodule=ToyData())
    written = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert written == ["step=3-0.npy", "step=3-2.npy", "step=6-0.npy", "step=6-2.npy"]
    last = np.load(tmp_path / "samples" / "step=6-0.npy")
    assert last[0] == pytest.approx(float(ema.average["network.0.weight"][0, 0]))
    assert "no end in sight" in caplog.text
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [event.step for event in events.Audio("samples/0/0")] == [3, 6]
    assert events.Audio("samples/0/0")[0].sample_rate == 8000.0


def test_the_default_factory_loads_what_the_task_exports(tmp_path, monkeypatch):
    import genmm

    seen = {}

    def load(folder: str, *, device: str) -> str:
        seen.update(files=sorted(p.name for p in Path(folder).iterdir()), device=device)
        return "pipeline"

    monkeypatch.setattr(genmm, "load", load, raising=False)
    assert SampleLogger().factory(ToyTask(), tmp_path) == "pipeline"
    assert seen == {"files": ["model.safetensors"], "device": "cpu"}


def test_negative_intervals_are_refused():
    with pytest.raises(ConfigError, match="every_steps"):
        SampleLogger(every_steps=-1)


def test_throughput_is_logged(tmp_path):
    trainer = make_trainer(tmp_path, Throughput(every_batches=2), max_steps=4, limit_val_batches=0, logger=False)
    trainer.fit(ToyTask(), datamodule=ToyData())
    metrics = trainer.callback_metrics
    assert metrics["speed/items_per_s"] == pytest.approx(4 * float(metrics["speed/batches_per_s"]), rel=1e-3)
    assert 0 <= metrics["speed/waiting_for_data"] <= 1


def test_freed_memory_goes_back_to_the_system(tmp_path):
    """A heap full of holes shrinks; skipped where the C library has no such call."""
    callback = ReturnMemory(every_batches=1)
    if callback._trim is None:
        pytest.skip("needs glibc")
    pieces = [torch.zeros(10_000) for _ in range(4000)]  # 160 MB in blocks below glibc's mmap threshold
    keep = pieces[::40]
    full = resident_mb()
    del pieces
    trainer = make_trainer(tmp_path, callback, max_steps=1, limit_val_batches=0, logger=False)
    trainer.fit(ToyTask(), datamodule=ToyData())
    assert resident_mb() < full - 100
    assert len(keep) == 100


def resident_mb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) // 1024
