"""SigLIP from a folder of transformers as the encoder of a pipeline: a tiny one with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genmm.core.errors import CheckpointError, UsageError
from genmm.media.video import write_video
from genmm.nn.vit import VisionConfig
from genmm.systems.vqtoken.config import FrameConfig, VqTokenConfig
from genmm.systems.vqtoken.encoders import SiglipEncoder, siglip_pixels
from genmm.systems.vqtoken.pipeline import VqTokenPipeline
from genmm.systems.vqtoken.search import VideoIndex, query_set

transformers = pytest.importorskip("transformers")
SIZES = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56,
    "patch_size": 14,
}  # fmt: skip


@pytest.fixture(scope="module", params=["vision", "whole"])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    if request.param == "vision":
        model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES))
    else:
        text = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
                "vocab_size": 50, "max_position_embeddings": 8}  # fmt: skip
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=SIZES))
    model.save_pretrained(path)
    return path


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 40, 60, 3), dtype=np.uint8)


def test_features_are_those_before_the_last_layer(folder, frames):
    encoder = SiglipEncoder.from_folder(folder)
    seen = encoder(frames)
    assert seen.shape == (10, 4, 4, 24) and encoder.width == 24 and not seen.requires_grad
    model = transformers.SiglipVisionModel.from_pretrained(folder).eval()
    pixels = siglip_pixels(torch.as_tensor(frames), 56, next(model.parameters()))
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(seen.flatten(1, 2), expected, atol=1e-5, rtol=1e-4)


def test_the_fingerprint_sees_every_sign_and_place(folder):
    encoder = SiglipEncoder.from_folder(folder)
    before, weight = encoder.fingerprint, next(p for p in encoder.parameters() if p.ndim == 2)
    kept = weight.detach().clone()
    for changed in (-kept, kept.flip(0)):
        weight.data.copy_(changed)
        assert encoder.fingerprint != before
    weight.data.copy_(kept)
    assert encoder.fingerprint == before == SiglipEncoder.from_folder(folder).fingerprint


def test_a_pipeline_tokenizes_and_searches_with_it(folder, frames, tmp_path):
    config = VqTokenConfig(vision=VisionConfig(width=16, depth=1, heads=2, inner=16), frames=FrameConfig(side=32))
    pipeline = VqTokenPipeline.fresh(config)
    film = write_video(tmp_path / "film.mp4", list(frames), 4, preset="ultrafast")
    index = VideoIndex.open(tmp_path / "index", pipeline.encoder_fingerprint, create=True)
    index.add(pipeline, film)
    pipeline.use_encoder(SiglipEncoder.from_folder(folder))
    made = pipeline.tokenize(film, tokens=5)
    assert made.tokens == 5 and made.reduced.codebook.shape == (1, 5, 24) and made.map.shape[1:] == (4, 4)
    with pytest.raises(UsageError, match="another model"):
        VideoIndex.open(tmp_path / "index", pipeline.encoder_fingerprint)
    own = VideoIndex.open(tmp_path / "own", pipeline.encoder_fingerprint, create=True)
    own.add(pipeline, film)
    assert own.search(query_set(pipeline, film))[0].score > 0.9


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="config.json is missing"):
        SiglipEncoder.from_folder(tmp_path)
