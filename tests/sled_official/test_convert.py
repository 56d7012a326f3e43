"""Official folders become checkpoint folders that work, or nothing appears at all."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from genmm.core.checkpoint import load_tensors, read_config
from genmm.core.errors import CheckpointError, ConfigError, GenerationError, GenmmError, UsageError
from genmm.core.events import Progress
from genmm.systems.sled import convert
from genmm.systems.sled.convert import convert_sled, try_checkpoint
from genmm.systems.sled.encodec import EncodecLatents
from genmm.systems.sled.tokenizer import SledTokenizer


@pytest.fixture
def copies(official_folders, tmp_path):
    """Copies of the offline SLED folder and the codec folder, to be damaged."""
    official = shutil.copytree(official_folders["offline"], tmp_path / "sled")
    return official, shutil.copytree(official_folders["encodec"], tmp_path / "encodec"), tmp_path / "home" / "new"


def entries(folder):
    return sorted(os.listdir(folder)) if folder.exists() else []


@pytest.mark.parametrize("layout", ["offline", "streaming"])
def test_weights_vocabulary_and_codec_arrive_unchanged(official_folders, tmp_path, layout):
    events = []
    source, out = official_folders[layout], tmp_path / layout
    assert convert_sled(source, official_folders["encodec"], out, on_event=events.append) == out
    official = load_file(source / "model.safetensors")
    official.pop("bceloss.pos_weight")
    ours = load_tensors(out, dtype=None)
    assert official.keys() == ours.keys()
    assert all(torch.equal(official[name], ours[name]) for name in ours)
    assert SledTokenizer.from_folder(out).files() == SledTokenizer.from_folder(source).files()
    waveform = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    codecs = [EncodecLatents.from_folder(folder) for folder in (out / "codec", official_folders["encodec"])]
    assert torch.equal(*[codec.codes(waveform) for codec in codecs])
    assert events[-1] == Progress(4, 4, "steps", "done") and events[0].done == 0
    assert entries(tmp_path) == [layout]


@pytest.mark.parametrize(("layout", "stop", "turn"), [("offline", 0.8, (0, 0)), ("streaming", 0.5, (5, 45))])
def test_settings_follow_the_layout(official_folders, tmp_path, layout, stop, turn):
    convert_sled(official_folders[layout], official_folders["encodec"], tmp_path / "new", licence="MIT")
    config = read_config(tmp_path / "new")
    assert (config["system"], config["codec"], config["licence"]) == ("sled", {"kind": "encodec"}, "MIT")
    assert (config["network"]["stream_n"], config["network"]["stream_m"]) == turn
    assert config["defaults"] == {"guidance": 2.0, "stop_threshold": stop}
    assert config["network"]["diffloss_d"] == 2 and config["network"]["num_key_value_heads"] == 2


def test_both_namings_of_weight_norm_give_one_codec(official_folders, tmp_path):
    for kind in ("encodec", "encodec_old"):
        convert_sled(official_folders["offline"], official_folders[kind], tmp_path / kind)
    new, old = (load_tensors(tmp_path / kind / "codec") for kind in ("encodec", "encodec_old"))
    assert all(torch.equal(new[name], old[name]) for name in new)


def test_a_converted_folder_speaks(official_folders, tmp_path):
    convert_sled(official_folders["offline"], official_folders["encodec"], tmp_path / "new")
    samples = try_checkpoint(tmp_path / "new")
    assert samples.shape == (convert.TRIAL_FRAMES * 320,) and samples.std() > 0


def test_layout_is_asked_for_when_the_files_disagree(copies):
    official, encodec, out = copies
    (official / "tokenizer_config.json").write_text('{"padding_side": "right"}')
    with pytest.raises(ConfigError, match="--layout"):
        convert_sled(official, encodec, out)
    convert_sled(official, encodec, out, layout="streaming")
    assert read_config(out)["network"]["stream_m"] == 45


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def set_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


DAMAGE = {
    "a weight is missing": (lambda s, e: rewrite(s, lambda t: t.pop("eos_head.weight")), "eos_head.weight"),
    "a weight is unknown": (lambda s, e: rewrite(s, lambda t: t.update(extra=torch.ones(1))), "unexpected: extra"),
    "a weight has another shape": (
        lambda s, e: rewrite(s, lambda t: t.update({"z_proj.bias": torch.ones(3)})),
        r"z_proj.bias \(here \(32,\), in the file \(3,\)",
    ),
    "a weight is not a number": (lambda s, e: rewrite(s, lambda t: t["z_proj.bias"].fill_(torch.nan)), "NaN"),
    "weights overflow": (lambda s, e: rewrite(s, lambda t: t["model.norm.weight"].fill_(3e38)), "cannot speak"),
    "the file is cut": (lambda s, e: os.truncate(s / "model.safetensors", 5000), "cut short"),
    "the codec is cut": (lambda s, e: os.truncate(e / "model.safetensors", 5000), "cut short"),
    "the codec lacks a part": (
        lambda s, e: rewrite(e, lambda t: t.pop("decoder.layers.1.lstm.bias_hh_l1")),
        "decoder.layers.1.lstm.bias_hh_l1",
    ),
    "the codec is another one": (
        lambda s, e: set_config(e, model_type="dac", architectures=["Dac"]),
        "model_type is 'dac'",
    ),
    "the codec does not stream": (lambda s, e: set_config(e, norm_type="time_group_norm"), "norm_type"),
    "the network is another one": (lambda s, e: set_config(s, model_type="llama"), "speech_llama"),
    "sizes disagree": (lambda s, e: set_config(s, num_hidden_layers=3), "missing"),
    "a size is a word": (lambda s, e: set_config(s, hidden_size="big"), "hidden_size must be a whole number"),
    "the vocabulary is too large": (lambda s, e: set_config(s, vocab_size=100), "vocab|shape"),
    "the vocabulary is missing": (lambda s, e: (s / "vocab.json").unlink(), "vocab.json"),
    "the config is missing": (lambda s, e: (s / "config.json").unlink(), "config.json"),
    "the folder is missing": (lambda s, e: shutil.rmtree(s), "there is no folder"),
    "channels disagree": (lambda s, e: set_config(s, vae_embed_dim=9), "vae_embed_dim|shape"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_named_and_leave_nothing_behind(copies, damage, message):
    official, encodec, out = copies
    damage(official, encodec)
    with pytest.raises(GenmmError, match=message):
        convert_sled(official, encodec, out)
    assert entries(out.parent) == []


@pytest.mark.parametrize("which", [0, 1])
def test_pickles_are_refused_by_name(copies, which):
    (copies[which] / "model.safetensors").rename(copies[which] / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*safetensors"):
        convert_sled(*copies)


def test_the_codec_is_found_beside_the_folder_or_asked_for(copies, monkeypatch, tmp_path):
    official, encodec, out = copies
    assert convert.find_encodec(official) == encodec
    assert convert_sled(official, None, out) == out
    encodec.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"--codec"):
        convert_sled(official, None, tmp_path / "other")
    shutil.move(tmp_path / "elsewhere", official / "encodec_24khz")
    assert convert.find_encodec(official) == official / "encodec_24khz"


def test_links_of_the_hubs_cache_are_followed(copies, tmp_path):
    official, encodec, out = copies
    for folder in (official, encodec):
        blobs = tmp_path / f"blobs_{folder.name}"
        folder.rename(blobs)
        folder.mkdir()
        for file in blobs.iterdir():
            (folder / file.name).symlink_to(file)
    convert_sled(official, encodec, out)
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_what_fails_its_trial_is_not_kept(copies, monkeypatch):
    def fail(folder):
        raise GenerationError("no sound")

    monkeypatch.setattr(convert, "try_checkpoint", fail)
    with pytest.raises(GenerationError):
        convert_sled(*copies)
    assert entries(copies[2].parent) == []


def test_an_existing_folder_is_replaced_only_when_told(copies):
    official, encodec, out = copies
    convert_sled(official, encodec, out)
    (out / "mark").touch()
    with pytest.raises(UsageError, match="overwrite"):
        convert_sled(official, encodec, out)
    assert (out / "mark").exists()
    convert_sled(official, encodec, out, overwrite=True)
    assert not (out / "mark").exists() and entries(out.parent) == ["new"]
    for foreign in ("notes", "file"):
        place = out.parent / foreign
        place.write_text("mine") if foreign == "file" else (place.mkdir(), (place / "diary.txt").touch())
        with pytest.raises(UsageError):
            convert_sled(official, encodec, place, overwrite=True)
        assert place.exists()
