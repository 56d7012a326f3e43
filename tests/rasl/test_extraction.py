"""Reading files in one pass: times, and every odd file that a test can make gives a result with notes or an error."""

from __future__ import annotations

import io
import re
from fractions import Fraction

import av
import numpy as np
import pytest

from genmm.core.errors import Cancelled, LimitError, MediaError
from genmm.core.events import CancelToken, Finished, Progress
from genmm.core.limits import Limits
from genmm.systems.rasl.audio_features import DB_SCALE, LOUDNESS_COLUMN
from genmm.systems.rasl.extraction import extract_features, extraction_events
from genmm.systems.rasl.pipeline import RaslPipeline

HEURISTIC = RaslPipeline.heuristic()


def shifting(count: int, side: tuple[int, int] = (48, 64), speed: int = 2) -> list[np.ndarray]:
    """Textured pictures that move to the left."""
    rng = np.random.default_rng(0)
    wide = rng.integers(40, 220, (side[0] // 8 + 1, (side[1] + speed * count) // 8 + 2, 3), np.uint8)
    big = wide.repeat(8, axis=0).repeat(8, axis=1)
    return [np.ascontiguousarray(big[: side[0], speed * i : speed * i + side[1]]) for i in range(count)]


def encoded(
    pictures,
    *,
    fps: int = 10,
    form: str = "mp4",
    codec: str = "libx264",
    stamps=None,
    audio=None,
    audio_start_s: float = 0.0,
    more_audio=None,
    cover: bool = False,
    rotate: int = 0,
    audio_only: bool = False,
) -> bytes:
    """A file with pictures and up to two sound tracks (mono, 16 kHz) that may begin late."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=form) as out:
        tracks = []
        if not audio_only:
            video = out.add_stream(codec, rate=fps)
            video.height, video.width = pictures[0].shape[:2]
            video.pix_fmt = "yuv420p"
            if stamps:
                video.codec_context.time_base = Fraction(1, 1000)
        for samples, start_s in ((audio, audio_start_s), (more_audio, 0.0)):
            if samples is not None:
                tracks.append((out.add_stream("aac" if form == "mp4" else "libopus", rate=48_000, layout="mono"),
                               samples, start_s))  # fmt: skip
        picture_track = None
        if cover:
            picture_track = out.add_stream("png", rate=1)
            picture_track.height, picture_track.width, picture_track.pix_fmt = 512, 512, "rgb24"
            picture_track.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(np.zeros((512, 512, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = 0, Fraction(1, 1)
        for i, picture in enumerate([] if audio_only else pictures):
            shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
            shown.pts, shown.time_base = (stamps[i], Fraction(1, 1000)) if stamps else (i, Fraction(1, fps))
            out.mux(video.encode(shown))
        if not audio_only:
            out.mux(video.encode(None))
        if picture_track is not None:
            out.mux(picture_track.encode(frame))
            out.mux(picture_track.encode(None))
        for track, samples, start_s in tracks:
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = 48_000, round(start_s * 48_000), Fraction(1, 48_000)
            out.mux(track.encode(block))
            out.mux(track.encode(None))
    return stream.getvalue()


def noise(seconds: float, level: float = 0.2) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(round(48_000 * seconds)).clip(-3, 3)).astype(np.float32)


def scored(data, **more):
    """The heuristic highlights of a file; every number in them is finite."""
    result = HEURISTIC.highlights(data, seconds=2.0, **more)
    assert np.isfinite(result.scores).all()
    assert ((result.scores >= 0) & (result.scores <= 1)).all()
    assert result.segments
    assert all(0 <= s.start_s < s.end_s <= result.duration_s + 1e-6 for s in result.segments)
    return result


def test_a_row_a_second_from_all_streams(event_video):
    table = extract_features(event_video)
    assert table.steps == 20
    assert table.visual.shape == (20, 304)
    assert table.audio.shape == (20, 196)
    assert table.duration_s == pytest.approx(20.0, abs=0.05)
    assert any(abs(cut - 10.0) < 0.05 for cut in table.cuts_s)
    loud = table.audio[:, LOUDNESS_COLUMN] * DB_SCALE
    assert loud[4:8].min() > loud[[1, 2, 10, 12]].max() + 5
    assert table.motion[13:16, 1].mean() > table.motion[[1, 2, 11, 18], 1].mean()
    assert table.info["fps"] == 10
    assert (table.info["width"], table.info["height"]) == (128, 96)


def test_decoded_features_are_those_of_the_pictures_themselves(rendered, event_video):
    """The same scene described without a file in between: what differs is the compression."""
    from datamodules.highlight_tables import describe_scene

    straight, read = describe_scene(rendered[2].scene), extract_features(event_video)
    for column in (288, 289, 297):
        correlation = np.corrcoef(straight.visual[:, column], read.visual[:, column])[0, 1]
        assert correlation > 0.9, column
    assert np.corrcoef(straight.audio[:, LOUDNESS_COLUMN], read.audio[:, LOUDNESS_COLUMN])[0, 1] > 0.99


def test_events_tell_how_far_it_is(event_video):
    events = list(extraction_events(event_video))
    assert isinstance(events[-1], Finished)
    progress = [event for event in events if isinstance(event, Progress)]
    assert 15 <= len(progress) <= 25
    assert progress[-1].total == 20
    token = CancelToken()
    running = extraction_events(event_video, cancel=token)
    next(running)
    token.cancel()
    with pytest.raises(Cancelled):
        list(running)


def test_no_sound(silent_video):
    result = scored(silent_video)
    assert "no sound" in " ".join(result.notes)
    assert set(result.raw) == {"v"}
    assert "there is no sound" in " ".join(scored(silent_video, modality="a").notes)


def test_sound_that_begins_late_stays_at_its_time():
    data = encoded(shifting(60), audio=noise(2.0), audio_start_s=3.0)
    table = extract_features(data)
    loud = table.loudness_db
    assert loud[:3].max() < -70
    assert loud[3:5].min() > -30
    assert re.search(r"begins (2\.9|3\.0)", " ".join(table.notes))  # the encoder adds a little in front


def test_sound_shorter_and_longer_than_the_pictures():
    short = extract_features(encoded(shifting(60), audio=noise(3.0)))
    assert short.audio_valid.tolist()[:3] == [True] * 3
    assert not short.audio_valid[4:].any()
    assert "ends after" in " ".join(short.notes)
    assert extract_features(encoded(shifting(30), audio=noise(6.0))).steps == 3


def test_a_cover_picture_is_not_the_video(event_video):
    sound = encoded([], audio=noise(4.0), audio_only=True, cover=True)
    table = extract_features(sound)
    assert table.visual is None
    assert table.steps == 4
    result = scored(sound)
    assert set(result.raw) == {"a"}


def test_several_sound_tracks():
    table = extract_features(encoded(shifting(30), audio=noise(3.0), more_audio=noise(3.0, 0.01)))
    assert "2 sound tracks" in " ".join(table.notes)
    assert table.loudness_db.max() > -30


def test_a_variable_rate_is_placed_by_time_stamps():
    stamps = [0, 100, 200, 300, 400, 4000, 4100, 4200, 4300, 4400, 9900]
    table = extract_features(encoded(shifting(11, speed=16), stamps=stamps, form="matroska"))
    assert "variable" in " ".join(table.notes)
    assert table.steps == 10
    assert table.motion[2, 0] == 0.0  # one picture stands still from 0.4 to 4 s
    assert table.motion[4, 0] > 0.0


def test_rotation_turns_the_picture():
    mp4 = encoded(shifting(10, (48, 64)))
    place = mp4.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags; times, id, duration; reserved, layer, volume
    matrix = np.array([0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000], ">i4").tobytes()
    table = extract_features(mp4[:place] + matrix + mp4[place + 36 :])
    assert (table.info["width"], table.info["height"]) == (48, 64)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_short_videos(count):
    result = scored(encoded(shifting(count)))
    assert len(result.scores) == 1
    assert result.scores.tolist() == [0.5]


def test_black_and_silent_video_has_nothing_that_stands_out():
    data = encoded([np.zeros((48, 64, 3), np.uint8)] * 60, audio=np.zeros(48_000 * 6, np.float32))
    result = scored(data)
    notes = " ".join(result.notes)
    assert "nothing stands out" in notes
    assert "silent" in notes
    assert result.segments[0].start_s == 0.0


def test_truncated_files_give_what_they_hold():
    data = encoded(shifting(80), form="matroska", audio=noise(8.0))
    for share in (0.9, 0.6, 0.3):
        result = scored(data[: int(share * len(data))])
        assert result.duration_s < 8.1
    mp4 = encoded(shifting(80), audio=noise(8.0))
    with pytest.raises(MediaError):
        extract_features(mp4[: len(mp4) // 2])  # its index is at the end


def test_a_corrupt_tail_is_passed_over():
    data = bytearray(encoded(shifting(100), form="matroska", audio=noise(10.0)))
    rng = np.random.default_rng(0)
    start = int(0.7 * len(data))
    data[start:] = rng.integers(0, 256, len(data) - start, np.uint8).tobytes()
    result = scored(bytes(data))
    assert result.notes


@pytest.mark.parametrize("data", [b"", b"hello", b"\0" * 5000, b"#EXTM3U\nfile.ts\n"])
def test_what_is_no_video_is_refused(data):
    with pytest.raises(MediaError):
        extract_features(data)


def test_limits_hold():
    data = encoded(shifting(40))
    with pytest.raises(LimitError, match="longer than"):
        extract_features(data, limits=Limits(video_s=2.0))
    with pytest.raises(LimitError):
        extract_features(data, limits=Limits(width=32, height=32))


@pytest.mark.timeout(600)  # every allocation is counted, which is slow on a busy machine
def test_memory_does_not_grow_with_the_length():
    """What is kept for each second is its row of features, two kilobytes, and nothing of pictures or samples."""
    import tracemalloc

    peaks = []
    for seconds in (4, 16):
        data = encoded(shifting(2) * seconds, fps=2, audio=noise(float(seconds)))
        tracemalloc.start()
        extract_features(data)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 12 * 8_000
