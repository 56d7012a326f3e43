"""A tiny untrained video model, and videos of moving shapes written for the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.rendered_video import Background, Mover, Scene, Shot, render_scene
from datamodules.video_qa import ANSWERS, WORDS
from genmm.media.video import write_video
from genmm.nn.vit import VisionConfig
from genmm.systems.vqtoken.config import AnswererConfig, BlockConfig, FrameConfig, VqTokenConfig
from genmm.systems.vqtoken.pipeline import VqTokenPipeline


@pytest.fixture(scope="session")
def tiny_config() -> VqTokenConfig:
    return VqTokenConfig(
        vision=VisionConfig(width=16, depth=1, heads=2, inner=24, stem=(6, 8)),
        frames=FrameConfig(fps=4.0, side=64, most_frames=8),
        block=BlockConfig(heads=2, bins=4, grid=3),
        answerer=AnswererConfig(width=16, heads=2, latents=2, layers=1, tokens=6, words=WORDS, answers=ANSWERS),
    )


@pytest.fixture(scope="session")
def pipeline(tiny_config: VqTokenConfig) -> VqTokenPipeline:
    torch.manual_seed(0)
    made = VqTokenPipeline.fresh(tiny_config, name="tiny")
    made._modules.eval().requires_grad_(False)
    return made


def moving_shape(seconds: float = 1.5, colour: str = "red", ground: str = "grey", motion: str = "right") -> np.ndarray:
    """Frames [T, 64, 96, 3] uint8 at 8 a second."""
    mover = Mover(shape="circle", colour=colour, place=(0.2, 0.5), size=0.4, motion=motion, speed=0.5 / seconds)
    shot = Shot(background=Background(kind="stripes", colour=ground))
    frames, _, _ = render_scene(Scene(seconds=seconds, shots=(shot,), movers=(mover,)), fps=8, side=(64, 96))
    return frames


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.5 s with a red circle."""
    path = tmp_path_factory.mktemp("clips") / "red.mp4"
    write_video(path, moving_shape(), 8, preset="ultrafast")
    return path


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s: three windows of the tiny model."""
    path = tmp_path_factory.mktemp("clips") / "long.mp4"
    write_video(path, moving_shape(6.0, "yellow", "blue"), 8, preset="ultrafast")
    return path
