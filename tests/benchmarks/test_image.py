"""`genmm bench image` on tiny sizes."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import image_sampling
from benchmarks.run import main
from genmm.systems.tokenset.config import CountNetworkConfig, SetTokenizerConfig
from genmm.systems.tokenset.network import CountNetwork
from genmm.systems.tokenset.pipeline import TokenSetPipeline
from genmm.systems.tokenset.request import PictureSettings
from genmm.systems.tokenset.tokenizer import SetTokenizer


@pytest.fixture
def tiny_image_model(tmp_path):
    """A checkpoint folder with a tiny random image model."""
    tokenizer = SetTokenizerConfig(
        image_size=16, patch_size=8, tokens=4, codes=16, code_width=4, width=16, depth=1, heads=2, features=8,
        pixels="shuffle", pixel_channels=8, res_blocks=1, legacy_mixing=False,
    )  # fmt: skip
    network = CountNetworkConfig(codes=16, tokens=4, width=16, depth=1, heads=2, group=4, text_rows=32)
    parts = SetTokenizer(tokenizer), CountNetwork(network)
    return TokenSetPipeline(*parts, defaults=PictureSettings(steps=3)).save(tmp_path / "tiny")


def test_the_stub_is_a_distribution_whose_sum_is_the_size_of_a_set():
    log_p = image_sampling.stub_logits(3, 64, 8, 0.4)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(3, 64))
    means = (log_p.exp() @ torch.arange(9.0)).sum(-1)
    assert bool(((means > 4) & (means < 12)).all())


@pytest.mark.parametrize("only", [["sampler", "guidance", "memory", "released"]])
def test_quick_sections_have_their_rows(tmp_path, capsys, only):
    assert main(["image", "--quick", "--device", "cpu", "--only", *only, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "image.json").read_text())
    rows = {section["title"]: section["rows"] for section in report["sections"]}
    assert [row["item"] for row in rows["One step without the network"]] == ["repair step", "exact step"]
    assert [row["item"] for row in rows["One guided step"]] == ["guided repair step", "guided exact step"]
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows["Memory of one step"])
    assert len(rows["The released small size"]) == 2


def test_whole_pictures_of_a_tiny_model(tmp_path, capsys, tiny_image_model):
    given = ["--quick", "--device", "cpu", "--model", str(tiny_image_model), "--only", "whole", "encode"]
    assert main(["image", *given, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "image.json").read_text())
    assert [len(section["rows"]) for section in report["sections"]] == [5, 1]
    assert not any(section["skipped"] for section in report["sections"])
