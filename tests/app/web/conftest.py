"""A page with a tiny random speech model, served in this process on 127.0.0.1, and clients of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from served import SERVED, end, serve

from genmm.core.limits import Limits

QUEUE_MAX = 3
"""Jobs that may wait on the test server."""
FILE_BYTES = 600_000
"""Largest upload of the test server."""
PATIENCE_S = 300.0
"""What takes longer hangs; a busy machine is no reason to fail."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test of the page twice that time."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(2 * PATIENCE_S))


def noise(seconds: float, sample_rate: int = 16_000) -> np.ndarray:
    """Something like a voice for the codec: noise that comes and goes, [S] float32."""
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.3 * np.sin(2 * np.pi * 3 * time_s) * np.random.default_rng(0).normal(size=len(time_s))).astype(np.float32)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights and two voices, about 0.1 MB."""
    import torch

    from genmm.systems.sled.codec import SpeechCodec, SpeechCodecConfig
    from genmm.systems.sled.config import SledConfig
    from genmm.systems.sled.network import SledNetwork
    from genmm.systems.sled.pipeline import SledPipeline
    from genmm.systems.sled.request import SpeechSettings
    from genmm.systems.sled.tokenizer import train_bpe
    from genmm.systems.sled.voice import encode_voice

    torch.manual_seed(0)
    codec = SpeechCodec(
        SpeechCodecConfig(
            channels=4,
            mel_bands=20,
            encoder_width=8,
            encoder_latent_width=8,
            encoder_depth=1,
            encoder_latent_depth=1,
            decoder_width=16,
            decoder_latent_depth=1,
            decoder_depth=1,
        )
    ).eval()
    tokenizer = train_bpe(["one two three", "four five six"], 270)
    network = SledNetwork(
        SledConfig(
            vocab_size=tokenizer.vocab_size,
            max_position_embeddings=8192,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            vae_embed_dim=4,
            diffloss_d=1,
            diffloss_w=16,
            noise_channels=4,
            voice_channels=8,
        )
    ).eval()
    with torch.no_grad():
        for parameter in network.scoreloss.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    voices = {
        name: encode_voice(noise(2.0), 16_000, codec, name=name, transcript="one two") for name in ("anna", "ben")
    }
    pipeline = SledPipeline(
        network,
        codec,
        tokenizer,
        defaults=SpeechSettings(voice="ben"),
        voices=voices,
        about={"licence": "CC0-1.0", "description": "random weights for tests"},
    )
    return pipeline.save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def page(model_folder: Path) -> Iterator[str]:
    """Address of a running page; its parts are in `server`."""
    from app.web.main import build
    from app.web.settings import WebSettings

    settings = WebSettings(
        port=0, model=str(model_folder), device="cpu", queue_max=QUEUE_MAX, limits=Limits(file_bytes=FILE_BYTES)
    )
    demo = build(settings)
    yield serve(demo)
    end(demo)


@pytest.fixture(scope="session")
def server(page: str):
    """The parts that all visitors of `page` share."""
    return SERVED[page].genmm_server


@pytest.fixture
def connect(page: str, tmp_path: Path) -> Iterator[Callable]:
    """Makes clients; each is a session of its own."""
    from gradio_client import Client

    clients = []

    def make() -> Client:
        folder = tmp_path / f"client{len(clients)}"
        client = Client(page, verbose=False, download_files=folder, httpx_kwargs={"timeout": 60})
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two seconds of sound in a wav file."""
    from genmm.media.audio import write_audio

    path = tmp_path / "voice.wav"
    write_audio(path, noise(2.0), 16_000)
    return path


@pytest.fixture
def until() -> Callable[..., None]:
    """Waits for a condition: `until(lambda: ..., "what")`."""

    def wait(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"waited {timeout_s:g} s for {what}; threads: {threading.enumerate()}"
            time.sleep(0.02)

    return wait
