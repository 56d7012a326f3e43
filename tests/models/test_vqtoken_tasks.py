"""Encoder and answerer trained by their debug configurations, down to a folder that answers; the answerer can learn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import genmm
from app.train import run_training
from datamodules.sampler import Pick
from datamodules.video_qa import KINDS, VideoQuestions
from datamodules.videos import FramePairs
from genmm.core.errors import ConfigError
from genmm.nn.vit import VisionConfig, VisionTransformer
from genmm.systems.vqtoken.config import AnswererConfig, BlockConfig
from models.vit import VisionTask
from models.vqtoken import VideoAnswerTask

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "vqtoken"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("GENMM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def quiet(steps: int) -> list[str]:
    values = {"max_steps": steps, "enable_progress_bar": "false", "enable_model_summary": "false", "devices": 1}
    return [f"--trainer.{name}={value}" for name, value in {**values, "accelerator": "cpu"}.items()]


@pytest.mark.timeout(600)
def test_debug_runs_from_nothing_to_an_answer(tmp_path):
    given = ["--config", str(CONFIGS / "debug.yaml"), "--run.name", "try", "--trainer.val_check_interval=2"]
    assert run_training("fit", [*given, "--data.scenes=32", *quiet(3)]) == 0
    encoder = tmp_path / "runs" / "vqtoken" / "try" / "export"
    given = ["--config", str(CONFIGS / "answers_debug.yaml"), "--run.name", "answers", "--data.encoder", str(encoder)]
    assert run_training("fit", [*given, "--data.train_clips=8", "--data.val_clips=4", *quiet(2)]) == 0
    pipeline = genmm.load(str(tmp_path / "runs" / "vqtoken" / "answers" / "export"), device="cpu")
    frames = np.zeros((4, 48, 48, 3), np.uint8)
    frames[:, 10:30, 10:30] = 200
    reduced = pipeline.reduce(pipeline.features(frames), 4)
    assert pipeline.answer(reduced, "how many objects are there").text in pipeline.answerer.config.answers
    assert pipeline.encoder_fingerprint == genmm.load(str(encoder), device="cpu").encoder_fingerprint


@pytest.mark.parametrize("name", ["vision_demo", "demo", "paper", "debug", "answers_debug"])
def test_every_configuration_is_understood(name, capsys):
    assert run_training("fit", ["--config", str(CONFIGS / f"{name}.yaml"), "--print_config"]) == 0
    assert "class_path: models.v" in capsys.readouterr().out


def test_every_shipped_configuration_names_real_things():
    import yaml

    for name in ("demo", "answers_debug"):
        values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["init_args"]
        task = VideoAnswerTask(
            width=values["width"],
            answerer=AnswererConfig(
                **{k: tuple(v) if isinstance(v, list) else v for k, v in values["answerer"].items()}
            ),
            block=BlockConfig(**values["block"]),
            kinds=tuple(values["kinds"]),
        )
        from datamodules.video_qa import ANSWERS, WORDS

        assert task.answerer.config.words == WORDS and task.answerer.config.answers == ANSWERS and task.kinds == KINDS


def made_up_batch(clips: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Tokens of two themes; the question asks for the theme of the larger cluster."""
    generator = torch.Generator().manual_seed(seed)
    themes = F.normalize(torch.randn(4, 16, generator=generator), dim=-1)
    which = torch.randint(4, (clips, 3), generator=generator)
    index_map = torch.randint(3, (clips, 2, 4, 4), generator=generator)
    return {
        "codebook": themes[which],
        "mask": torch.ones(clips, 3, dtype=torch.bool),
        "places": torch.zeros(clips, 3, 7),
        "index_map": index_map,
        "words": torch.tensor([[[1, 2], [2, 1]]]).expand(clips, -1, -1),
        "answers": torch.stack([which[:, 0], which[:, 1]], 1) * 0 + which.max(1, keepdim=True).values,
    }


@pytest.mark.parametrize("kind", ["occupancy", "none"])
def test_block_and_answerer_learn_a_small_task(kind):
    torch.manual_seed(0)
    task = VideoAnswerTask(
        width=16,
        answerer=AnswererConfig(width=16, heads=2, latents=2, layers=1, words=("a", "b"), answers=("0", "1", "2", "3")),
        block=BlockConfig(kind=kind, heads=2, bins=2, grid=2),
        kinds=("first", "second"),
    )
    optimizer = torch.optim.Adam(task.parameters(), 5e-3)
    batch = made_up_batch(64)
    first = float(task.losses(batch, 0, "train")["loss"].detach())
    for _ in range(60):
        terms = task.losses(batch, 0, "train")
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    assert float(terms["loss"]) < 0.5 * first and {"accuracy_first", "accuracy_second"} <= set(terms)


