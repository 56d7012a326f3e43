"""Training of music codecs and of the flow model on the debug configurations, to an exported model that plays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import genmm
from app.train import run_training
from genmm.core.errors import ConfigError
from genmm.losses.balancer import LossBalancer
from genmm.systems.melodyflow.config import FlowConfig, SeanetConfig
from genmm.systems.melodyflow.score import GROUPS, SCORE_FEATURES
from genmm.systems.melodyflow.text import FIELDS
from genmm.systems.melodyflow.vae import SeanetCodec
from models.melodyflow import FlowObjective, MelodyFlowTask
from models.music_codec import MusicVaeTask, StereoSpectralLoss, stereo_views

ROOT = Path(__file__).resolve().parents[2]


def test_the_balancer_gives_each_loss_its_share_of_the_gradient():
    torch.manual_seed(0)
    balancer = LossBalancer({"a": 3.0, "b": 1.0}, decay=0.5)
    output = torch.randn(2, 4, requires_grad=True)
    first, second = torch.randn(2, 4), torch.randn(2, 4)
    gradient = balancer.gradient({"a": (1000.0 * output * first).sum(), "b": (0.001 * output * second).sum()}, output)
    expected = 0.75 * first / first.norm(dim=1).mean() + 0.25 * second / second.norm(dim=1).mean()
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="no weight"):
        balancer.gradient({"c": output.sum()}, output)


def test_the_stereo_loss_hears_swapped_channels_and_its_turns_cover_the_whole():
    torch.manual_seed(0)
    loss = StereoSpectralLoss(8000, lines_weight=0.0)
    left = torch.randn(1, 8192)
    sound = torch.stack((left, 0.1 * torch.randn(1, 8192)), 1)
    assert float(loss(sound, sound)) == 0.0
    assert float(loss(sound.flip(1), sound)) > 0.5
    other = 0.5 * sound
    whole = float(loss(other, sound))
    turns = np.mean([float(loss(other, sound, turn)) for turn in range(4)])
    assert turns == pytest.approx(whole, rel=1e-3)
    assert torch.equal(stereo_views(sound)[:, 3], 0.5 * (sound[:, 0] - sound[:, 1]))


def test_a_field_that_is_dropped_takes_its_frames_along():
    task = MelodyFlowTask(
        FlowConfig(dim=16, latent_dim=4, num_heads=2, num_layers=3, cond_dim=16, score_features=SCORE_FEATURES),
        objective=FlowObjective(drop_all=0.3, drop_field=0.3, drop_score=0.3),
    )
    rows = 400
    batch = {"ids": torch.ones(rows, len(FIELDS) - 1, dtype=torch.int64), "tempi": torch.full((rows,), 100.0),
             "score": torch.ones(rows, 2, SCORE_FEATURES)}  # fmt: skip
    torch.manual_seed(1)
    ids, tempi, score = task._told(batch)
    open_fields = {"tempo_bpm": tempi == 0} | {name: ids[:, n] < 0 for n, name in enumerate(FIELDS[1:])}
    for columns, fields in GROUPS:
        hidden = torch.stack([open_fields[name] for name in fields]).any(0)
        assert not score[hidden][:, :, list(columns)].any() and score[~hidden][:, :, list(columns)].any()
    nothing = (ids < 0).all(1) & (tempi == 0)
    assert 0.25 < nothing.float().mean() < 0.37 and not score[nothing].any()


def test_impossible_tasks_are_refused():
    with pytest.raises(ConfigError, match="score_features"):
        MelodyFlowTask(FlowConfig(dim=16, latent_dim=4, num_heads=2, num_layers=3, cond_dim=16, score_features=5))
    with pytest.raises(ConfigError, match="drop_all"):
        FlowObjective(drop_all=1.0)
    with pytest.raises(ConfigError, match="stereo"):
        MusicVaeTask(SeanetConfig(channels=1, n_filters=2, ratios=(2,)))


def test_the_variational_codec_trains_and_exports_plain_weights(tmp_path):
    import pytorch_lightning as pl

    config = SeanetConfig(sample_rate=8000, dimension=4, n_filters=4, ratios=(5, 4))
    task = MusicVaeTask(
        config, total_steps=3, adversarial_from=0.5, discriminator_windows=(256, 128), discriminator_width=4
    )
    before = {name: value.clone() for name, value in task.codec.named_parameters()}
    crops = torch.randn(8, 2, 4000, generator=torch.Generator().manual_seed(1)) * 0.1
    trainer = pl.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(task, torch.utils.data.DataLoader(crops, batch_size=2))
    assert int(task.step_count) == 3
    changed = [name for name, value in task.codec.named_parameters() if not torch.equal(value, before[name])]
    assert len(changed) > 0.9 * len(before)
    codec = SeanetCodec.from_folder(task.export(tmp_path / "codec"))
    with torch.no_grad():
        torch.testing.assert_close(
            codec.encode(crops[:1]).mean, task.codec.encode(crops[:1]).mean, atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize(
    "files",
    [["codec_debug"], ["codec_demo"], ["codec_paper"], ["debug"], ["demo"], ["paper"], ["paper", "paper_small"]],
    ids="+".join,
)
def test_every_configuration_is_understood_by_its_command(files, capsys):
    given = [part for name in files for part in ("--config", str(ROOT / "configs" / "melodyflow" / f"{name}.yaml"))]
    assert run_training("fit", [*given, "--print_config"]) == 0
    assert "class_path: models.m" in capsys.readouterr().out


def test_the_paper_configurations_have_the_published_sizes():
    configs = ROOT / "configs" / "melodyflow"
    network = yaml.safe_load((configs / "paper.yaml").read_text())["model"]["init_args"]["network"]
    assert FlowConfig.from_dict(network) == FlowConfig()
    codec = yaml.safe_load((configs / "codec_paper.yaml").read_text())["model"]["init_args"]["codec"]
    assert SeanetConfig.from_dict(codec) == SeanetConfig()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_debug_configurations_train_a_model_that_plays(tmp_path, monkeypatch):
    """Codec, latents, flow model, export, music: what the configurations promise, in one go."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENMM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GENMM_DATA", str(tmp_path / "no-data"))
    configs = ROOT / "configs" / "melodyflow"
    assert run_training("fit", ["--config", str(configs / "codec_debug.yaml"), "--run.name", "try"]) == 0
    assert run_training("fit", ["--config", str(configs / "debug.yaml"), "--run.name", "try"]) == 0
    pipeline = genmm.load("runs/melodyflow/try/export", device="cpu", dtype="float32")
    assert float(pipeline.network.latent_std.min()) > 0 and pipeline.window_s == 2.0
    result = pipeline.generate("calm piano, 90 bpm", duration_s=1.0, seed=1, settings={"steps": 4})
    assert result.samples[0].shape == (2, 48000)
    assert run_training("fit", ["--config", str(configs / "debug.yaml"), "--run.name", "try", "--resume",
                                "--trainer.max_steps", "10"]) == 0  # fmt: skip
