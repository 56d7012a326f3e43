"""The index: exact similarities, the right clip and moment, incremental and whole after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.rendered_video import Background, Mover, Scene, Shot, render_scene
from genmm.core.errors import DataError, MediaError, UsageError
from genmm.core.events import Progress
from genmm.media.image import write_image
from genmm.media.video import read_video, write_video
from genmm.systems.vqtoken.encoders import FunctionEncoder
from genmm.systems.vqtoken.pipeline import VqTokenPipeline
from genmm.systems.vqtoken.search import MomentSet, VideoIndex, moment_sets, query_set, set_similarity

PAIRS = (("red", "grey"), ("yellow", "blue"), ("white", "green"), ("cyan", "brown"))


def colour_features(frames: np.ndarray) -> torch.Tensor:
    """Mean colour of 8 x 8 blocks, and its products: enough to tell coloured shapes apart."""
    t, h, w, _ = frames.shape
    blocks = frames[:, : h // 8 * 8, : w // 8 * 8].reshape(t, h // 8, 8, w // 8, 8, 3).mean((2, 4)) / 128.0 - 1.0
    products = np.concatenate([blocks, blocks[..., :1] * blocks[..., 1:2], blocks**2 - 0.3], -1)
    return torch.from_numpy(products.astype(np.float32))


def scene(colour: str, ground: str, seconds: float = 2.0) -> np.ndarray:
    mover = Mover(shape="square", colour=colour, place=(0.3, 0.5), size=0.5, motion="right", speed=0.2)
    shots = (Shot(background=Background(colour=ground)),)
    return render_scene(Scene(seconds=seconds, shots=shots, movers=(mover,)), fps=4, side=64)[0]


@pytest.fixture(scope="module")
def eyes(tiny_config) -> VqTokenPipeline:
    return VqTokenPipeline.fresh(tiny_config).use_encoder(FunctionEncoder(colour_features, 7, "colours"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for colour, ground in PAIRS:
        paths.append(folder / f"{colour}.mp4")
        write_video(paths[-1], scene(colour, ground), 4, preset="ultrafast")
    return paths


@pytest.fixture
def index(eyes, videos, tmp_path) -> VideoIndex:
    index = VideoIndex.open(tmp_path / "index", eyes.encoder_fingerprint, create=True)
    for path in videos:
        assert index.add(eyes, path, tokens=6, moment_s=1.0)
    return index


def test_scores_are_the_definition(index, eyes, videos):
    query = query_set(eyes, videos[1], tokens=5)
    stored = index._load()
    hits = index.search(query, top=8, per_video=8)
    expected = []
    for number in range(8):
        rows = stored["moment"] == number
        one = MomentSet(stored["tokens"][rows], stored["weights"][rows])
        expected.append(set_similarity(query, one, stored["centre"]))
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_a_changed_copy_finds_its_original(index, eyes, videos, tmp_path):
    for number, path in enumerate(videos):
        frames = read_video(path, sound=False).frames[::-1, 4:60, 8:, :]
        changed = (frames * 0.85 + 12).astype(np.uint8)
        write_video(tmp_path / f"{number}.mp4", changed, 4, preset="ultrafast")
        assert Path(index.search(query_set(eyes, tmp_path / f"{number}.mp4"))[0].video) == path


def test_a_frame_finds_its_moment(eyes, tmp_path):
    path = tmp_path / "two.mp4"
    write_video(path, np.concatenate([scene("red", "grey"), scene("yellow", "blue")]), 4, preset="ultrafast")
    index = VideoIndex.open(tmp_path / "index", eyes.encoder_fingerprint, create=True)
    index.add(eyes, path, moment_s=1.0)
    write_image(tmp_path / "frame.png", scene("yellow", "blue")[2])
    hit = index.search(query_set(eyes, tmp_path / "frame.png"))[0]
    assert hit.start_s >= 2.0 and hit.end_s - hit.start_s == pytest.approx(1.0)


def test_a_moment_of_the_index_is_found_by_its_time(index, eyes, videos):
    for at_s, start_s in ((0.0, 0.0), (0.9, 0.0), (1.0, 1.0), (99.0, 1.0)):
        own = index.moment_at(videos[2], at_s)
        assert (own.start_s, own.end_s) == (start_s, start_s + 1.0)
        best = index.search(own)[0]
        assert (Path(best.video), best.start_s, best.score) == (videos[2], start_s, pytest.approx(1.0, abs=1e-3))
    with pytest.raises(UsageError, match="not in the index"):
        index.moment_at("none.mp4", 0.0)


def test_moments_cover_the_video_without_gaps(eyes, videos):
    sets = list(moment_sets(eyes, videos[0], moment_s=0.75))
    assert [s.start_s for s in sets] == pytest.approx([0.0, 0.75, 1.5])
    assert all(float(s.weights.sum()) == pytest.approx(1.0) for s in sets)
    for moment_s, starts in ((0.9, [0.0, 1.0]), (1.5, [0.0])):  # half a second at the end is no moment of 1.5 s
        sets = list(moment_sets(eyes, videos[0], moment_s=moment_s))
        assert [s.start_s for s in sets] == pytest.approx(starts)
        assert [s.end_s for s in sets] == pytest.approx([*starts[1:], 2.0])
    assert len(list(moment_sets(eyes, videos[0], moment_s=0.01))) == 8


def test_no_moment_ends_behind_its_video(eyes, tmp_path):
    path = write_video(tmp_path / "odd.mp4", np.concatenate([scene("red", "grey")] * 2)[:13], 6, preset="ultrafast")
    length_s = 13 / 6  # seen at 0, 1/4 ... 2 s, so the last frame would be shown until 2.25 s
    for moment_s in (0.5, 2.0):
        sets = list(moment_sets(eyes, path, moment_s=moment_s))
        assert sets[-1].end_s == pytest.approx(length_s, abs=0.01)
    assert query_set(eyes, path).end_s == pytest.approx(length_s, abs=0.01)


def test_a_query_tells_its_progress_and_notes(eyes, videos):
    events, notes = [], []
    query_set(eyes, videos[0], on_event=events.append, on_notes=notes.append)
    assert isinstance(events[0], Progress) and notes == [()]


def test_adding_again_costs_nothing_and_a_changed_file_is_read_anew(index, eyes, videos, tmp_path):
    assert not index.add(eyes, videos[0], tokens=6, moment_s=1.0)
    path = tmp_path / "new.mp4"
    path.write_bytes(videos[0].read_bytes())
    assert index.add(eyes, path, tokens=6, moment_s=1.0)
    files = set(index.folder.glob("*.safetensors"))
    write_video(path, scene("pink", "black"), 4, preset="ultrafast")
    assert index.add(eyes, path, tokens=6, moment_s=1.0)
    assert len(index) == 5 and len(set(index.folder.glob("*.safetensors")) - files) == 1
    assert len(list(index.folder.glob("*.safetensors"))) == 5


def test_the_index_survives_closing_and_removing(index, eyes, videos):
    again = VideoIndex.open(index.folder, eyes.encoder_fingerprint)
    query = query_set(eyes, videos[2])
    assert again.search(query) == index.search(query)
    assert again.remove(videos[2]) and not again.remove(videos[2])
    assert str(videos[2]) not in {hit.video for hit in VideoIndex.open(index.folder).search(query, top=3)}


def test_two_who_add_lose_nothing(index, eyes, videos, tmp_path):
    other = VideoIndex.open(index.folder, eyes.encoder_fingerprint)
    for number, one in enumerate((index, other)):
        path = tmp_path / f"more{number}.mp4"
        write_video(path, scene("pink", "black", 1.0 + number), 4, preset="ultrafast")
        one.add(eyes, path)
    assert len(VideoIndex.open(index.folder)) == 6


def test_an_interrupted_add_leaves_the_index_as_it_was(index, eyes, videos, tmp_path, monkeypatch):
    path = tmp_path / "more.mp4"
    write_video(path, scene("pink", "black"), 4, preset="ultrafast")
    full = "genmm.systems.vqtoken.index_table.write_json"
    monkeypatch.setattr(full, lambda path, value: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        index.add(eyes, path)
    assert len(VideoIndex.open(index.folder)) == 4


def test_wrong_indexes_are_refused(index, tmp_path):
    with pytest.raises(UsageError, match="no index"):
        VideoIndex.open(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="another model"):
        VideoIndex.open(index.folder, "someone-else")
    (index.folder / "index.json").write_text('{"version": 1}')
    with pytest.raises(DataError, match='no index of videos: it lacks "encoder", "videos"; name another folder'):
        VideoIndex.open(index.folder)
    for text in ("[1]", '{"version": 1, "encoder": "x", "videos": [{"path": "a.mp4"}]}', '{"name": "package"}'):
        (index.folder / "index.json").write_text(text)
        with pytest.raises(DataError, match="no index of videos: it lacks"):
            VideoIndex.open(index.folder)
    (index.folder / "index.json").write_text('{"version": 2}')
    with pytest.raises(DataError, match="has version 2"):
        VideoIndex.open(index.folder)
    empty = VideoIndex.open(tmp_path / "empty", "x", create=True)
    with pytest.raises(UsageError, match="empty"):
        empty.search(MomentSet(torch.ones(1, 7), torch.ones(1)))


@pytest.mark.parametrize("damage", ["names", "offsets", "weights", "spans", "bytes", "gone"])
def test_a_damaged_file_of_tokens_is_named_with_its_video_and_made_again(index, eyes, videos, damage):
    entry = index.entries[0]
    file = index.folder / f"{entry.id}.safetensors"
    stored = load_file(file)
    changed = {
        "names": {"foo": torch.ones(3)},
        "offsets": {**stored, "offsets": 3 * stored["offsets"]},
        "weights": {**stored, "weights": stored["weights"][:-1].contiguous()},
        "spans": {**stored, "spans": stored["spans"][:, :1].contiguous()},
    }
    if damage == "bytes":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "gone":
        file.unlink()
    else:
        save_file(changed[damage], file)
    query = query_set(eyes, videos[1], tokens=6)
    with pytest.raises(DataError, match="damaged|lost") as error:
        VideoIndex.open(index.folder, eyes.encoder_fingerprint).search(query)
    assert f"genmm index add {entry.path} --index {index.folder}" in str(error.value)
    assert VideoIndex.open(index.folder, eyes.encoder_fingerprint).add(eyes, entry.path, tokens=6, moment_s=1.0)
    again = VideoIndex.open(index.folder, eyes.encoder_fingerprint)
    assert len(again) == 4 and again.search(query, top=9)
    assert not again.add(eyes, entry.path, tokens=6, moment_s=1.0)


def test_tokens_of_different_widths_are_refused(index, eyes, videos):
    file = index.folder / f"{index.entries[0].id}.safetensors"
    stored = load_file(file)
    save_file({**stored, "tokens": stored["tokens"][:, :5].contiguous()}, file)
    with pytest.raises(DataError, match=r"widths \[5, 7\]"):
        VideoIndex.open(index.folder, eyes.encoder_fingerprint).search(query_set(eyes, videos[1], tokens=6))


def test_a_reader_follows_what_another_process_changes(index, eyes, videos, tmp_path):
    reader = VideoIndex.open(index.folder, eyes.encoder_fingerprint)
    query = query_set(eyes, videos[1], tokens=6)
    assert reader.search(query, top=1)[0].video == str(videos[1].resolve())
    index.add(eyes, videos[0], tokens=5, moment_s=1.0)  # anew, so its file has another name
    index.remove(videos[2])
    fresh = VideoIndex(index.folder, eyes.encoder_fingerprint, reader.entries)
    found = fresh.search(query, top=9)
    assert found[0].video == str(videos[1].resolve()) and str(videos[2].resolve()) not in {hit.video for hit in found}


def test_a_query_without_any_feature_is_explained(tiny_config, tmp_path):
    blind = FunctionEncoder(lambda frames: torch.zeros(len(frames), 2, 2, 7), 7, "colours")
    blind = VqTokenPipeline.fresh(tiny_config).use_encoder(blind)
    picture = write_image(tmp_path / "black.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(MediaError, match="usable feature"):
        query_set(blind, picture)


def test_no_query_and_no_length_of_moments_but_real_ones(index, eyes, videos):
    for name, value in (("top", 0), ("per_video", -1)):
        with pytest.raises(UsageError, match=f"{name} must be at least 1, got {value}"):
            index.search(MomentSet(torch.ones(1, 7), torch.ones(1)), **{name: value})
    with pytest.raises(UsageError, match="no token"):
        index.search(MomentSet(torch.zeros(0, 7), torch.zeros(0)))
    for length in (0.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="longer than 0 s"):
            list(moment_sets(eyes, videos[0], moment_s=length))


@pytest.mark.parametrize(
    "change", [{"id": "../model/model"}, {"id": 7}, {"path": 3}, {"moments": "many"}, {"bytes": -1}, {"tokens": True}]
)
def test_an_index_that_somebody_else_has_written_names_no_files(index, videos, tmp_path, change):
    (tmp_path / "model").mkdir()
    precious = tmp_path / "model" / "model.safetensors"
    precious.write_bytes(b"weights")
    table = json.loads((index.folder / "index.json").read_text())
    table["videos"][0] |= change
    (index.folder / "index.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match="does not write"):
        VideoIndex.open(index.folder)
    with pytest.raises(DataError):
        index.remove(videos[0])
    assert precious.read_bytes() == b"weights"


def test_writers_that_opened_the_index_together_leave_no_file_behind(eyes, videos, tmp_path):
    first, second = (VideoIndex.open(tmp_path / "i", eyes.encoder_fingerprint, create=True) for _ in range(2))
    assert first.add(eyes, videos[0], tokens=8) and second.add(eyes, videos[0], tokens=16)
    assert len(list((tmp_path / "i").glob("*.safetensors"))) == len(VideoIndex.open(tmp_path / "i")) == 1
    assert first.remove(videos[0]) and not second.remove(videos[0])
    assert list((tmp_path / "i").glob("*.safetensors")) == []


def test_a_file_that_has_gone_is_named_and_made_again(index, eyes, videos):
    query = query_set(eyes, videos[1], tokens=6)
    (index.folder / f"{index.entries[0].id}.safetensors").unlink()
    with pytest.raises(DataError, match="genmm index add"):
        VideoIndex.open(index.folder).search(query)
    assert index.add(eyes, videos[0], tokens=6, moment_s=1.0)
    assert len(VideoIndex.open(index.folder).search(query, top=9)) > 3


def test_features_that_do_not_fit_are_refused_before_anything_is_written(tiny_config, videos, tmp_path):
    loud = FunctionEncoder(lambda frames: 1e6 * torch.randn(len(frames), 2, 2, 7), 7, "loud")
    pipeline = VqTokenPipeline.fresh(tiny_config).use_encoder(loud)
    index = VideoIndex.open(tmp_path / "i", pipeline.encoder_fingerprint, create=True)
    with pytest.raises(UsageError, match="float16"):
        index.add(pipeline, videos[0])
    assert not (tmp_path / "i").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_video_is_read(eyes, videos, monkeypatch):
    monkeypatch.setattr(eyes, "tokenize", None)
    index = VideoIndex.open("/proc/index", eyes.encoder_fingerprint, create=True)
    with pytest.raises(UsageError, match="cannot be written"):
        index.add(eyes, videos[0])
