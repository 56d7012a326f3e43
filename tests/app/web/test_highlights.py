"""The Highlights tab as programs see it, and its parts: curve, table, switching streams, cutting again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gradio_client import handle_file

from app.web.highlights_view import clock, curve_html, spans_of, table_rows
from app.web.highlights_work import HEURISTIC, HighlightForm, check_form, cut_events, find_events, rescored
from app.web.pool import ModelPool
from genmm.core.errors import Cancelled, UsageError
from genmm.core.events import CancelToken, Finished, Progress, drain
from genmm.core.limits import DEFAULT_LIMITS
from genmm.media.video import probe
from genmm.systems.rasl.result import read_highlights


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Ten seconds with sound: a shape flashes from 4 to 7 s."""
    from datamodules.rendered_video import Mover, Scene, Sound, render_scene
    from genmm.media.video_write import write_video

    scene = Scene(
        seconds=10.0,
        movers=(Mover(shape="star", colour="red", start_s=4.0, end_s=7.0, size=0.5, flash_hz=1.5),),
        sounds=(Sound(kind="clap", start_s=4.0, end_s=7.0), Sound(kind="hum", level=0.02)),
    )
    frames, samples, _ = render_scene(scene, fps=5, side=(48, 64))
    path = tmp_path_factory.mktemp("video") / "a <b>.mp4"
    return write_video(path, frames, 5.0, audio=(samples, 16_000), preset="ultrafast")


@pytest.fixture
def folders(tmp_path):
    """Makes new folders."""
    made = []

    def new() -> Path:
        made.append(tmp_path / f"run{len(made)}")
        made[-1].mkdir()
        return made[-1]

    return new


def run(work):
    return drain(work(CancelToken()))


def test_one_run_makes_all_files(video, folders):
    form = HighlightForm(video=str(video), settings={"seconds": 4.0})
    told = []
    found = drain(find_events(form, ModelPool(device="cpu"), folders, DEFAULT_LIMITS)(CancelToken()), told.append)
    cutting = [event for event in told if isinstance(event, Progress) and "Cutting" in event.message]
    assert len(cutting) > 1 and all(event.done <= event.total == round(found.result.seconds) for event in cutting)
    assert found.reel.is_file() and found.sheet.is_file()
    assert len(found.thumbnails) == len(found.result.segments)
    assert {path.suffix for path in found.documents.values()} == {".json", ".csv", ".edl", ".txt", ".vtt"}
    assert probe(found.reel).video is not None

    before = found.documents["json"].read_bytes(), found.reel.read_bytes()
    edited = run(cut_events(found, [(1.0, 2.0), (5.0, 6.5)], folders))
    assert (found.documents["json"].read_bytes(), found.reel.read_bytes()) == before  # the history still shows them
    assert [(s.start_s, s.end_s) for s in edited.result.segments] == [(1.0, 2.0), (5.0, 6.5)]
    assert probe(edited.reel).duration_s == pytest.approx(2.5, abs=0.3)
    assert len(read_highlights(edited.documents["json"])["segments"]) == 2

    other = rescored(found, ModelPool(device="cpu"), "v")
    np.testing.assert_array_equal(other.result.scores, found.result.curves["v"])

    drawing = curve_html(found.result)
    assert drawing.count("gm-kept") == len(found.result.segments)
    assert drawing.count("<polyline") == 3
    assert spans_of(table_rows(found.result)) == [
        (round(s.start_s, 2), round(s.end_s, 2)) for s in found.result.segments
    ]


def test_rows_that_are_not_ticked_are_left_out():
    assert spans_of([[True, 1, 2], [False, 3, 4], ["true", "5.5", 6], [True, "", ""]]) == [(1.0, 2.0), (5.5, 6.0)]
    with pytest.raises(ValueError):
        spans_of([[True, "one", 2]])
    assert [clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_forms_are_checked(video, tmp_path):
    pool = ModelPool(device="cpu")
    check_form(HighlightForm(video=str(video)), pool)
    for bad in (
        HighlightForm(video=""),
        HighlightForm(video=str(tmp_path / "gone.mp4")),
        HighlightForm(video=str(video), model="sled"),
        HighlightForm(video=str(video), settings={"seconds": -1}),
    ):
        with pytest.raises(UsageError):
            check_form(bad, pool)


def test_a_cancelled_run_stops(video, folders):
    token = CancelToken()
    events = find_events(HighlightForm(video=str(video)), ModelPool(device="cpu"), folders, DEFAULT_LIMITS)(token)
    next(events), next(events)
    token.cancel()
    with pytest.raises(Cancelled):
        assert not any(isinstance(event, Finished) for event in events)


def test_programs_get_a_reel_and_a_document(connect, video):
    files, document = connect().predict(
        video=handle_file(str(video)), seconds=3, model=HEURISTIC, api_name="/highlights"
    )
    assert [Path(path).suffix for path in files] == [".mp4", ".json", ".csv", ".edl", ".txt", ".vtt"]
    assert document["settings"]["seconds"] == 3
    assert sum(s["end_s"] - s["start_s"] for s in document["segments"]) <= 3.0 + 1e-6
    assert probe(files[0]).video.codec == "h264"


def test_programs_read_what_was_wrong(connect, video, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    for arguments, words in (
        ({"video": handle_file(str(broken))}, "cannot be read"),
        ({"video": handle_file(str(video)), "modality": "smell"}, "modality"),
        ({"video": handle_file(str(video)), "seconds": 3, "count": 2}, "one of seconds"),
    ):
        with pytest.raises(Exception, match=words):
            connect().predict(**arguments, model=HEURISTIC, api_name="/highlights")
