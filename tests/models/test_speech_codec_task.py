"""Training of the speech codec: it learns, its discriminators join, a fixed encoder stays, an export is the average."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from genmm.core.errors import ConfigError
from genmm.systems.sled.codec import SpeechCodec, SpeechCodecConfig
from models.audio_codec import SpeechCodecTask
from models.base import BadStepPolicy
from models.callbacks import BatchSeeds
from models.checkpointing import Checkpoints, VerifiedCheckpointIO, read_checkpoint
from models.ema import EMA
from models.optim import OptimConfig

SMALL = SpeechCodecConfig(
    channels=4, encoder_width=16, encoder_latent_width=16, encoder_depth=1, encoder_latent_depth=1,
    decoder_width=16, decoder_latent_depth=1, decoder_depth=1,
)  # fmt: skip
FAST = OptimConfig(learning_rate=3e-3)


def tones(count: int = 8) -> torch.Tensor:
    """Tones of different pitch, 0.32 s each."""
    pitch = 150.0 * 2 ** (torch.arange(count) / 4)
    return 0.3 * torch.sin(2 * torch.pi * pitch[:, None] * torch.arange(5120) / 16000)


def train(task: SpeechCodecTask, folder: Path, *, ckpt: Path | None = None, average: EMA | None = None) -> pl.Trainer:
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=100, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, check_val_every_n_epoch=2, plugins=[VerifiedCheckpointIO()],
        callbacks=[BatchSeeds(), average or EMA(decay=0.9), Checkpoints(every_steps=1, keep_every=1, keep_best=1)],
    )  # fmt: skip
    torch.manual_seed(3)
    trainer.fit(task, DataLoader(tones(), batch_size=4), DataLoader(tones(4), batch_size=2), ckpt_path=ckpt)
    return trainer


def make_task(**changes: object) -> SpeechCodecTask:
    torch.manual_seed(1)
    return SpeechCodecTask(SMALL, **{"total_steps": 6, "adversarial_from": 0.5, "optimizer": FAST, **changes})


def test_it_learns_and_exports_the_average(tmp_path):
    task = make_task(total_steps=100, adversarial_from=1.0, latent_noise=0.0)
    before = float(task.mel_loss(task.codec.train().decoder(task.codec.latents(tones())), tones()))
    average = EMA(decay=0.9)
    trainer = train(task, tmp_path, average=average)
    assert int(task.step_count) == 100  # there it ends, whatever the Trainer was told
    assert float(trainer.callback_metrics["val/loss"]) < 0.85 * before
    with average.averaged(task):
        expected = task.codec.eval().encode(tones())
        folder = task.export(tmp_path / "codec")
    torch.testing.assert_close(SpeechCodec.from_folder(folder).encode(tones()), expected, atol=0.05, rtol=0.05)


def test_discriminators_join_where_they_are_told(tmp_path):
    seen = []

    class Note(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *rest) -> None:
            seen.append("train/judge" in trainer.callback_metrics)

    task = make_task()
    judge = [p.clone() for p in task.discriminator.parameters()]
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=100, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[Note()],
    )  # fmt: skip
    trainer.fit(task, DataLoader(tones(), batch_size=4))
    assert seen == [False] * 3 + [True] * 3
    moved = [not torch.equal(old, new) for old, new in zip(judge, task.discriminator.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)  # three steps, one for each window size


def test_a_fixed_encoder_keeps_its_latents(tmp_path):
    start = make_task()
    train(start, tmp_path / "first")
    folder = start.export(tmp_path / "codec")
    task = make_task(start_from=str(folder), train_encoder=False, adversarial_from=0.0, total_steps=4)
    latents = task.codec.eval().encode(tones())
    decoded = task.codec.decode(latents)
    train(task, tmp_path / "second")
    task.codec.eval()
    assert torch.equal(task.codec.encode(tones()), latents)
    assert not torch.equal(task.codec.decode(latents), decoded)


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, step):
    """Before and after the discriminators have joined: then every batch counts two steps of the Trainer."""
    train(make_task(), tmp_path / "straight")
    checkpoints = tmp_path / "straight" / "checkpoints"
    counted = {path: int(read_checkpoint(path)["state_dict"]["step_count"]) for path in checkpoints.glob("step=*.ckpt")}
    (chosen,) = [path for path, count in counted.items() if count == step]
    train(make_task(), tmp_path / "parts", ckpt=chosen)
    ends = [read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("straight", "parts")]
    assert all(torch.equal(value, ends[1]["state_dict"][name]) for name, value in ends[0]["state_dict"].items())
    averages = [end["callbacks"]["genmm.ema"]["average"] for end in ends]
    assert all(torch.equal(value, averages[1][name]) for name, value in averages[0].items())


def test_a_gradient_that_is_not_finite_is_left_out(tmp_path):
    task = make_task(bad_steps=BadStepPolicy(action="skip"))
    broken = tones()
    broken[4] = float("nan")
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(task, DataLoader(broken, batch_size=4))
    assert task.bad_steps == 1 and int(task.step_count) == 2
    assert all(torch.isfinite(value).all() for value in task.codec.state_dict().values())
    assert int(task.codec.standardise.num_batches_tracked) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"total_steps": 0}, "total_steps"),
        ({"adversarial_from": 1.5}, "adversarial_from"),
        ({"optimizer": OptimConfig(schedule="cosine")}, "sets schedule itself"),
        ({"optimizer": OptimConfig(total_steps=9, betas=(0.5, 0.9))}, "betas, total_steps"),
    ],
)
def test_impossible_settings_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        make_task(**changes)


def test_float16_with_loss_scaling_is_refused():
    task = make_task()
    task._trainer = SimpleNamespace(precision="16-mixed", optimizers=[])
    with pytest.raises(ConfigError, match="bf16-mixed or 32-true"):
        task.on_fit_start()
