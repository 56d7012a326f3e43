"""LibriHeavy-style manifests: what is read, what is filtered, what is cached."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.manifest_index import Cut, ManifestIndex
from datamodules.manifest_speech import LatentCache, ManifestSpeech, precompute, read_cut
from datamodules.spoken_letters import byte_tokenizer, untrained_codec
from genmm.core.errors import ConfigError, DataError
from genmm.systems.sled.encodec import EncodecConfig, EncodecLatents

RATE = 16000


def line(name: str, start: float, duration: float, text: str = "Two words.", source: str = "book/a.flac") -> str:
    said = {"id": name, "text": text, "speaker": "7", "custom": {"texts": ["other"]}}
    recording = {"id": "a", "sources": [{"type": "file", "channels": [0], "source": source}], "sampling_rate": RATE}
    cut = {"id": name, "start": start, "duration": duration, "channel": 0, "supervisions": [said]}
    return json.dumps({**cut, "recording": recording})


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A recording of 10 s whose sample k is k / 2 ** 15 modulo 1, a manifest, a codec, a tokenizer."""
    (tmp_path / "audio" / "book").mkdir(parents=True)
    ramp = (np.arange(10 * RATE) % 8192 / 16384).astype(np.float32)
    soundfile.write(tmp_path / "audio" / "book" / "a.flac", ramp, RATE)
    lines = [line(f"cut-{i}", i * 0.5, 0.4 + 0.1 * i) for i in range(8)]
    lines.insert(3, line("gone", 0.0, 1.0, source="book/missing.flac"))
    lines.insert(5, line("long", 0.0, 9.0))
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n\n")
    untrained_codec(6).save(tmp_path / "codec")
    byte_tokenizer().save(tmp_path / "text")
    return tmp_path


def make_data(corpus: Path, **changes) -> ManifestSpeech:
    options = {"codec": str(corpus / "codec"), "tokenizer": str(corpus / "text"), "max_positions": 120, "workers": 0}
    folders = {"audio_root": str(corpus / "audio"), "cache": str(corpus / "cache")}
    return ManifestSpeech(**{"train": [str(corpus / "train.jsonl")], "batch_size": 3, **options, **folders, **changes})


def test_cuts_are_filtered_by_length_and_by_their_recording(corpus):
    data = make_data(corpus)
    data.setup("fit")
    cuts = data.dataset("train")
    assert [cuts.cut(i).id for i in range(len(cuts))] == [f"cut-{i}" for i in range(8)]
    tokens = len("Two words.") + 2
    assert cuts.lengths.tolist() == [int(25 * (0.4 + 0.1 * i)) + tokens for i in range(8)]


def test_batches_fit_the_training_task(corpus):
    data = make_data(corpus)
    data.setup("fit")
    for batch in data.train_dataloader():
        assert batch["ids"][:, -1].eq(2).all() and batch["ids"].shape == batch["text_mask"].shape
        assert batch["latents"].shape[:2] == batch["frame_mask"].shape and batch["latents"].shape[2] == 6
        assert torch.isfinite(batch["latents"]).all() and "voice" not in batch
    streaming = make_data(corpus, streaming=True, batch_size=8)
    streaming.setup("fit")
    assert next(iter(streaming.train_dataloader()))["ids"][:, 0].eq(0).all()


def test_only_the_part_of_the_cut_is_read_and_resampled(corpus):
    cut = Cut.parse(line("x", 2.25, 0.5), corpus / "audio")
    sound = read_cut(cut, RATE)
    expected = np.arange(36000, 44000) % 8192 / 16384
    assert np.allclose(sound.numpy(), expected, atol=1e-4)
    assert len(read_cut(cut, 24000)) == 12000
    with pytest.raises(DataError, match="past the end"):
        read_cut(Cut.parse(line("x", 9.0, 3.0), corpus / "audio"), RATE)
    with pytest.raises(DataError, match="cannot be read"):
        read_cut(Cut.parse(line("x", 1.0, 1.0, source="none.flac"), corpus / "audio"), RATE)


def test_latents_are_encoded_once_and_equal_the_codec_alone(corpus, monkeypatch):
    data = make_data(corpus)
    data.setup("fit")
    cuts = data.dataset("train")
    cut = cuts.cut(3)
    expected = data.codec.encode(read_cut(cut, RATE)[None])[0]
    assert torch.allclose(data.latents.get(cut), expected, atol=2e-3, rtol=2e-3)  # kept as float16
    assert precompute(cuts, "cpu", batch_size=3) == 7
    for place in range(len(cuts)):
        alone = data.codec.encode(read_cut(cuts.cut(place), RATE)[None])[0]
        assert torch.allclose(data.latents.get(cuts.cut(place)), alone, atol=2e-3, rtol=2e-3)
    monkeypatch.setattr(type(data.codec), "encode", None)  # from here on everything comes from the disk
    assert len(list(data.train_dataloader())) == 3
    data.latents.path(cut).write_bytes(b"torn")
    with pytest.raises(DataError, match="delete the file"):
        data.latents.get(cut)


