"""Rows and options of `genmm batch video` are refused before any work, by the bounds of the pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from genmm.batch.manifest import ManifestRow
from genmm.batch.video import VideoTask
from genmm.core.errors import UsageError
from genmm.media.frame_times import MAX_FPS


@pytest.fixture
def row(tmp_path):
    (tmp_path / "film.mp4").touch()
    return lambda **fields: ManifestRow("a", {"video": "film.mp4", **fields}, 1, tmp_path)


@pytest.mark.parametrize("fps", [0.0, -1.0, 240.5, 1000.0])
def test_a_rate_that_the_pipeline_refuses_is_refused_before(row, fps):
    with pytest.raises(UsageError, match=f"fps must be .*at most {MAX_FPS:g}.*, got {fps:g}"):
        VideoTask(fps=fps).validate(row())
    assert VideoTask(fps=MAX_FPS).validate(row()).path.name == "film.mp4"


def test_a_wrong_part_is_named_in_words(row):
    with pytest.raises(UsageError, match="got -1 and the end"):
        VideoTask().validate(row(start_s=-1))
    with pytest.raises(UsageError, match="got 3 and 1.5"):
        VideoTask().validate(row(start_s=3, end_s=1.5))


def test_a_folder_is_called_one(row, tmp_path):
    Path(tmp_path, "films").mkdir()
    with pytest.raises(UsageError, match="'films' in .* is a folder; write the path of one video file"):
        VideoTask().validate(row(video="films"))
