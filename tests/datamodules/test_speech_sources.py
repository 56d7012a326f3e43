"""Speech corpora, synthetic texts and compositions, on media made here."""

import csv
import io
import os
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.demo_voices import choose
from datamodules.sampler import Pick
from datamodules.speech_corpora import Utterance, is_held_out, read_corpus, spoken_style
from datamodules.speech_latents import (
    CompositionPlan,
    Compositions,
    SpeechLatentData,
    compose,
    edges_of_speech,
)
from datamodules.speech_store import ArrayStore, SpeechSources, waveform_store
from datamodules.speech_synthesis import random_text, synthesise
from genmm.core.errors import ConfigError, DataError
from genmm.systems.sled.codec import SpeechCodec, SpeechCodecConfig

RATE = 16000


def tone(seconds: float, pitch: float = 220.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * RATE)) / RATE)


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """A folder with a small corpus in the layout of speech_callie."""
    folder = tmp_path / "data" / "speech_callie"
    folder.mkdir(parents=True)
    texts = ["To accept, press 1.", "D", "...", "Please try again.", "Welcome to the conference."] * 3
    with open(folder / "metadata.tsv", "w", newline="") as table, tarfile.open(folder / "audio.tar", "w") as archive:
        writer = csv.writer(table, delimiter="\t", quoting=csv.QUOTE_NONE)
        writer.writerow(["file", "speaker", "section", "seconds", "text"])
        for place, text in enumerate(texts):
            writer.writerow([f"{place}.flac", "callie", "ascii" if len(text) == 1 else "ivr", "0.5", text])
            buffer = io.BytesIO()
            soundfile.write(buffer, tone(0.4 + 0.02 * place), RATE, format="FLAC")
            member = tarfile.TarInfo(f"{place}.flac")
            member.size = len(buffer.getvalue())
            buffer.seek(0)
            archive.addfile(member, buffer)
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("To accept, press 1. To reject, press 2.", " to accept, press one. to reject, press two."),
        ("...last name...", " last name."),
        ("Is it you?", " is it you?"),
        ("A dog and B", " a dog and B."),
        ("it\u2019s", " it's."),
    ],
)
def test_transcripts_come_in_one_style(text, expected):
    assert spoken_style(text) == expected


def test_spelled_letters_become_capitals():
    assert spoken_style("a b seven", spell_single_letters=True) == " A B seven."


def test_a_corpus_is_read_with_text_speaker_and_split(data_folder):
    utterances = list(read_corpus(data_folder, "speech_callie", 8000))
    assert len(utterances) == 12  # rows without a word are skipped
    assert {one.text for one in utterances} >= {" D.", " to accept, press one."}
    assert all(one.waveform.dtype == np.int16 and abs(one.waveform).max() > 8000 for one in utterances)
    assert len(utterances[0].waveform) == pytest.approx(0.4 * 8000, abs=2)
    same_text = {one.split for one in utterances if one.text == " please try again."}
    assert len(same_text) == 1  # one sentence is never in both parts


def test_a_missing_or_unknown_corpus_is_named(tmp_path):
    with pytest.raises(DataError, match="GENMM_DATA"):
        list(read_corpus(tmp_path, "speech_callie", RATE))
    with pytest.raises(DataError, match="speech_an4"):
        list(read_corpus(tmp_path, "nothing", RATE))


def test_the_held_out_part_has_about_its_share_and_never_changes():
    share = np.mean([is_held_out(f"speaker-{i}", 0.12) for i in range(4000)])
    assert share == pytest.approx(0.12, abs=0.02)
    assert is_held_out("an4-x", 1.0) and not is_held_out("an4-x", 0.0)


def test_random_texts_follow_from_the_seed_and_use_the_style():
    texts = [random_text(random.Random(f"7/{i}"), [" please hold."]) for i in range(300)]
    assert texts == [random_text(random.Random(f"7/{i}"), [" please hold."]) for i in range(300)]
    assert all("{" not in text and text.strip() for text in texts)
    assert len(set(texts)) > 200


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_synthetic_speech_is_made_again_from_its_seed():
    first, second = (list(synthesise(3, seed=5, sample_rate=RATE)) for _ in range(2))
    assert [one.text for one in first] == [one.text for one in second]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.waveform, other.waveform)
        assert len(one.waveform) > 0.1 * RATE and one.speaker.startswith("espeak-")


