"""Trains a task that steps its optimizers by hand in two processes; `python ranks_script.py TASK FOLDER`.

Each process has data of its own. Written is how far the weights moved and how far those of the processes are apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from genmm.systems.melodyflow.config import SeanetConfig
from genmm.systems.melodyflow.spectral_codec import SpectralCodecConfig
from genmm.systems.sled.codec import SpeechCodecConfig
from genmm.systems.tokenset.config import SetTokenizerConfig
from models.audio_codec import SpeechCodecTask
from models.image_tokenizer import SetTokenizerTask
from models.music_codec import MusicCodecTask, MusicVaeTask

STEPS = 4


def task_of(name: str) -> tuple[pl.LightningModule, torch.Tensor]:
    """A tiny task and its examples."""
    judged = {"total_steps": STEPS, "adversarial_from": 0.5}
    depths = {"encoder_depth": 1, "latent_depth": 1, "decoder_depth": 1}
    if name == "speech":
        widths = {"encoder_width": 8, "encoder_latent_width": 8, "decoder_width": 8, "channels": 4}
        depths = {"encoder_depth": 1, "encoder_latent_depth": 1, "decoder_latent_depth": 1, "decoder_depth": 1}
        return SpeechCodecTask(SpeechCodecConfig(**widths, **depths), **judged), torch.randn(16, 10240)
    if name == "music":
        widths = {"channels": 4, "width": 8, "latent_width": 8, "mel_bands": 24, "onset_bands": 8}
        return MusicCodecTask(SpectralCodecConfig(**widths, **depths), **judged), torch.randn(16, 2, 19200)
    if name == "vae":
        sizes = SeanetConfig(sample_rate=8000, dimension=4, n_filters=4, ratios=(5, 4))
        judges = {"discriminator_windows": (256, 128), "discriminator_width": 4}
        return MusicVaeTask(sizes, **judged, **judges), torch.randn(16, 2, 4000)
    widths = {"width": 16, "depth": 1, "heads": 2, "features": 8, "pixel_channels": 8, "codes": 16, "code_width": 4}
    sizes = {"image_size": 16, "patch_size": 8, "tokens": 4, "sizes": (2, 4)}
    tokenizer = SetTokenizerConfig(**sizes, **widths, pixels="shuffle", legacy_mixing=False)
    return SetTokenizerTask(tokenizer, continuous_until=0.0, adversarial_from=0.5), torch.rand(16, 3, 16, 16) * 2 - 1


class Compared(pl.Callback):
    """Writes moved.json at the end: largest change of a weight and largest difference between the processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer, pl_module) -> None:
        self.before = torch.cat([p.detach().flatten().clone() for p in pl_module.parameters()])

    def on_train_end(self, trainer, pl_module) -> None:
        weights = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        both = [torch.empty_like(weights) for _ in range(2)]
        torch.distributed.all_gather(both, weights)
        if trainer.is_global_zero:
            moved, apart = (weights - self.before).abs().max(), (both[0] - both[1]).abs().max()
            values = {"moved": float(moved), "apart": float(apart), "processes": trainer.world_size}
            (self.folder / "moved.json").write_text(json.dumps(values))


def main(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    task, items = task_of(name)
    loader = DataLoader([{"image": x} for x in items] if name == "set" else items, batch_size=2)
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true", max_steps=2 * STEPS,
                         logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, default_root_dir=folder, callbacks=[Compared(folder)])  # fmt: skip
    trainer.fit(task, loader)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