def test_a_replaced_recording_or_a_moved_cut_is_encoded_again(corpus):
    data = make_data(corpus)
    data.setup("fit")
    audio, cut = corpus / "audio" / "book" / "a.flac", Cut.parse(line("x", 1.0, 0.7), corpus / "audio")
    first, kept = data.latents.get(cut), data.latents.path(cut)
    assert data.latents.path(cut) == kept and kept.is_file()
    moved = Cut.parse(line("x", 2.0, 0.7), corpus / "audio")  # the same id in a changed manifest
    expected = data.codec.encode(read_cut(moved, RATE)[None])[0]
    assert torch.allclose(data.latents.get(moved), expected, atol=2e-3, rtol=2e-3)
    noise = 0.3 * np.random.default_rng(0).standard_normal(10 * RATE)
    soundfile.write(audio, noise, RATE)
    expected = data.codec.encode(read_cut(cut, RATE)[None])[0]
    assert torch.allclose(data.latents.get(cut), expected, atol=2e-3, rtol=2e-3)
    assert not torch.allclose(first, expected, atol=0.1) and data.latents.path(cut) != kept
    audio.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        data.latents.get(cut)


def test_encodec_is_kept_as_codes_and_comes_back_exactly(corpus):
    sizes = {"upsampling_ratios": (8, 5, 4, 2), "num_filters": 2, "codebook_size": 8, "hidden_size": 4}
    torch.manual_seed(0)
    codec = EncodecLatents(EncodecConfig(**sizes)).eval()
    for parameter in [*codec.parameters(), *codec.buffers()]:
        torch.nn.init.normal_(parameter.data, std=0.3)
    cache, cut = LatentCache(corpus / "codes", codec), Cut.parse(line("x", 1.0, 0.7), corpus / "audio")
    assert torch.equal(cache.get(cut), codec.encode(read_cut(cut, codec.sample_rate)[None])[0])
    assert np.load(cache.path(cut)).dtype == np.int16


def test_a_packed_manifest_gives_the_same_cuts(corpus):
    packed = corpus / "train.jsonl.gz"
    packed.write_bytes(gzip.compress((corpus / "train.jsonl").read_bytes()))
    both = make_data(corpus, train=[str(corpus / "train.jsonl"), str(packed)])
    both.setup("fit")
    cuts = both.dataset("train")
    assert len(cuts) == 16 and cuts.cut(2) == cuts.cut(10)
    packed.write_bytes(packed.read_bytes()[:60])
    torn = make_data(corpus, train=[str(packed)])
    torn.setup("fit")
    with pytest.raises(DataError, match="cannot be unpacked"):
        torn.dataset("train")


def test_the_index_is_kept_and_made_anew_when_the_manifest_changes(corpus, monkeypatch):
    def index() -> ManifestIndex:
        options = {"audio_root": corpus / "audio", "frame_rate": 25.0, "max_positions": 120, "cache": corpus / "i"}
        return ManifestIndex.open(corpus / "train.jsonl", tokenizer=byte_tokenizer(), **options)

    first = index()
    monkeypatch.setattr("datamodules.manifest_index.scan", None)
    assert np.array_equal(index().offsets, first.offsets)
    monkeypatch.undo()
    with (corpus / "train.jsonl").open("a") as stream:
        stream.write(line("new", 0.0, 0.5) + "\n")
    assert len(index()) == len(first) + 1


@pytest.mark.parametrize(
    "bad",
    [
        "not json",
        "[]",
        "{}",
        line("x", -1.0, 1.0),
        line("x", 0.0, 0.0),
        line("x", 0.0, float("nan")),
        line("x", 0.0, 1.0).replace('"id": "x", "start"', '"id": 3, "start"'),
        json.dumps({"id": "x", "duration": 1, "supervisions": []}),
    ],
)
def test_a_bad_line_is_named_with_its_number(corpus, bad):
    (corpus / "bad.jsonl").write_text(f"{line('ok', 0.0, 1.0)}\n{bad}\n")
    data = make_data(corpus, train=[str(corpus / "bad.jsonl")])
    data.setup("fit")
    with pytest.raises(DataError, match="line 2"):
        data.dataset("train")


def test_missing_and_empty_manifests_say_so(corpus):
    data = make_data(corpus, train=[str(corpus / "none.jsonl")])
    data.setup("fit")
    with pytest.raises(DataError, match="no manifest"):
        data.dataset("train")
    (corpus / "empty.jsonl").write_text("\n")
    data = make_data(corpus, train=[str(corpus / "empty.jsonl")])
    data.setup("fit")
    with pytest.raises(DataError, match="no usable cut"):
        data.dataset("train")
    with pytest.raises(ConfigError, match="at least one manifest"):
        make_data(corpus, train=[])
