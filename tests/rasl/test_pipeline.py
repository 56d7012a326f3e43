"""Highlights end to end: settings, folders, files that are read back, reels that match their segments."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import genmm
from genmm.core.errors import CheckpointError, DataError, UsageError
from genmm.core.events import Finished, Progress
from genmm.core.results import read_recipe
from genmm.media.video import probe, read_video
from genmm.systems.rasl.extraction import extract_features
from genmm.systems.rasl.extractors import CallableExtractor
from genmm.systems.rasl.pipeline import RaslPipeline
from genmm.systems.rasl.request import HighlightSettings
from genmm.systems.rasl.result import SCHEMA, read_highlights


@pytest.fixture(scope="module")
def result(pipeline, event_video):
    """Highlights of the rendered video by movement and loudness."""
    return pipeline.highlights(event_video, seconds=4.0, scorer="heuristic")


def test_the_loud_moving_event_is_found(result):
    best = max(result.segments, key=lambda s: s.score)
    assert best.start_s < 8.0 and best.end_s > 4.0
    assert result.seconds <= 4.0 + 1e-6
    assert result.scores.shape == (10,)
    assert result.times_s[-1, 1] == pytest.approx(20.0, abs=0.05)


def test_modalities_give_separate_curves(pipeline, event_video):
    table = extract_features(event_video)
    both = pipeline.score(table, {"modality": "av"})
    only = pipeline.score(table, {"modality": "v"})
    assert set(both.raw) == {"v", "a", "av"}
    np.testing.assert_array_equal(both.curves["v"], only.scores)
    assert not np.array_equal(both.scores, only.scores)


def test_a_checkpoint_folder_comes_back(pipeline, event_video, tmp_path):
    folder = pipeline.save(tmp_path / "model")
    again = genmm.load(folder, device="cpu")
    table = extract_features(event_video)
    np.testing.assert_allclose(again.score(table).scores, pipeline.score(table).scores, atol=1e-6)
    assert again.model["name"] == "model"
    assert again.info["parameters"] == sum(p.numel() for p in pipeline.network.parameters())
    half = genmm.load(pipeline.save(tmp_path / "half", dtype=torch.float16), device="cpu")
    rank = np.corrcoef(half.score(table).scores, pipeline.score(table).scores)[0, 1]
    assert rank > 0.99


def test_checkpoints_that_do_not_fit_are_refused(pipeline, tmp_path):
    folder = pipeline.save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "extractor": "clip-vit"}))
    with pytest.raises(CheckpointError, match="clip-vit"):
        RaslPipeline.from_folder(folder, device="cpu")
    with pytest.raises(CheckpointError, match="extractor"):
        RaslPipeline(pipeline.network, extractor=CallableExtractor(lambda p: p, 3))
    with pytest.raises(UsageError, match="no weights"):
        RaslPipeline.heuristic().save(tmp_path / "h")
    with pytest.raises(UsageError, match="no model"):
        RaslPipeline.heuristic()._scorer("model", 0.0)


def test_events_and_their_end(pipeline, event_video):
    events = list(pipeline.events(event_video, count=2))
    assert isinstance(events[0], Progress)
    assert isinstance(events[-1], Finished)
    assert len(events[-1].result.segments) <= 2


def test_settings_are_checked_before_anything_is_read(pipeline):
    with pytest.raises(UsageError, match="modality"):
        pipeline.highlights("no such file.mp4", modality="both")
    with pytest.raises(UsageError, match="unknown setting"):
        pipeline.highlights("no such file.mp4", settings={"length": 3})


# ---------------------------------------------------------------- files


def test_json_reads_back(result, tmp_path):
    path = result.save_json(tmp_path / "h.json")
    value = read_highlights(path)
    assert value["schema"] == SCHEMA
    spans = [(s["start_s"], s["end_s"]) for s in value["segments"]]
    assert spans == [(round(s.start_s, 6), round(s.end_s, 6)) for s in result.segments]
    assert [c["score"] for c in value["clips"]] == pytest.approx(result.scores.tolist(), abs=1e-6)
    assert value["frame_rate"] == "24000/1001"  # of a file with 10 frames a second
    assert read_recipe(path)["task"] == "highlight"  # the document is a recipe as well
    path.write_text(path.read_text().replace(SCHEMA, "genmm.highlights/9"))
    with pytest.raises(DataError, match="version"):
        read_highlights(path)


def test_settings_of_a_document_find_the_same_again(result, pipeline, event_video, tmp_path):
    recipe = read_recipe(result.save_json(tmp_path / "h.json"))
    again = pipeline.highlights(event_video, settings=HighlightSettings.from_dict(recipe["settings"]))
    assert again.segments == result.segments


def test_csv_edl_and_chapters_hold_the_segments(result, tmp_path):
    rows = list(csv.DictReader(result.save_csv(tmp_path / "h.csv").open()))
    assert [float(r["start_s"]) for r in rows] == pytest.approx([s.start_s for s in result.segments], abs=1e-3)
    edl = result.save_edl(tmp_path / "h.edl").read_text()
    assert edl.count("* FROM CLIP NAME: event.mp4") == len(result.segments)
    rest = result.save_edl(tmp_path / "rest.edl", discarded=True).read_text()
    assert rest.count("* FROM CLIP NAME") == len(result.discarded())
    lengths = sum(s.end_s - s.start_s for s in result.discarded()) + result.seconds
    assert lengths == pytest.approx(result.duration_s, abs=0.01)
    assert result.save_chapters(tmp_path / "h.vtt").read_text().count("-->") == len(result.segments)
    assert "[CHAPTER]" in result.save_chapters(tmp_path / "h.txt").read_text()
    with pytest.raises(UsageError, match="chapters"):
        result.save_chapters(tmp_path / "h.xml")


def test_the_reel_matches_the_segments(result, rendered, tmp_path):
    reel, document = result.save(tmp_path / "reel.mp4")
    video = read_video(reel)
    assert video.seconds == pytest.approx(result.seconds, abs=0.1)
    assert probe(reel).audio is not None
    spans = [(s["start_s"], s["end_s"]) for s in read_highlights(document)["segments"]]
    at = 0.0
    for start, end in spans:  # the middle picture of every segment is that of the source
        index = int((at + 0.5 * (end - start)) * video.fps)
        first = round(10 * 0.5 * (start + end)) - 1  # flashing pictures: the neighbours may be what was taken
        near = [float(np.abs(video.frames[index].astype(int) - f).mean()) for f in rendered[0][first : first + 3]]
        far = rendered[0][190 if start < 10 else 0]
        assert min(near) < 8.0 < float(np.abs(video.frames[index].astype(int) - far).mean())
        at += end - start


def test_the_document_beside_a_reel_takes_nobodys_place(result, tmp_path):
    (tmp_path / "trip.json").write_text('{"mine": 1}')
    reel, document = result.save(tmp_path / "trip.mp4")
    assert (reel.name, document.name) == ("trip.mp4", "trip.mp4.json")
    assert (tmp_path / "trip.json").read_text() == '{"mine": 1}'
    assert read_highlights(document)["file"] == "trip.mp4" and read_recipe(reel) == read_recipe(document)
    assert result.save(reel)[1] == document
    own = result.save_json(tmp_path / "edited.json")
    assert [path.name for path in result.save(tmp_path / "edited.mp4")] == ["edited.mp4", "edited.mp4.json"]
    assert read_highlights(own)["file"] == "edited.json"


def test_thumbnails_and_sheet(result, tmp_path):
    paths = result.thumbnails(tmp_path / "t")
    assert len(paths) == len(result.segments)
    assert Image.open(paths[0]).size == (128, 96)
    assert Image.open(result.contact_sheet(tmp_path / "sheet.png")).width > 128


def test_edited_segments_are_checked(result):
    edited = result.with_segments([(12.0, 13.5), (1.0, 2.0)])
    assert [(s.start_s, s.end_s) for s in edited.segments] == [(1.0, 2.0), (12.0, 13.5)]
    assert edited.segments[1].shot == 1
    for bad in ([(3.0, 2.0)], [(0.0, 99.0)], [(0.0, 2.0), (1.0, 3.0)]):
        with pytest.raises(UsageError):
            result.with_segments(bad)
    with pytest.raises(UsageError, match="at least one segment"):
        result.with_segments([]).render("x.mp4")


# ---------------------------------------------------------------- changes that should not matter


def spearman(first, second) -> float:
    from scipy.stats import spearmanr

    count = min(len(first), len(second))
    return float(spearmanr(first[:count], second[:count]).statistic)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["smaller", "quieter", "other rate", "letterbox"])
def test_scores_hold_through_changes_of_the_file(rendered, event_video, tmp_path, change):
    from genmm.media.video_write import write_video

    frames, samples, _ = rendered
    fps = 10.0
    if change == "smaller":
        frames = np.ascontiguousarray(frames[:, ::2, ::2])
    if change == "quieter":
        samples = 0.5 * samples
    if change == "other rate":
        frames, fps = frames[::2], 5.0
    if change == "letterbox":
        frames = np.pad(frames, ((0, 0), (12, 12), (0, 0), (0, 0)))
    path = write_video(tmp_path / "changed.mp4", frames, fps, audio=(samples, 16_000), preset="ultrafast")
    plain = RaslPipeline.heuristic()
    before, after = plain.highlights(event_video), plain.highlights(path)
    assert spearman(before.raw["av"], after.raw["av"]) >= 0.9
