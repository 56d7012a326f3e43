"""Data for RASL: windows from computed scenes and folders, TVSum, and the event scenes themselves."""

from __future__ import annotations

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


def tables(folder, count=12, sound=True):
    rng = np.random.default_rng(0)
    for number in range(count):
        visual = rng.random((30, 304)).astype(np.float32)
        audio = rng.standard_normal((30, 196)).astype(np.float32) if sound else None
        table = FeatureTable(
            visual=visual,
            audio=audio,
            audio_valid=np.ones(30, bool) if sound else None,
            motion=visual[:, 296:],
            loudness_db=np.full(30, -20.0, np.float32) if sound else None,
            duration_s=30.0,
        )
        save_table(folder / f"video{number}.safetensors", table)


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
