"""Published weights: read as data, converted whole or not at all."""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

import genmm
from genmm.core.errors import CheckpointError, UsageError
from genmm.hub import plan_pull
from genmm.systems.tokenset.archive import Inert, read_archive, stored_tensors
from genmm.systems.tokenset.config import CountNetworkConfig, SetTokenizerConfig
from genmm.systems.tokenset.convert import convert_tokenset
from genmm.systems.tokenset.network import CountNetwork
from genmm.systems.tokenset.official import CLASS_TABLE, from_official, network_config_of, tokenizer_config_of
from genmm.systems.tokenset.tokenizer import SetTokenizer


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The two files as the authors' code would write them, tiny: attention heads are 64 wide there."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published")
    tokenizer = SetTokenizer(
        SetTokenizerConfig(
            image_size=16, patch_size=4, tokens=8, codes=16, code_width=4, width=64, depth=1, heads=1, features=8,
            pixel_channels=32, channel_mult=(1, 1, 2), res_blocks=1,
        )
    )  # fmt: skip
    torch.save(tokenizer.state_dict(), folder / "set_tokenizer_128_4096.pth")
    labels = {"class": tuple(str(number) for number in range(5))}
    network = CountNetwork(
        CountNetworkConfig(codes=16, tokens=8, width=64, depth=1, heads=1, labels=labels, count_rows=17)
    )
    network.final_layer.linear.weight.data.normal_()
    names = dict([CLASS_TABLE[::-1]])
    weights = {names.get(name, name): tensor for name, tensor in network.state_dict().items()}
    other = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    optimizer = torch.optim.AdamW(network.parameters()).state_dict()
    whole = {"model": other, "ema": weights, "opt": optimizer, "args": argparse.Namespace(lr=1e-4, model="DiT1D-S")}
    torch.save(whole, folder / "fsdd_small_128_4096.pth")
    return folder, tokenizer.eval(), network.eval()


def test_a_torch_file_is_read_as_data(published):
    folder, _, network = published
    whole = read_archive(folder / "fsdd_small_128_4096.pth")
    assert whole["args"] == {"lr": 1e-4, "model": "DiT1D-S"}
    stored = stored_tensors(whole["ema"], folder / "fsdd_small_128_4096.pth")
    tensors = from_official({name: one.load() for name, one in stored.items()})
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensors[name], tensor)


def test_views_and_all_number_formats(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    values = {
        "view": base[1:3, ::2], "turned": base.T, "half": base.half(), "b": base.bfloat16(), "i": base.long(),
        "flag": base > 3, "scalar": torch.tensor(2.5), "none": torch.empty(0, 3), "p": torch.nn.Parameter(base),
    }  # fmt: skip
    torch.save(collections.OrderedDict(values), tmp_path / "x.pth")
    stored = stored_tensors(read_archive(tmp_path / "x.pth"), tmp_path / "x.pth")
    for name, tensor in values.items():
        assert torch.equal(stored[name].load(), tensor.detach()), name


class Hostile:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/genmm-was-here",)


def test_hostile_files_do_nothing(tmp_path):
    from pathlib import Path

    torch.save({"model": Hostile(), "a": torch.zeros(1)}, tmp_path / "bad.pth")
    whole = read_archive(tmp_path / "bad.pth")
    assert isinstance(whole["model"], Inert)
    assert not Path("/tmp/genmm-was-here").exists()
    for name, content in (("text.pth", b"no archive"), ("old.pth", pickle.dumps({"a": 1})), ("empty.pth", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            read_archive(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "odd.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}q\x00(U\x01aK")
    with pytest.raises(CheckpointError, match="damaged"):
        read_archive(tmp_path / "odd.pth")


def test_tensors_that_reach_outside_are_refused(tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive, zipfile.ZipFile(tmp_path / "cut.pth", "w") as cut:
        for name in archive.namelist():
            data = archive.read(name)
            cut.writestr(name, data[:8] if "/data/" in name else data)
    stored = stored_tensors(read_archive(tmp_path / "cut.pth"), tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match="outside"):
        stored["a"].load()


def test_published_files_become_a_model(published, tmp_path):
    folder, tokenizer, network = published
    out = convert_tokenset(folder, tmp_path / "model", licence="test")
    pipeline = genmm.load(out, device="cpu")
    assert pipeline.info["labels"]["class"] == ["0", "1", "2", "3", "4"]
    counts = torch.zeros(1, 16, dtype=torch.int64)
    counts[0, :8] = 1
    t = torch.tensor([0.3])
    assert torch.equal(pipeline.network(counts, t), network(counts, t))
    picture = np.full((16, 16, 3), 90, np.uint8)
    images = torch.full((1, 3, 16, 16), 90 / 127.5 - 1)
    assert sorted(tokenizer.encode(images)[0].tolist()) == list(pipeline.tokenize([picture])[0])
    result = pipeline.generate("3", seed=1, settings={"steps": 3})
    assert len(result.sets[0]) == 8
    with pytest.raises(UsageError, match="exists"):
        convert_tokenset(folder, out)
    assert convert_tokenset(folder, out, overwrite=True) == out


def test_a_tokenizer_alone_and_missing_files(published, tmp_path):
    folder, *_ = published
    alone = tmp_path / "alone"
    alone.mkdir()
    with pytest.raises(CheckpointError, match="Google Drive"):
        convert_tokenset(alone, tmp_path / "out")
    (alone / "set_tokenizer_128_4096.pth").write_bytes((folder / "set_tokenizer_128_4096.pth").read_bytes())
    pipeline = genmm.load(convert_tokenset(alone, tmp_path / "out"), device="cpu")
    with pytest.raises(UsageError, match="tokenizer alone"):
        pipeline.generate("3")
    with pytest.raises(CheckpointError, match="fsdd_base"):
        convert_tokenset(folder, tmp_path / "base", size="base")
    (alone / "set_tokenizer_128_4096.pth").write_bytes((folder / "fsdd_small_128_4096.pth").read_bytes())
    with pytest.raises(CheckpointError, match="no released TokenSet tokenizer"):
        convert_tokenset(alone, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_the_published_names_and_shapes_fit(parity_dirs):
    """Every tensor of the three published files, by name and shape, is one of ours, and none is missing."""
    manifests = [path for folder in parity_dirs for path in folder.rglob("official_state_dict_manifest.json")]
    manifests = [path for path in manifests if "tokenset" in path.parts]
    if not manifests:
        pytest.skip("needs the list of published names: put the reference cases at ../shared/parity")
    files = json.loads(manifests[0].read_text())["files"]
    for name, shapes in files.items():
        tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        with torch.device("meta"):
            if name.startswith("set_tokenizer"):
                own = SetTokenizer(tokenizer_config_of(tensors)).state_dict()
            else:
                own, tensors = CountNetwork(network_config_of(tensors)).state_dict(), from_official(tensors)
        assert {key: tuple(value.shape) for key, value in own.items()} == {
            key: tuple(value.shape) for key, value in tensors.items()
        }


def test_pulling_says_where_the_weights_are():
    with pytest.raises(UsageError, match="genmm convert tokenset"):
        plan_pull("tokenset")