def test_only_a_task_with_a_block_writes_a_folder(tmp_path):
    small = AnswererConfig(width=16, heads=2, latents=2, layers=1, words=("a",), answers=("b",))
    with pytest.raises(ConfigError, match="with a block"):
        VideoAnswerTask(width=16, answerer=small, block=BlockConfig(kind="none")).export(tmp_path / "x")
    with pytest.raises(ConfigError, match="words and answers"):
        VideoAnswerTask(width=16)


def test_data_that_is_clustered_otherwise_is_refused():
    small = AnswererConfig(width=16, heads=2, latents=2, layers=1, words=("a",), answers=("b",))
    task = VideoAnswerTask(width=16, answerer=small, block=BlockConfig(heads=2, clustering="k_center"))
    task.trainer = SimpleNamespace(datamodule=VideoQuestions(clustering="kmeans"), optimizers=[])
    with pytest.raises(ConfigError, match=r"data.clustering and model.block.clustering"):
        task.on_fit_start()
    with pytest.raises(ConfigError, match="kmeans, k_center"):
        VideoQuestions(clustering="ward")


# ---------------------------------------------------------------- encoder


def test_a_shifted_picture_has_shifted_features():
    """No absolute position: away from the border, moving the picture by one cell moves the features by one cell."""
    torch.manual_seed(0)
    vision = VisionTransformer(VisionConfig(width=16, depth=2, heads=2, inner=24, stem=(6, 8))).eval()
    picture = torch.rand(1, 3, 48, 48)
    moved = picture.roll(8, 3)
    with torch.no_grad():
        a, b = vision(picture), vision(moved)
    assert a.shape == (1, 6, 6, 16)
    moved_along = (a[:, 1:5, 1:4] - b[:, 1:5, 2:5]).square().mean()
    stayed = (a[:, 1:5, 1:4] - b[:, 1:5, 1:4]).square().mean()
    assert moved_along < 0.1 * stayed


def test_hidden_patches_are_the_share_asked_for_and_repeat_in_validation():
    task = VisionTask(VisionConfig(width=16, depth=1, heads=2, inner=24, stem=(6, 8)))
    frames = torch.zeros(3, 3, 32, 32)
    hidden = task._hidden(frames, "train", 0)
    assert hidden.shape == (3, 4, 4) and hidden.sum((1, 2)).tolist() == [8, 8, 8]
    assert torch.equal(task._hidden(frames, "val", 4), task._hidden(frames, "val", 4))


def test_frame_pairs_come_from_all_sources_and_repeat(tmp_path):
    data = FramePairs(data=str(tmp_path), clips=False, emoji=0, scenes=16, side=32, batch_size=4)
    pairs = data.dataset("train")
    pairs.clips, pairs.emoji = [np.random.default_rng(0).integers(0, 255, (5, 40, 60, 3), np.uint8)], []
    first, again = pairs[Pick(3, 7)], pairs[Pick(3, 7)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (3, 32, 32) and first[0].dtype == torch.uint8
    clip_pair = pairs._from_clip(0, np.random.default_rng(1))
    emoji_pair = pairs._from_emoji(np.full((64, 64, 3), 30, np.uint8), np.random.default_rng(2))
    assert all(frame.shape == (32, 32, 3) for frame in (*clip_pair, *emoji_pair))
    assert len(data.dataset("val")) == 2


def test_reduced_clips_are_made_once_and_match_their_questions(tmp_path, monkeypatch):
    data = VideoQuestions(tokens=5, train_clips=3, val_clips=2, fps=1.0, side=16, cache=str(tmp_path))
    calls = []

    def encode(frames):
        calls.append(len(frames))
        return torch.from_numpy(frames[:, ::8, ::8].astype(np.float32)) + 1.0

    data._encode, data._name = encode, "fake"
    items = data.dataset("train")
    data.dataset("train")
    assert calls == [12] and len(items) == 3
    batch = data.collate([items[Pick(n, 0)] for n in range(3)])
    assert batch["codebook"].shape == (3, 5, 3) and batch["index_map"].shape == (3, 4, 2, 2)
    assert batch["words"].shape[:2] == (3, 5) and batch["answers"].shape == (3, 5)
