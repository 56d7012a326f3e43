"""Reading published pickles without running them, and converting them; what is refused; nothing half remains."""

from __future__ import annotations

import io
import json
import os
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import genmm
from genmm.core.checkpoint import load_tensors, read_config
from genmm.core.errors import CheckpointError, ConfigError, UsageError
from genmm.systems.melodyflow.convert import convert_melodyflow
from genmm.systems.melodyflow.pickled import Record, config_tree, read_pickled

PARITY = Path(__file__).resolve().parents[1] / "parity" / "melodyflow"


def saved(value, path: Path) -> Path:
    torch.save(value, path)
    return path


def test_tensors_and_plain_containers_come_back_as_torch_would_load_them(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    value = {
        "a": OrderedDict(x=base, view=base[:, 1:3].t(), half=base.half(), brain=base.bfloat16(), whole=base.long()),
        "b": [1, 2.5, None, True, "text", (1, 2), {"deep": -7}, 2**40],
        "scalar": torch.tensor(3.5),
        "none": torch.empty(0, 4),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    path = saved(value, tmp_path / "x.bin")
    ours, theirs = read_pickled(path), torch.load(path, weights_only=True)
    assert ours["b"] == theirs["b"] and list(ours["a"]) == list(theirs["a"])
    for name in value["a"]:
        assert torch.equal(ours["a"][name], theirs["a"][name]) and ours["a"][name].dtype == theirs["a"][name].dtype
    assert torch.equal(ours["scalar"], theirs["scalar"]) and ours["none"].shape == (0, 4)
    assert torch.equal(ours["parameter"], torch.ones(2))


class Evil:
    """An object whose loading would run a command."""

    def __reduce__(self):
        return os.system, ("touch /tmp/genmm-was-here",)


@pytest.mark.parametrize("value", [{"best_state": Evil()}, [nn.Linear(1, 1)]])
def test_anything_else_is_refused_by_name_and_not_run(value, tmp_path):
    marker = Path("/tmp/genmm-was-here")
    marker.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"system|_reconstruct|Linear|getattr") as caught:
        read_pickled(saved(value, tmp_path / "evil.bin"))
    assert "nothing of it was run" in str(caught.value) and not marker.exists()


def test_saved_configuration_objects_stay_inert_records():
    content = {"transformer_lm": Record("omegaconf.dictconfig.DictConfig", (), {"_content": {
        "dim": Record("omegaconf.nodes.AnyNode", (), {"_val": 32}),
        "latent_dim": Record("omegaconf.nodes.AnyNode", (), {"_val": "${seanet.dimension}"}),
    }}), "seanet": {"dimension": 16}}  # fmt: skip
    tree = config_tree(Record("omegaconf.dictconfig.DictConfig", (), {"_content": content}))
    assert tree == {"transformer_lm": {"dim": 32, "latent_dim": 16}, "seanet": {"dimension": 16}}
    assert config_tree("a: {b: 1}\nc: ${a.b}\n") == {"a": {"b": 1}, "c": 1}
    with pytest.raises(CheckpointError, match="YAML|mapping"):
        config_tree("just text")


@pytest.mark.parametrize("damage", ["cut", "flip", "not a zip", "empty", "short storage", "outside"])
def test_damaged_files_give_an_error_and_no_crash(damage, tmp_path):
    path = saved({"x": torch.arange(6.0)}, tmp_path / "x.bin")
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "not a zip":
        path.write_bytes(b"\x80\x02}q\x00.")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        parts = {
            name: zipfile.ZipFile(io.BytesIO(data)).read(name) for name in zipfile.ZipFile(io.BytesIO(data)).namelist()
        }
        program = next(name for name in parts if name.endswith("data.pkl"))
        storage = next(name for name in parts if name.endswith("data/0"))
        if damage == "flip":
            parts[program] = parts[program][:-40] + bytes([parts[program][-40] ^ 0x7F]) + parts[program][-39:]
        elif damage == "short storage":
            parts[storage] = parts[storage][:8]
        else:  # the size of the tensor grows past its storage
            assert parts[program].count(b"K\x06") >= 2
            head, _, tail = parts[program].rpartition(b"K\x06")
            parts[program] = head + b"K\x60" + tail
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
    try:
        value = read_pickled(path)
    except CheckpointError as error:
        assert str(path) in str(error)
    else:  # a flipped byte may still be a valid file
        assert damage == "flip" and isinstance(value, dict)


def test_every_instruction_of_a_saved_model_is_known(tmp_path):
    path = saved({"s": nn.LSTM(2, 2).state_dict(), "t": {1, 2}, "f": frozenset({3})}, tmp_path / "x.bin")
    with zipfile.ZipFile(path) as archive:
        program = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    assert {code.name for code, _, _ in pickletools.genops(program)} >= {"REDUCE", "BINPERSID", "BUILD"}
    assert set(read_pickled(path)["s"]) == set(nn.LSTM(2, 2).state_dict())


# ---------------------------------------------------------------- conversion


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The two published files, made from the reference weights, and a tiny T5 beside them."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    home = tmp_path_factory.mktemp("published")
    for name, stored in (("state_dict.bin", "weights_flow_a"), ("compression_state_dict.bin", "weights_codec_a")):
        import yaml

        config = json.loads((PARITY / f"{stored}.json").read_text())["config"]
        config = {**config, "dataset": {"segment_duration": 3}}
        config.pop("cond_dim", None)
        (home / "official").mkdir(exist_ok=True)
        state = load_file(PARITY / f"{stored}.safetensors")
        torch.save({"xp.cfg": yaml.safe_dump(config), "best_state": state}, home / "official" / name)
    t5 = home / "t5-base"
    t5.mkdir()
    sizes = transformers.T5Config(d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3, vocab_size=40)
    torch.manual_seed(0)
    model = transformers.T5EncoderModel(sizes)
    (t5 / "config.json").write_text(json.dumps({**sizes.to_dict(), "model_type": "t5"}))
    save_file({name: value.contiguous() for name, value in model.state_dict().items() if "embed_tokens" not in name},
              t5 / "model.safetensors")  # fmt: skip
    words = {word: number for number, word in enumerate(["<unk>", "calm", "piano", "bpm", "</s>"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(t5 / "tokenizer.json"))
    return home


def test_converted_files_make_music_and_keep_their_numbers(published, tmp_path):
    out = convert_melodyflow(published / "official", None, tmp_path / "music", licence="CC-BY-NC-4.0")
    config = read_config(out)
    assert config["window_s"] == 3.0 and config["licence"] == "CC-BY-NC-4.0" and config["text"]["kind"] == "t5"
    official = load_file(PARITY / "weights_flow_a.safetensors")
    assert torch.equal(load_tensors(out)["transformer.rope.frequencies"], official["transformer.rope.frequencies"])
    assert torch.equal(load_tensors(out)["in_proj.weight"], official["in_proj.weight"])
    pipeline = genmm.load(str(out), device="cpu", dtype="float32")
    options = {"duration_s": 1.0, "seed": 3, "settings": {"steps": 4, "loudness_lufs": None}}
    calm, other = (pipeline.generate(text, **options) for text in ("calm piano", "piano"))
    assert calm.samples[0].shape == (2, 2400) and calm.understood[0] == "told to the model: calm piano"
    assert abs(calm.samples[0] - other.samples[0]).max() > 1e-4
    null = pipeline.generate("", **options)
    assert null.network_calls == 4 and "no description" in null.understood[0]
    again = genmm.load(str(pipeline.save(tmp_path / "again")), device="cpu", dtype="float32")
    assert abs(again.generate("calm piano", **options).samples[0] - calm.samples[0]).max() < 1e-5


def test_wrong_files_are_refused_and_nothing_remains(published, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match="text encoder is missing"):
        convert_melodyflow(tmp_path, None, out)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "compression_state_dict.bin").write_bytes(
        (published / "official" / "compression_state_dict.bin").read_bytes()
    )
    with pytest.raises(CheckpointError, match="state_dict.bin"):
        convert_melodyflow(broken, published / "t5-base", out)
    torch.save({"xp.cfg": "transformer_lm: {dim: 32, causal: true}", "best_state": {}}, broken / "state_dict.bin")
    with pytest.raises((CheckpointError, ConfigError)):
        convert_melodyflow(broken, published / "t5-base", out)
    torch.save({"xp.cfg": "a: 1", "best_state": {"x": Evil()}}, broken / "state_dict.bin")
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        convert_melodyflow(broken, published / "t5-base", out)
    assert not out.exists() and not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_an_existing_folder_is_replaced_only_when_asked(published, tmp_path):
    out = tmp_path / "music"
    convert_melodyflow(published / "official", published / "t5-base", out)
    with pytest.raises(UsageError, match="exists"):
        convert_melodyflow(published / "official", published / "t5-base", out)
    convert_melodyflow(published / "official", published / "t5-base", out, overwrite=True)


def test_the_recipe_of_pull_names_files_and_terms_and_its_converter_takes_them(published, tmp_path):
    from importlib import import_module

    from genmm.hub import find_recipe

    recipe, events = find_recipe("melodyflow"), []
    assert "NC" in recipe.sources[0].licence_note and "commercial" in recipe.title
    for source, folder in zip(recipe.sources, ("official", "t5-base"), strict=True):
        assert {path.name for path in (published / folder).iterdir()} >= set(source.files)
    module, _, name = recipe.converter.partition(":")
    origin = {source.repo: "a" * 40 for source in recipe.sources}
    out = getattr(import_module(module), name)(
        published / "official", published / "t5-base", tmp_path / "pulled", licence="cc-by-nc-4.0", origin=origin,
        overwrite=True, on_event=events.append, **recipe.options,
    )  # fmt: skip
    assert read_config(out)["origin"] == origin and [event.done for event in events] == [0, 1, 2, 3, 4]
    assert "CC BY-NC 4.0" in (out / "README.md").read_text()
