"""Training checkpoints: verified writes, errors that are raised at once, which files are kept."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.toy import ToyData
from genmm.core.errors import CheckpointError, ConfigError
from models.base import BadStepPolicy, TrainingDiverged
from models.checkpointing import LAST, Checkpoints, VerifiedCheckpointIO, read_checkpoint
from models.toy import ToyTask

STATE = {"state_dict": {"w": torch.arange(4.0)}, "epoch": 3}


def make_trainer(folder: Path, *callbacks: pl.Callback, **options) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    plugins = [VerifiedCheckpointIO()]
    return pl.Trainer(
        default_root_dir=folder, accelerator="cpu", callbacks=list(callbacks), plugins=plugins, **quiet, **options
    )


@pytest.fixture(autouse=True)
def _signals_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():  # Lightning ignores Ctrl-C while it shuts down
        signal.signal(number, handler)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_checkpoint_comes_back_and_leaves_nothing_beside_it(tmp_path):
    VerifiedCheckpointIO().save_checkpoint(STATE, tmp_path / "deep" / "a.ckpt")
    back = VerifiedCheckpointIO().load_checkpoint(tmp_path / "deep" / "a.ckpt")
    assert torch.equal(back["state_dict"]["w"], STATE["state_dict"]["w"]) and back["epoch"] == 3
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")])
def test_a_failed_write_is_raised_at_once_and_keeps_the_old_file(tmp_path, monkeypatch, error):
    target = tmp_path / "a.ckpt"
    VerifiedCheckpointIO().save_checkpoint(STATE, target)
    old = target.read_bytes()

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match=error.strerror):
        VerifiedCheckpointIO().save_checkpoint({**STATE, "epoch": 4}, target)
    assert target.read_bytes() == old and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_disk_is_an_error(tmp_path, monkeypatch):
    plain_save = torch.save
    monkeypatch.setattr(torch, "save", lambda value, path: plain_save(value, "/dev/full"))
    with pytest.raises(CheckpointError, match="cannot save"):
        VerifiedCheckpointIO().save_checkpoint(STATE, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_an_error_before_training(tmp_path):
    (tmp_path / "checkpoints").mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="Permission denied"):
        make_trainer(tmp_path, Checkpoints(), max_steps=1).fit(ToyTask(), datamodule=ToyData())


def test_a_folder_that_is_a_file_is_an_error_before_training(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot save"):
        make_trainer(tmp_path, Checkpoints(), max_steps=1).fit(ToyTask(), datamodule=ToyData())


def test_a_write_that_lost_data_is_noticed(tmp_path, monkeypatch):
    plain_save = torch.save

    def cut(value, path):
        plain_save(value, path)
        with open(path, "r+b") as stream:
            stream.truncate(100)

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(CheckpointError):
        VerifiedCheckpointIO().save_checkpoint(STATE, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("made_by_pickle",))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", pickle.dumps({"state_dict": Evil()}), pickle.dumps([1])])
def test_damaged_or_hostile_files_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "made_by_pickle").exists()
    torch.save({"state_dict": Evil()}, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "b.ckpt")
    assert not (tmp_path / "made_by_pickle").exists()


def test_a_missing_checkpoint_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.ckpt"):
        read_checkpoint(tmp_path / "nowhere.ckpt")


def test_last_and_the_best_are_kept(tmp_path):
    class Scores(pl.Callback):
        scores = iter([3.0, 1.0, 4.0, 2.0, 0.5])

        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("val/score", next(self.scores))

    keeper = Checkpoints(every_steps=100, monitor="val/score", keep_best=2)
    make_trainer(tmp_path, Scores(), keeper, max_steps=10, val_check_interval=2).fit(ToyTask(), datamodule=ToyData())
    assert names(tmp_path) == ["best-step=10.ckpt", "best-step=4.ckpt", LAST]
    assert keeper.best == {"best-step=4.ckpt": 1.0, "best-step=10.ckpt": 0.5}
    assert read_checkpoint(tmp_path / "checkpoints" / "best-step=4.ckpt")["global_step"] == 4
    assert read_checkpoint(tmp_path / "checkpoints" / LAST)["global_step"] == 10


def test_an_unknown_metric_says_what_is_logged(tmp_path):
    trainer = make_trainer(tmp_path, Checkpoints(monitor="val/wer"), max_steps=2, val_check_interval=2)
    with pytest.raises(ConfigError, match="val/loss"):
        trainer.fit(ToyTask(), datamodule=ToyData())


def test_an_error_saves_where_the_run_stands(tmp_path):
    class Fail(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 5:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        make_trainer(tmp_path, Fail(), Checkpoints(), max_steps=9).fit(ToyTask(), datamodule=ToyData())
    assert read_checkpoint(tmp_path / "checkpoints" / LAST)["global_step"] == 5


def test_a_diverged_run_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path, Checkpoints(every_steps=3), max_steps=9)
    with pytest.raises(TrainingDiverged, match="not finite at step 5"):
        trainer.fit(ToyTask(poison_step=5), datamodule=ToyData())
    stored = read_checkpoint(tmp_path / "checkpoints" / LAST)
    assert stored["global_step"] == 3
    assert all(torch.isfinite(value).all() for value in stored["state_dict"].values())


def test_skipping_leaves_weights_alone_and_counts(tmp_path):
    class Copies(pl.Callback):
        weights: list[torch.Tensor] = []

        def on_train_batch_end(self, trainer, pl_module, *rest):
            self.weights.append(pl_module.network[0].weight.detach().clone())

    copies = Copies()
    task = ToyTask(poison_step=5, bad_steps=BadStepPolicy(action="skip"))
    make_trainer(tmp_path, copies, Checkpoints(), max_steps=9).fit(task, datamodule=ToyData())
    changed = [not torch.equal(a, b) for a, b in zip(copies.weights, copies.weights[1:], strict=False)]
    assert changed == [True] * 4 + [False] + [True] * 3
    assert task.bad_steps == 1 and torch.isfinite(task.network[0].weight).all()
    assert read_checkpoint(tmp_path / "checkpoints" / LAST)["genmm.bad_steps"] == {"total": 1, "in_a_row": 0}


def test_too_many_bad_steps_in_a_row_end_the_run(tmp_path):
    class Poison(ToyTask):
        def losses(self, batch, batch_idx, stage):
            terms = super().losses(batch, batch_idx, stage)
            return {**terms, "loss": terms["loss"] * float("inf")}

    task = Poison(bad_steps=BadStepPolicy(action="skip", allowed_in_a_row=3))
    with pytest.raises(TrainingDiverged, match="4 bad steps"):
        make_trainer(tmp_path, max_steps=9, enable_checkpointing=False).fit(task, datamodule=ToyData())


@pytest.mark.parametrize(("number", "stop"), [(signal.SIGINT, SystemExit), (signal.SIGTERM, SystemExit)])
def test_a_signal_stops_after_the_batch_in_work_and_saves(tmp_path, number, stop):
    class Send(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):  # in the middle of a batch
            if trainer.global_step == 4:
                os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(stop):
        make_trainer(tmp_path, Send(), Checkpoints(), max_steps=9).fit(ToyTask(), datamodule=ToyData())
    assert signal.getsignal(signal.SIGTERM) == before
    assert read_checkpoint(tmp_path / "checkpoints" / LAST)["global_step"] == 5


class AsksToStop(pl.Callback):
    """Sends SIGTERM at the start of a batch, counted from 0, and keeps how many validations ran."""

    def __init__(self, batch: int) -> None:
        self.batch, self.validations = batch, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_end(self, trainer, pl_module) -> None:
        self.validations += not trainer.sanity_checking


def stopped(folder: Path, batch: int, **options) -> AsksToStop:
    asks = AsksToStop(batch)
    with pytest.raises(SystemExit):
        make_trainer(folder, asks, Checkpoints(), max_steps=9, **options).fit(ToyTask(), datamodule=ToyData())
    return asks


@pytest.mark.parametrize(("batch", "steps"), [(4, 2), (5, 2)])
def test_a_signal_in_an_accumulation_waits_for_its_step(tmp_path, batch, steps):
    """Batches 3 to 5 make the second step; its gradient is in no checkpoint before."""
    stopped(tmp_path, batch, accumulate_grad_batches=3)
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / LAST)
    assert checkpoint["global_step"] == steps
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 3 * steps


def test_a_signal_before_a_validation_waits_for_it(tmp_path):
    asks = stopped(tmp_path, 2, val_check_interval=3)
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / LAST)
    assert asks.validations == 1 and checkpoint["global_step"] == 3
    assert list(checkpoint["callbacks"][Checkpoints.STATE_KEY]["best"]) == ["best-step=3.ckpt"]
    assert (tmp_path / "checkpoints" / "best-step=3.ckpt").is_file()


def test_a_second_signal_in_that_validation_loses_no_step(tmp_path):
    class Interrupts(pl.Callback):
        def on_validation_start(self, trainer, pl_module) -> None:
            assert read_checkpoint(tmp_path / "checkpoints" / LAST)["global_step"] == 3
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit):
        make_trainer(
            tmp_path, AsksToStop(2), Interrupts(), Checkpoints(), max_steps=9, val_check_interval=3
        ).fit(ToyTask(), datamodule=ToyData())  # fmt: skip
    assert read_checkpoint(tmp_path / "checkpoints" / LAST)["global_step"] == 3


@pytest.mark.parametrize("wrong", [{"every_steps": -1}, {"keep_best": -1}, {"every_minutes": -1.0}])
def test_bad_settings_fail_at_construction(wrong):
    with pytest.raises(ConfigError):
        Checkpoints(**wrong)