def test_the_stored_set_is_built_once_and_a_damaged_one_is_named(data_folder, tmp_path, monkeypatch):
    sources = SpeechSources(corpora=("speech_callie",))
    store = waveform_store(sources, root=data_folder, cache=tmp_path / "cache")
    monkeypatch.setattr("datamodules.speech_store.read_corpus", None)  # from here on everything comes from the cache
    again = waveform_store(sources, root=data_folder, cache=tmp_path / "cache")
    assert len(store) == len(again) == 12
    np.testing.assert_array_equal(store[3], again[3])
    folder = next((tmp_path / "cache").iterdir())
    (folder / "values.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match="delete that folder"):
        ArrayStore.open(folder)


def test_a_replaced_corpus_is_read_again(data_folder, tmp_path):
    sources, folder = SpeechSources(corpora=("speech_callie",)), data_folder / "speech_callie"
    first = sources.fingerprint(data_folder)
    assert sources.fingerprint(data_folder) == first
    store = waveform_store(sources, root=data_folder, cache=tmp_path / "cache")
    table, state = (folder / "metadata.tsv").read_bytes(), (folder / "metadata.tsv").stat()
    (folder / "metadata.tsv").write_bytes(table.replace(b"Please try again.", b"Please try again!"))
    os.utime(folder / "metadata.tsv", ns=(state.st_atime_ns, state.st_mtime_ns))  # as a copy with its times would be
    again = waveform_store(sources, root=data_folder, cache=tmp_path / "cache")
    assert {row["text"] for row in again.table} - {row["text"] for row in store.table} == {" please try again!"}
    second = sources.fingerprint(data_folder)
    (folder / "audio.tar").touch()
    assert len({first, second, sources.fingerprint(data_folder)}) == 3


def test_a_corpus_that_is_gone_is_named_although_it_was_stored(data_folder, tmp_path):
    sources = SpeechSources(corpora=("speech_callie",))
    waveform_store(sources, root=data_folder, cache=tmp_path / "cache")
    with pytest.raises(DataError, match="GENMM_DATA"):
        waveform_store(sources, root=tmp_path / "nowhere", cache=tmp_path / "cache")


def test_the_edges_of_speech_keep_a_margin():
    waveform = np.concatenate([np.zeros(RATE), tone(1.0), np.zeros(RATE)]) * 32767
    found = edges_of_speech(waveform.astype(np.int16), RATE, margin_s=0.1)
    assert found.start == pytest.approx(0.9 * RATE, abs=400) and found.stop == pytest.approx(2.1 * RATE, abs=400)
    assert edges_of_speech(np.zeros(100, np.int16), RATE) == slice(0, 100)


def store_of(speakers: dict[str, tuple[str, int]]) -> ArrayStore:
    """Utterances of ten frames with two channels: speaker -> (corpus, number)."""
    rows = [
        {"key": f"{name}-{i}", "text": f" {name} {i}.", "speaker": name, "corpus": corpus, "split": "train"}
        for name, (corpus, count) in speakers.items()
        for i in range(count)
    ]
    values = np.arange(len(rows) * 20, dtype=np.float16).reshape(-1, 2)
    return ArrayStore(values, np.arange(len(rows) + 1) * 10, rows)


def test_compositions_keep_to_one_speaker_and_to_the_shares():
    store = store_of({"a": ("real", 16), "b": ("real", 4), "c": ("synthetic", 9)})
    plan = CompositionPlan(items=3000, shares={"synthetic": 0.25}, parts=(0.5, 0.5), max_frames=20)
    compositions = compose(store, "train", plan, seed=1)
    assert compositions == compose(store, "train", plan, seed=1)
    voices = [{store.table[i]["speaker"] for i in parts} for parts in compositions]
    assert all(len(own) == 1 for own in voices)
    share = {name: np.mean([own == {name} for own in voices]) for name in "abc"}
    assert share["c"] == pytest.approx(0.25, abs=0.03)
    assert share["a"] / share["b"] == pytest.approx(2.0, rel=0.2)  # square roots of 16 and 4
    assert np.mean([len(parts) == 2 for parts in compositions]) == pytest.approx(0.5, abs=0.05)


def test_the_voice_of_an_item_comes_from_other_utterances():
    store = store_of({"a": ("real", 6)})
    data = Compositions(store, "train", CompositionPlan(items=50, parts=(1.0,)), seed=2)
    for index in range(20):
        item = data[Pick(index, 99)]
        own = torch.from_numpy(store[data.compositions[index][0]].astype(np.float32)).mean(0)
        assert not torch.allclose(item.voice[:2], own)
        assert "".join(text for text, _ in item.parts) == item.text


def test_bad_plans_are_refused():
    with pytest.raises(ConfigError, match="add up to 1"):
        CompositionPlan(parts=(0.5, 0.2))
    with pytest.raises(ConfigError, match="at most 1"):
        CompositionPlan(shares={"a": 0.8, "b": 0.4})


def test_batches_hold_what_the_task_reads(data_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GENMM_DATA", str(data_folder))
    monkeypatch.setenv("GENMM_HOME", str(tmp_path / "home"))
    sizes = {"encoder_width": 8, "encoder_latent_width": 8, "decoder_width": 8, "channels": 4}
    SpeechCodec(SpeechCodecConfig(**sizes)).save(tmp_path / "codec")
    data = SpeechLatentData(str(tmp_path / "codec"), ["speech_callie"], synthetic=0, vocab_size=280, pad_frames_to=8,
                            plan=CompositionPlan(items=12), batch_size=4)  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    rows, frames = batch["latents"].shape[:2]
    assert frames % 8 == 0 and batch["path"].shape == batch["frame_mask"].shape == (rows, frames)
    assert batch["ids"].shape == batch["text_mask"].shape and batch["voice"].shape == (rows, 8)
    assert (batch["ids"][:, -1] == 2).all()  # padded on the left: </s> is last
    last = batch["frame_mask"].sum(1) - 1
    tokens = batch["text_mask"].sum(1)
    assert (batch["path"].gather(1, last[:, None])[:, 0] < tokens).all()
    with pytest.raises(ConfigError, match="no test data; genmm validate"):
        data.test_dataloader()


def test_a_demo_voice_takes_a_few_longer_utterances():
    def utterance(seconds: float) -> Utterance:
        waveform = np.zeros(int(seconds * RATE), np.int16)
        return Utterance(key="k", waveform=waveform, text=" x.", speaker="s", corpus="c", split="train")

    chosen = choose([utterance(s) for s in (0.5, 3.0, 4.0, 9.0, 4.0, 5.0)], RATE)
    assert [len(one.waveform) / RATE for one in chosen] == [3.0, 4.0, 4.0]


def test_speed_copies_are_new_voices_of_the_training_part_alone(data_folder):
    plain = SpeechSources(corpora=("speech_callie",))
    varied = SpeechSources(corpora=("speech_callie",), speeds=(0.8, 1.25))
    before, after = list(plain.read(data_folder)), list(varied.read(data_folder))
    train = [one for one in before if one.split == "train"]
    assert train and len(after) == len(before) + 2 * len(train)
    assert {one.split for one in after if "@" in one.speaker} == {"train"}
    assert {one.speaker for one in after} == {"callie", "callie@0.8", "callie@1.25"}
    slow = next(one for one in after if one.key == f"{train[0].key}@0.8")
    assert slow.text == train[0].text
    assert len(slow.waveform) == pytest.approx(len(train[0].waveform) / 0.8, abs=2)
    spectrum = np.abs(np.fft.rfft(slow.waveform, RATE))  # bins of 1 Hz
    assert np.argmax(spectrum) == pytest.approx(0.8 * 220, abs=3)
    assert plain.fingerprint(data_folder) != varied.fingerprint(data_folder)


@pytest.mark.parametrize("speed", [1.0, 0.1, 3.0])
def test_speeds_that_make_no_voice_are_refused(speed):
    with pytest.raises(ConfigError, match="speeds"):
        SpeechSources(speeds=(speed,))
