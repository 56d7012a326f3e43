"""Data for RASL: windows from computed scenes and folders, TVSum, and the event scenes themselves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from datamodules.highlight_features import HighlightFeatures, HighlightSources
from datamodules.rendered_video import render_scene
from datamodules.rendered_video_events import FAMILIES, TEST_FAMILIES, TRAIN_FAMILIES, event_scene
from datamodules.tvsum import read_tvsum
from genmm.core.errors import ConfigError, DataError, UsageError
from genmm.systems.rasl.feature_table import FeatureTable, save_table


@pytest.mark.parametrize("family", FAMILIES)
def test_event_scenes_keep_their_promises(family):
    for seed in range(3):
        scene = event_scene(seed, family)
        assert scene == event_scene(seed, family)
        assert 40 <= scene.seconds <= 80
        assert scene.highlights
        spans = sorted((m.start_s, m.end_s) for m in scene.movers)
        assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))
        flashing = sorted((m.start_s, m.end_s) for m in scene.movers if m.flash_hz)
        assert tuple(flashing) == scene.highlights
        loud = [(s.start_s, s.end_s) for s in scene.sounds if s.level >= 0.35]
        assert set(scene.highlights) < set(loud)  # and noise without anything to see
        assert any(m.flash_hz == 0 for m in scene.movers)  # movement without a sound
    assert not set(TRAIN_FAMILIES) & set(TEST_FAMILIES)


def test_scenes_of_families_and_seeds_differ():
    assert event_scene(0, "A") != event_scene(1, "A")
    assert event_scene(0, "A") != event_scene(0, "B")
    with pytest.raises(UsageError, match="family"):
        event_scene(0, "Z")
    with pytest.raises(UsageError, match="20 s"):
        event_scene(0, "A", seconds=5)
    truth = render_scene(event_scene(0, "A", seconds=20), fps=1, side=16)[2]
    assert truth.clip_labels().any()


def table_of(seed: int, sound: bool = True) -> FeatureTable:
    rng = np.random.default_rng(seed)
    visual = rng.random((30, 304)).astype(np.float32)
    return FeatureTable(
        visual=visual,
        audio=rng.standard_normal((30, 196)).astype(np.float32) if sound else None,
        audio_valid=np.ones(30, bool) if sound else None,
        motion=visual[:, 296:],
        loudness_db=np.full(30, -20.0, np.float32) if sound else None,
        duration_s=30.0,
    )


def tables(folder, count=12, sound=True):
    for number in range(count):
        save_table(folder / f"video{number}.safetensors", table_of(number, sound))


def test_a_folder_of_tables_becomes_batches(tmp_path):
    tables(tmp_path)
    data = HighlightFeatures(HighlightSources(folder=str(tmp_path)), window=16, repeats=2, batch_size=4, drop_sound=0)
    train, val = data.videos("train"), data.videos("val")
    assert len(train) + len(val) == 12
    batch = next(iter(data.train_dataloader()))
    assert batch["visual"].shape == (4, 16, 304)
    assert batch["audio"].shape == (4, 16, 196)
    assert batch["audible"].all()
    silent = HighlightFeatures(HighlightSources(folder=str(tmp_path)), window=16, sound=False, batch_size=4)
    assert "audio" not in next(iter(silent.train_dataloader()))


def test_the_test_has_scenes_of_families_and_seeds_of_its_own(tmp_path, monkeypatch):
    made = {}

    def scenes(folder, count, *, families, seed, seconds):
        made[seed] = (count, families)
        return [SimpleNamespace(table=table_of(seed)) for _ in range(count)]

    monkeypatch.setattr("datamodules.highlight_features.rendered_tables", scenes)
    tables(tmp_path)
    sources = HighlightSources(rendered=3, rendered_validation=2, folder=str(tmp_path))
    data = HighlightFeatures(sources, window=16, repeats=1, batch_size=4, seed=5)
    sizes = {split: len(data.dataset(split)) for split in ("train", "val", "test")}
    assert made == {5: (3, TRAIN_FAMILIES), 1005: (2, TRAIN_FAMILIES), 2005: (2, TEST_FAMILIES)}
    assert sizes["train"] + sizes["val"] == 12 + 5 and sizes["test"] == 2  # the folder has no third part


def test_a_folder_alone_has_no_test_data_and_that_is_said(tmp_path):
    tables(tmp_path)
    data = HighlightFeatures(HighlightSources(folder=str(tmp_path)), window=16)
    with pytest.raises(ConfigError, match="no test data; genmm validate"):
        data.test_dataloader()


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(ConfigError, match="empty"):
        HighlightSources()
    with pytest.raises(DataError, match="no video"):
        HighlightFeatures(HighlightSources(folder=str(tmp_path))).videos("train")
    with pytest.raises(ConfigError, match="window"):
        HighlightFeatures(HighlightSources(rendered=1), window=2)


def test_tvsum_has_its_published_sizes(shared_data):
    if not (shared_data / "tvsum" / "tvsum_dev.npz").is_file():
        pytest.skip("needs tvsum/tvsum_dev.npz in the shared media folder")
    videos = read_tvsum(shared_data / "tvsum")
    assert len(videos) == 25
    assert sum(v.table.steps for v in videos) == 5951
    assert sum(len(v.annotations) for v in videos) == 2963
    assert all(v.table.visual.shape[1] == 304 and not v.table.has_sound for v in videos)
    assert videos[0].per_clip(videos[0].table.motion).shape == (len(videos[0].annotations), 8)


def test_a_missing_tvsum_says_where_it_comes_from(tmp_path):
    with pytest.raises(DataError, match="yalesong/tvsum"):
        read_tvsum(tmp_path)
    np.savez(tmp_path / "tvsum_x.npz", ids=np.array(["a"]))
    with pytest.raises(DataError, match="not a TVSum"):
        read_tvsum(tmp_path)
