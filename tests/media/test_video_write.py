"""Writing video: read back as written, in true colours, sound in place, whole or not at all."""

from __future__ import annotations

import weakref

import av
import numpy as np
import pytest
import torch

from genmm.core.errors import MediaError, ShapeError, UsageError
from genmm.media.audio import Audio, read_audio
from genmm.media.tag_reader import read_tags
from genmm.media.video import iter_frames, probe, read_video, write_video


def test_frames_and_times_come_back(make, tmp_path):
    frames = make.ramp_frames(15)
    path = write_video(tmp_path / "x.mp4", frames, 12.5)
    video = read_video(path)
    assert [make.frame_number(f) for f in video.frames] == list(range(15))
    np.testing.assert_allclose(video.times_s, np.arange(15) / 12.5, atol=1e-4)
    assert probe(path).video.fps == 12.5 and video.audio is None


def test_colours_are_true_and_named(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 64, 200), (255, 255, 255), (0, 0, 0), (250, 180, 20)]
    path = write_video(tmp_path / "x.mp4", [np.full((64, 64, 3), c, np.uint8) for c in colours], 10, crf=8)
    for picture, colour in zip(read_video(path).frames, colours, strict=True):
        assert np.abs(picture.reshape(-1, 3).mean(0) - colour).max() < 4, colour
    with av.open(str(path)) as container:
        stream = container.streams.video[0].codec_context
        assert (stream.colorspace, stream.color_range, stream.pix_fmt) == (1, 1, "yuv420p")  # BT.709, limited


def test_odd_sizes_gain_a_copied_edge(tmp_path):
    picture = np.full((31, 45, 3), 40, np.uint8)
    picture[:, -1], picture[-1] = 200, 200
    frames = read_video(write_video(tmp_path / "x.mp4", [picture] * 2, 10, crf=5)).frames
    assert frames.shape == (2, 32, 46, 3)
    assert abs(int(frames[0, 10, 45].mean()) - 200) < 12 and abs(int(frames[0, 31, 10].mean()) - 200) < 12


def test_floats_greys_and_tensors_are_taken(tmp_path):
    frames = [torch.full((16, 16), 0.5), np.full((16, 16, 3), 0.5), np.full((16, 16), 128, np.uint8)]
    assert np.abs(read_video(write_video(tmp_path / "x.mp4", frames, 5)).frames.astype(int) - 128).max() < 3


def test_sound_is_in_place_and_has_its_length(make, tmp_path):
    samples = np.zeros((2, 48000 * 2), np.float32)
    samples[:, 30000:30480] = make.tone(0.01, 48000, 2) * 1.6
    path = write_video(tmp_path / "x.mp4", make.ramp_frames(20), 10, audio=(samples, 48000))
    audio = read_audio(path)
    assert audio.samples.shape == samples.shape and audio.sample_rate == 48000
    energy = np.square(audio.samples[0]).cumsum()
    middle = np.searchsorted(energy, energy[-1] / 2)
    assert abs(middle - 30240) < 100, "within 2 ms"


def test_any_sound_is_brought_to_what_aac_holds(make, tmp_path):
    for rate, channels in ((24000, 1), (17000, 1), (48000, 6)):
        samples = make.tone(1.0, rate, channels)
        path = write_video(tmp_path / "x.mp4", make.ramp_frames(10), 10, audio=Audio(samples, rate))
        audio = read_audio(path)
        assert audio.channels == min(2, len(samples)) and abs(audio.seconds - 1.0) < 0.002
        assert 0.2 < np.abs(audio.samples).max() < 0.8


def test_sound_longer_than_the_pictures_is_kept_whole(make, tmp_path):
    path = write_video(tmp_path / "x.mp4", make.ramp_frames(2), 10, audio=(make.tone(3.0, 16000), 16000))
    assert read_audio(path).seconds == pytest.approx(3.0, abs=0.002)


def test_frames_are_taken_one_at_a_time(make, tmp_path):
    seen = []

    def frames():
        for picture in make.ramp_frames(30):
            held = picture.copy()
            seen.append(weakref.ref(held))
            yield held
            del held
            assert sum(ref() is not None for ref in seen) <= 1

    write_video(tmp_path / "x.mp4", frames(), 10)
    assert len(seen) == 30


def test_the_index_stands_in_front_and_tags_come_back(make, tmp_path):
    tags = {"title": "T\u00eft\u013ce", "recipe": {"seeds": [1, 2], "text": "x" * 5000}}
    path = write_video(tmp_path / "x.mp4", make.ramp_frames(3), 10, tags=tags, audio=(make.tone(), 16000))
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert read_tags(path) == tags


def test_names_with_colons_and_blanks_are_written(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("take:1.mp4", "-a b%03d.mp4", "\u65e5\u672c.mov"):
        assert len(list(iter_frames(write_video(name, make.ramp_frames(2), 10)))) == 2


def test_a_failure_leaves_the_old_file_and_nothing_else(make, tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(b"old")

    def frames():
        yield from make.ramp_frames(3)
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        write_video(path, frames(), 10)
    with pytest.raises(ShapeError, match="frame 1"):
        write_video(path, [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)], 10)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x.mp4"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"path": "x.webm"}, UsageError),
        ({"path": "x"}, UsageError),
        ({"fps": 0}, UsageError),
        ({"fps": float("nan")}, UsageError),
        ({"crf": 90}, UsageError),
        ({"preset": "hasty"}, UsageError),
        ({"frames": []}, UsageError),
        ({"frames": [np.zeros((4, 4, 4), np.uint8)]}, ShapeError),
        ({"frames": [np.zeros((4, 4, 3), np.int32)]}, ShapeError),
        ({"frames": [np.full((4, 4, 3), np.nan)]}, MediaError),
        ({"audio": (np.full(100, np.nan), 16000)}, MediaError),
        ({"audio": (np.zeros((2, 0)), 16000)}, ShapeError),
    ],
)
def test_wrong_requests_leave_nothing_behind(make, tmp_path, arguments, error):
    given = {"path": "x.mp4", "frames": make.ramp_frames(2), "fps": 10, **arguments}
    with pytest.raises(error):
        write_video(tmp_path / given.pop("path"), given.pop("frames"), given.pop("fps"), **given)
    assert list(tmp_path.iterdir()) == []
