"""Crops of speech: a position that is exact, other crops on every rank, validation that stays as it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from datamodules.sampler import Pick
from datamodules.speech_store import ArrayStore
from datamodules.speech_waveforms import RandomCrops, SpeechWaveformData
from genmm.core.errors import ConfigError

RATE = 16000


@pytest.fixture
def store(tmp_path: Path) -> ArrayStore:
    """Utterances of noise, 0.5 to 1.5 s: six for training, of which two are synthetic, and three held-out ones."""
    rng = np.random.default_rng(0)
    items = []
    for place in range(9):
        row = {"key": str(place), "text": " x.", "speaker": "s", "corpus": "synthetic" if place < 2 else "real"}
        samples = rng.integers(-9000, 9000, RATE // 2 + place * RATE // 8).astype(np.int16)
        items.append(({**row, "split": "train" if place < 6 else "test"}, samples))
    return ArrayStore.build(tmp_path / "store", items)


@pytest.fixture
def make_data(store, monkeypatch):
    monkeypatch.setattr("datamodules.speech_waveforms.waveform_store", lambda *args, **options: store)

    def make(**changes) -> SpeechWaveformData:
        data = SpeechWaveformData(**{"crop_s": 0.4, "batch_size": 2, "train_batches": 4, "val_batches": 3, **changes})
        data.prepare_data()
        data.setup("fit")
        return data

    return make


class Listener(pl.LightningModule):
    """Keeps the batches that it is trained on, and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.heard: list[torch.Tensor] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.heard.append(batch.clone())
        return 0.0 * self.weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def heard(data: SpeechWaveformData, steps: int, folder: Path, *, goes_on: bool = False) -> list[torch.Tensor]:
    """What a run up to `steps` trains on; its checkpoint is kept in the folder."""
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0, default_root_dir=folder,
    )  # fmt: skip
    module = Listener()
    trainer.fit(module, datamodule=data, ckpt_path=folder / "stored.ckpt" if goes_on else None)
    trainer.save_checkpoint(folder / "stored.ckpt")
    return module.heard


def test_a_resumed_run_goes_on_with_the_crops_of_the_whole_run(make_data, tmp_path):
    whole = heard(make_data(), 6, tmp_path / "whole")  # an epoch has four batches
    parts = heard(make_data(), 3, tmp_path / "parts") + heard(make_data(), 6, tmp_path / "parts", goes_on=True)
    assert [batch.shape for batch in whole] == [(2, 6400)] * 6
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    assert len({batch.numpy().tobytes() for batch in whole}) == 6


def test_every_rank_has_crops_of_its_own(make_data):
    crops = []
    for rank in range(2):
        data = make_data()
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, state=SimpleNamespace(fn=None))
        crops.append([crop.numpy().tobytes() for batch in data.train_dataloader() for crop in batch])
    assert len(crops[0]) == len(crops[1]) == 4  # the four batches of an epoch are shared
    assert not set(crops[0]) & set(crops[1])


def test_validation_has_the_same_held_out_crops_every_time_whatever_the_seed(make_data, store):
    first, again, other = (list(make_data(seed=seed).val_dataloader()) for seed in (1, 1, 2))
    assert [len(batch) for batch in first] == [2, 2, 2]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, again, other, strict=True))
    crops = make_data().dataset("val")
    assert {store.table[i]["split"] for i in crops.chosen} == {"test"}
    rng = np.random.default_rng((0, 3))  # crop 3: the draws of the published figures
    picked = store[int(crops.chosen[np.searchsorted(crops.cumulative, rng.random())])]
    start = int(rng.integers(0, len(picked) - 6400 + 1))
    gain = 10.0 ** (rng.uniform(-12.0, 6.0) / 20.0) / 32768.0
    expected = torch.from_numpy(picked[start : start + 6400].astype(np.float32) * gain)
    torch.testing.assert_close(first[1][1], expected.float())


def test_crops_keep_to_the_share_of_synthetic_speech_and_prefer_long_utterances(store):
    crops = RandomCrops(store, split="train", samples=640, count=1, synthetic_share=0.3)
    chances = np.diff(crops.cumulative, prepend=0.0)
    lengths = store.lengths[crops.chosen]
    assert chances[:2].sum() == pytest.approx(0.3) and chances[2:].sum() == pytest.approx(0.7)
    np.testing.assert_allclose(chances[2:] / chances[2], lengths[2:] / lengths[2])


def test_short_speech_is_padded_and_loud_speech_is_not_clipped(store):
    crops = RandomCrops(store, split="train", samples=2 * RATE, count=8, synthetic_share=0.3, gain_db=60.0)
    made = [crops[Pick(i, 40 + i)] for i in range(8)]
    assert all(crop.shape == (2 * RATE,) and crop.abs().max() <= 1.0 and (crop == 0).any() for crop in made)
    assert torch.equal(made[5], crops[Pick(0, 45)])  # the seed alone decides
    assert not torch.equal(made[0], made[1])


def test_there_is_no_test_data_and_that_is_said(make_data):
    with pytest.raises(ConfigError, match="no test data; genmm validate"):
        make_data().test_dataloader()


@pytest.mark.parametrize("bad", [{"crop_s": 0.01}, {"train_batches": 0}, {"synthetic_share": 1.5}])
def test_impossible_crops_are_refused(bad):
    with pytest.raises(ConfigError, match="data needs"):
        SpeechWaveformData(**bad)
