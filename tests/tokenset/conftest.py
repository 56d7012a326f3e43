"""A tiny image model with random weights, and pictures to feed it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genmm.systems.tokenset.config import CountNetworkConfig, SetTokenizerConfig
from genmm.systems.tokenset.network import CountNetwork
from genmm.systems.tokenset.pipeline import TokenSetPipeline
from genmm.systems.tokenset.request import PictureSettings
from genmm.systems.tokenset.tokenizer import SetTokenizer

SIDE, CODES, TOKENS = 16, 32, 8


def tiny_tokenizer() -> SetTokenizer:
    torch.manual_seed(0)
    config = SetTokenizerConfig(
        image_size=SIDE, patch_size=4, tokens=2 * TOKENS, sizes=(4, TOKENS, 2 * TOKENS), codes=CODES, code_width=4,
        width=32, depth=2, heads=2, features=8, pixels="shuffle", pixel_channels=8, res_blocks=1, legacy_mixing=False,
    )  # fmt: skip
    tokenizer = SetTokenizer(config).eval().requires_grad_(False)
    tokenizer.quantize.embedding.weight.normal_()
    for parameter in tokenizer.parameters():
        parameter.mul_(1.5)
    return tokenizer


def tiny_network(**changes) -> CountNetwork:
    torch.manual_seed(1)
    labels = {"style": ("noto", "twemoji"), "group": ("flags", "objects", "symbols")}
    sizes = {"codes": CODES, "tokens": TOKENS, "width": 32, "depth": 2, "heads": 2, "group": 4, "text_rows": 64}
    network = CountNetwork(CountNetworkConfig(**{**sizes, "labels": labels, **changes})).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():  # a new network ignores its condition; this one does not
        if "adaLN" in name or name.startswith("final_layer.linear.weight"):
            parameter.normal_(std=0.2)
    return network


@pytest.fixture(scope="session")
def pipeline() -> TokenSetPipeline:
    return TokenSetPipeline(tiny_tokenizer(), tiny_network(), defaults=PictureSettings(steps=4), name="tiny")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, pipeline: TokenSetPipeline) -> Path:
    return pipeline.save(tmp_path_factory.mktemp("models") / "tiny-image")


@pytest.fixture
def picture() -> np.ndarray:
    """Colourful shapes, [24, 32, 3] uint8."""
    rng = np.random.default_rng(0)
    drawn = np.full((24, 32, 3), 255, np.uint8)
    drawn[4:16, 6:20] = rng.integers(0, 255, 3)
    drawn[10:20, 14:28] = rng.integers(0, 255, 3)
    return drawn


@pytest.fixture
def tiny_parts():
    """Makers of the tiny network and tokenizer, for other sizes."""
    return tiny_network, tiny_tokenizer
