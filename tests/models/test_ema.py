"""The weight average: its values, its warm-up, and that the right copy is used at the right moment."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file

from datamodules.toy import ToyData
from genmm.core.errors import CheckpointError, ConfigError
from models.checkpointing import VerifiedCheckpointIO
from models.ema import EMA, averaged_state
from models.toy import ToyTask


class Watcher(pl.Callback):
    """Keeps copies of the weights at interesting moments."""

    def __init__(self) -> None:
        self.after_steps: list[dict[str, torch.Tensor]] = []
        self.in_validation: list[dict[str, torch.Tensor]] = []
        self.after_validation: list[dict[str, torch.Tensor]] = []

    @staticmethod
    def copy(module: pl.LightningModule) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in module.named_parameters()}

    def on_train_batch_end(self, trainer, pl_module, *rest) -> None:
        self.after_steps.append(self.copy(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, *rest) -> None:
        self.in_validation.append(self.copy(pl_module))

    def on_validation_end(self, trainer, pl_module) -> None:
        self.after_validation.append(self.copy(pl_module))


def fit(folder: Path, *callbacks: pl.Callback, steps: int = 6, **options) -> tuple[pl.Trainer, ToyTask]:
    torch.manual_seed(0)
    task = ToyTask()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        plugins=[VerifiedCheckpointIO()],
        num_sanity_val_steps=options.pop("sanity", 0),
        val_check_interval=options.pop("every", steps),
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(task, datamodule=ToyData(), **options)
    return trainer, task


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_average_follows_its_formula_and_training_keeps_raw_weights(tmp_path):
    ema, watcher = EMA(decay=0.6, gamma=1.0, power=1.0), Watcher()
    _, task = fit(tmp_path, ema, watcher)
    expected: dict[str, torch.Tensor] = {}
    for n, weights in enumerate(watcher.after_steps):
        decay = min(0.6, 1.0 - 1.0 / (1.0 + n))  # 0, 1/2, 0.6, 0.6 ...
        expected = {name: decay * expected[name] + (1 - decay) * w if n else w for name, w in weights.items()}
    for name, value in expected.items():
        assert torch.allclose(ema.average[name], value, rtol=1e-5, atol=1e-7), name
    assert equal(watcher.in_validation[-1], ema.average)
    assert equal(watcher.after_validation[-1], watcher.after_steps[-1])
    assert equal(Watcher.copy(task), watcher.after_steps[-1])


def test_an_average_that_was_never_updated_is_never_used(tmp_path):
    watcher = Watcher()
    fit(tmp_path, EMA(start_step=100), watcher, sanity=1, every=2)
    # Weights in validation k are those after step 2 (k + 1); the first two batches are the sanity check.
    raw = [w for step in (2, 4, 6) for w in [watcher.after_steps[step - 1]] * 2]
    seen = watcher.in_validation[1:] if len(watcher.in_validation) == 7 else watcher.in_validation[2:]
    assert len(seen) == len(raw)
    assert all(equal(a, b) for a, b in zip(seen, raw, strict=True))


def test_the_checkpoint_holds_both_and_measuring_takes_the_average(tmp_path):
    ema = EMA(decay=0.9)
    trainer, task = fit(tmp_path, ema)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert equal(stored["state_dict"], Watcher.copy(task))
    assert equal(averaged_state(stored), ema.average)
    watcher, fresh = Watcher(), ToyTask()
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    measuring = pl.Trainer(accelerator="cpu", callbacks=[watcher], plugins=[VerifiedCheckpointIO()], **options)
    measuring.validate(fresh, datamodule=ToyData(), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert equal(watcher.in_validation[0], ema.average)


def test_a_save_within_a_validation_stores_the_raw_weights(tmp_path):
    class SaveInside(pl.Callback):
        def on_validation_batch_end(self, trainer, pl_module, *rest) -> None:
            trainer.save_checkpoint(tmp_path / "inside.ckpt")

    _, task = fit(tmp_path, EMA(decay=0.9), SaveInside())
    stored = torch.load(tmp_path / "inside.ckpt", weights_only=True)
    assert equal(stored["state_dict"], Watcher.copy(task))


def test_an_error_within_a_validation_leaves_the_raw_weights(tmp_path):
    class Fail(pl.Callback):
        def on_validation_batch_end(self, trainer, pl_module, *rest) -> None:
            raise RuntimeError("broken")

    ema, watcher = EMA(decay=0.9), Watcher()
    torch.manual_seed(0)
    task = ToyTask()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_steps=3, val_check_interval=3, num_sanity_val_steps=0,
        callbacks=[ema, watcher, Fail()], enable_model_summary=False, **options,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(task, datamodule=ToyData())
    assert equal(Watcher.copy(task), watcher.after_steps[-1])


def test_export_inside_averaged_writes_the_average_and_gives_the_raw_back(tmp_path):
    ema = EMA(decay=0.9)
    _, task = fit(tmp_path, ema)
    raw = Watcher.copy(task)
    with ema.averaged(task) as used:
        assert used
        task.export(tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert equal({f"network.{name}": value for name, value in written.items()}, ema.average)
    assert equal(Watcher.copy(task), raw)
    assert not equal(raw, ema.average)


def test_a_disabled_average_changes_nothing(tmp_path):
    ema, watcher = EMA(enabled=False), Watcher()
    _, task = fit(tmp_path, ema, watcher)
    assert equal(watcher.in_validation[-1], watcher.after_steps[-1])
    assert ema.average == {}


def test_an_average_of_another_model_is_refused(tmp_path):
    trainer, _ = fit(tmp_path, EMA())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    ema = EMA()
    ema.load_state_dict(torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["genmm.ema"])
    with pytest.raises(CheckpointError, match="other parameters"):
        ema.on_fit_start(trainer, torch.nn.Linear(2, 2))


@pytest.mark.parametrize("wrong", [{"decay": 1.0}, {"gamma": 0.0}, {"power": -1.0}, {"start_step": -1}])
def test_a_bad_average_fails_at_construction(wrong):
    with pytest.raises(ConfigError):
        EMA(**wrong)
