"""A rendered video with known highlights, a tiny network, and feature tables made of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genmm.systems.rasl.feature_table import FeatureTable


def event_scene():
    """Twenty seconds: a cut at 10 s, an event from 4 to 8 s, silent movement from 13 to 16 s, noise at 17 s."""
    from datamodules.rendered_video import Background, Mover, Scene, Shot, Sound

    return Scene(
        seconds=20.0,
        shots=(
            Shot(background=Background(kind="noise", colour="grey")),
            Shot(background=Background(kind="checks", colour="blue"), start_s=10.0),
        ),
        movers=(
            Mover(shape="star", colour="red", start_s=4.0, end_s=8.0, size=0.5, flash_hz=2.0, pulse_hz=1.0),
            Mover(shape="bar", colour="cyan", start_s=13.0, end_s=16.0, motion="left", speed=1.0, bounces=True),
        ),
        sounds=(
            Sound(kind="hum", level=0.05, pitch_hz=300),
            Sound(kind="clap", start_s=4.0, end_s=8.0, level=0.6),
            Sound(kind="noise", start_s=17.0, end_s=19.0, level=0.5, pitch_hz=0),
        ),
        highlights=((4.0, 8.0),),
    )


@pytest.fixture(scope="session")
def rendered():
    """Frames, samples and truth of the scene at 10 frames a second."""
    from datamodules.rendered_video import render_scene

    return render_scene(event_scene(), fps=10, side=(96, 128), sample_rate=16_000)


@pytest.fixture(scope="session")
def event_video(rendered, tmp_path_factory) -> Path:
    """The scene as an mp4 file with sound."""
    from genmm.media.video_write import write_video

    frames, samples, _ = rendered
    path = tmp_path_factory.mktemp("footage") / "event.mp4"
    return write_video(path, frames, 10.0, audio=(samples, 16_000), preset="ultrafast")


@pytest.fixture(scope="session")
def silent_video(rendered, tmp_path_factory) -> Path:
    """The first half of the scene without sound."""
    from genmm.media.video_write import write_video

    path = tmp_path_factory.mktemp("silent") / "silent.mp4"
    return write_video(path, rendered[0][:100], 10.0, preset="ultrafast")


def noise_table(steps: int = 30, seed: int = 0, sound: bool = True, cuts: tuple[float, ...] = ()) -> FeatureTable:
    """Features of the right sizes that mean nothing."""
    rng = np.random.default_rng(seed)
    visual = rng.random((steps, 304)).astype(np.float32)
    audio = rng.standard_normal((steps, 196)).astype(np.float32) if sound else None
    return FeatureTable(
        visual=visual,
        audio=audio,
        audio_valid=np.ones(steps, bool) if sound else None,
        motion=visual[:, 296:],
        loudness_db=rng.uniform(-30, -10, steps).astype(np.float32) if sound else None,
        duration_s=float(steps),
        cuts_s=cuts,
        source="noise.mp4",
        info={"fps": 25.0, "width": 64, "height": 48},
    )


@pytest.fixture
def make_table():
    """Makes tables of noise."""
    return noise_table


def tiny_network(**sizes):
    import torch

    from genmm.systems.rasl.config import RaslConfig
    from genmm.systems.rasl.network import RaslNetwork

    torch.manual_seed(0)
    config = {"width": 16, "projection": 8, "layers": 1, "heads": 2, "window": 16, "top_channels": 4} | sizes
    return RaslNetwork(RaslConfig(**config)).eval()


@pytest.fixture
def network():
    """Makes networks with random weights of about ten thousand numbers."""
    return tiny_network


@pytest.fixture(scope="session")
def pipeline():
    """A pipeline with a tiny random network."""
    from genmm.systems.rasl.pipeline import RaslPipeline

    return RaslPipeline(tiny_network(), name="tiny", about={"licence": "CC0-1.0"})
