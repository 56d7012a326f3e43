"""Reading video: the right frames at the right times, upright, in true colours, with flat memory, within limits."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from genmm.core.errors import LimitError, MediaError, UsageError
from genmm.core.limits import Limits
from genmm.media.audio import read_audio
from genmm.media.video import iter_frames, probe, read_video

MILLISECOND = Fraction(1, 1000)


def test_frames_come_in_order_at_their_own_times(make):
    frames = list(iter_frames(make.video(make.ramp_frames(12), fps=10)))
    assert [make.frame_number(f.image) for f in frames] == list(range(12))
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(12) / 10, atol=1e-3)
    assert all(f.image.shape == (48, 64, 3) and f.image.dtype == np.uint8 for f in frames)


@contextlib.contextmanager
def own_scheduling() -> Iterator[None]:
    """Keep the encoder of AV1 from leaving this thread at the highest real-time priority, as it does for root."""
    before = (os.sched_getscheduler(0), os.sched_getparam(0)) if hasattr(os, "sched_getscheduler") else None
    try:
        yield
    finally:
        if before is not None:
            os.sched_setscheduler(0, *before)


@pytest.mark.parametrize(
    ("form", "codec", "pix_fmt"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("mp4", "libx264", "yuv420p10le"),
        ("mp4", "libx264", "yuv444p"),
        ("mp4", "libx265", "yuv420p"),
        ("mov", "libx264", "yuv420p"),
        ("matroska", "libsvtav1", "yuv420p"),
        ("webm", "libvpx-vp9", "yuv420p"),
        ("webm", "libvpx", "yuv420p"),
        ("avi", "mpeg4", "yuv420p"),
        ("mpegts", "libx264", "yuv420p"),
        ("mov", "mjpeg", "yuvj420p"),
        ("gif", "gif", "rgb8"),
    ],
)
def test_containers_and_codings(make, form, codec, pix_fmt):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    with own_scheduling():
        data = make.video(make.ramp_frames(10, 128, 96), form=form, codec=codec, pix_fmt=pix_fmt, options=options)
    frames = list(iter_frames(data))
    assert len(frames) == 10 and frames[0].time_s == 0.0
    assert np.diff([f.image.mean() for f in frames]).min() > (-40 if pix_fmt == "rgb8" else 5)
    assert frames[-1].time_s == pytest.approx(0.9, abs=0.02)


def test_sampling_by_time_leaves_out_and_repeats(make):
    data = make.video(make.ramp_frames(20), fps=10)  # 2 s
    slow = list(iter_frames(data, fps=2.5))
    assert [f.time_s for f in slow] == [0.0, 0.4, 0.8, 1.2, 1.6]
    assert [make.frame_number(f.image) for f in slow] == [0, 4, 8, 12, 16]
    fast = list(iter_frames(data, fps=20))
    assert [make.frame_number(f.image) for f in fast] == [i // 2 for i in range(40)]
    fast[0].image[:] = 0
    assert fast[1].image.max() > 0, "repeated frames do not share memory"


@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_variable_rates_are_sampled_by_their_time_stamps(make, form):
    stamps = [0, 100, 200, 1000, 1100, 1900]  # ms; frame 2 stands for 0.8 s, frame 4 too
    data = make.video(make.ramp_frames(6), stamps=stamps, time_base=MILLISECOND, form=form)
    own = list(iter_frames(data))
    np.testing.assert_allclose([f.time_s for f in own], np.array(stamps) / 1000, atol=2e-3)
    shown = [make.frame_number(f.image) for f in iter_frames(data, fps=10, end_s=2.0)]
    assert shown[:20] == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5]


@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts", "avi"])
def test_a_part_is_cut_out_by_time(make, form):
    codec = "mpeg4" if form == "avi" else "libx264"
    data = make.video(make.ramp_frames(60), fps=10, form=form, codec=codec, options={"g": "7"})
    frames = list(iter_frames(data, start_s=3.15, end_s=3.65))
    assert [make.frame_number(f.image) for f in frames] == [(32 + i) % 24 for i in range(5)]
    grid = list(iter_frames(data, fps=5, start_s=3.15, end_s=3.65))
    np.testing.assert_allclose([f.time_s for f in grid], [3.2, 3.4, 3.6])
    assert [make.frame_number(f.image) for f in grid] == [32 - 24, 34 - 24, 36 - 24]


QUARTERS = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0), 0: (1, 0, 0, 1)}
"""Counter-clockwise degrees -> display matrix (a, b, c, d): x' = a x + c y, y' = b x + d y, with y downwards."""


@pytest.mark.parametrize("degrees", QUARTERS)
def test_rotation_tags_are_honoured(make, degrees):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = (255, 0, 0)  # a red corner, top left
    data = make.turned(make.video([picture] * 3), QUARTERS[degrees])
    video = read_video(data)
    assert np.abs(video.frames[0].astype(int) - np.rot90(picture, degrees // 90)).mean() < 8
    info = probe(data).video
    assert (info.height, info.width) == video.frames.shape[1:3] and info.rotation == degrees
    small = read_video(data, max_side=32).frames
    assert max(small.shape[1:3]) == 32 and small.shape[1:3] == ((24, 32) if degrees % 180 == 0 else (32, 24))


def test_max_side_scales_down_and_never_up(make):
    data = make.video(make.ramp_frames(2, 128, 32))
    assert read_video(data, max_side=64).frames.shape[1:3] == (16, 64)
    assert read_video(data, max_side=1).frames.shape[1:3] == (1, 1)
    assert read_video(data, max_side=500).frames.shape[1:3] == (32, 128)


def test_wide_pixels_are_made_square(make, tmp_path):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as out:
        track = out.add_stream("libx264", rate=10)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        track.codec_context.sample_aspect_ratio = Fraction(2, 1)
        out.mux(track.encode(av.VideoFrame.from_ndarray(make.ramp_frames(1)[0], format="rgb24")))
        out.mux(track.encode(None))
    assert read_video(path).frames.shape == (1, 48, 128, 3)


def test_transparency_lies_on_white(make):
    data = make.video([np.full((48, 64, 3), 200, np.uint8)] * 2, form="mov", codec="png", pix_fmt="rgba")
    assert abs(int(read_video(data).frames.mean()) - 200) <= 1


def test_odd_sizes_and_one_frame(make):
    data = make.video(make.ramp_frames(1, 33, 17), pix_fmt="yuv444p")
    video = read_video(data)
    assert video.frames.shape == (1, 17, 33, 3) and video.times_s.tolist() == [0.0] and video.audio is None
    assert len(list(iter_frames(data, fps=10))) == 1


def test_the_largest_of_several_videos_is_read_and_cover_pictures_are_not(make):
    data = make.video(make.ramp_frames(3, 32, 32), more_frames=make.ramp_frames(5, 128, 64))
    assert read_video(data).frames.shape == (5, 64, 128, 3)
    assert probe(data).streams == 2


def test_a_cover_picture_is_no_video(make):
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 9, 9)).save(stream, "PNG")
    content = b"\0image/png\0\3\0" + stream.getvalue()
    frame = b"APIC" + len(content).to_bytes(4, "big") + b"\0\0" + content  # ID3v2.3: plain sizes in frames
    size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    data = b"ID3\3\0\0" + size + frame + make.sound_file(make.tone(0.5, 48000), 48000, "adts", "aac")
    with av.open(io.BytesIO(data)) as container:
        assert [s.type for s in container.streams] == ["audio", "video"], "the cover is a stream of its own"
    assert probe(data).video is None and read_audio(data).seconds > 0.4
    with pytest.raises(MediaError, match="no pictures"):
        iter_frames(data)


def test_sound_and_picture_come_together(make):
    data = make.video(make.ramp_frames(20), audio=make.tone(2.0, 48000, 2))
    video = read_video(data, sample_rate=16000, fps=5)
    assert video.frames.shape[0] == 10 and video.fps == 5 and video.seconds == pytest.approx(2.0)
    assert video.audio.channels == 2 and abs(video.audio.seconds - 2.0) < 0.01 and video.audio.sample_rate == 16000
    assert read_video(data, sound=False).audio is None
    assert video.notes == ()


def test_a_video_whose_sound_is_broken_keeps_its_pictures(make):
    sound = make.tone(2.0, 48000)
    data = make.video(make.ramp_frames(20), audio=sound, form="avi", codec="mpeg4", audio_codec="libmp3lame")
    place = data.index(b"auds") + 4
    place = data.index(b"strf", place) + 8
    broken = data[:place] + b"\x77\x77" + data[place + 2 :]  # a format code that means nothing
    video = read_video(broken)
    assert len(video.frames) == 20 and video.audio is None and any("sound" in note for note in video.notes)


def test_sound_files_have_no_pictures_and_say_so(make):
    for data in (make.wav(make.int16(make.tone())), make.sound_file(make.tone(), 16000, "mp4", "aac")):
        for reader in (iter_frames, read_video):
            with pytest.raises(MediaError, match="no pictures"):
                reader(data)
        info = probe(data)
        assert info.video is None and info.audio.channels == 1 and info.duration_s == pytest.approx(0.5, abs=0.07)


def test_probe_tells_what_is_inside(make, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(make.video(make.ramp_frames(20), audio=make.tone(2.0, 48000, 2)))
    info = probe(path)
    assert info.size_bytes == path.stat().st_size and "mp4" in info.format and info.streams == 2
    assert (info.video.codec, info.video.width, info.video.height, info.video.fps) == ("h264", 64, 48, 10.0)
    assert (info.audio.codec, info.audio.sample_rate, info.audio.channels) == ("aac", 48000, 2)
    assert info.duration_s == pytest.approx(2.0, abs=0.05)


def test_limits_hold_on_what_is_decoded(make):
    data = make.video(make.ramp_frames(30, 128, 96), fps=10)
    for limits in (
        Limits(video_s=2.5),
        Limits(width=100, height=90),
        Limits(width=64, height=64),
        Limits(decode_s=1e-6),
    ):
        with pytest.raises(LimitError):
            read_video(data, limits=limits)
    with pytest.raises(LimitError, match="memory|bytes"):
        read_video(data, limits=Limits(file_bytes=max(len(data), 30 * 128 * 96 * 3 // 10 - 200)))
    assert len(read_video(data, limits=Limits(video_s=3, width=128, height=96)).frames) == 30
    assert len(read_video(data, limits=Limits(width=96, height=128)).frames) == 30, "either side may be the long one"


def test_time_stamps_far_away_end_in_an_error_and_not_in_millions_of_frames(make):
    data = make.video(make.ramp_frames(3), stamps=[0, 100, 10_000_000], time_base=MILLISECOND, form="matroska")
    with pytest.raises(LimitError, match="longer than"):
        for count, _ in enumerate(iter_frames(data, fps=30, max_side=4)):
            assert count < 10


def test_many_streams_are_refused(make):
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as out:
        tracks = [out.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(12)]
        for track in tracks:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            out.mux(track.encode(frame))
    for reader in (read_video, probe):
        with pytest.raises(LimitError, match="12 streams"):
            reader(stream.getvalue())


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc to see this process's memory")
def test_memory_stays_flat_over_many_frames(make):
    picture = np.random.default_rng(0).integers(0, 256, (360, 640, 3)).astype(np.uint8)
    data = make.video([picture] * 4 + [np.roll(picture, 9, 0)] * 300, options={"preset": "ultrafast", "crf": "40"})

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    early, peak, count = 0.0, 0.0, 0
    for frame in iter_frames(data):
        assert frame.image.nbytes == 691_200
        count += 1
        if count == 20:
            early = resident()
        peak = max(peak, resident()) if count > 20 else 0.0
    assert count == 304 and peak - early < 25, f"{peak - early:.0f} MB more, the frames have 210 MB in all"


def test_leaving_early_closes_the_file(make, tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(make.video(make.ramp_frames(20)))

    def opened() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{n}") == str(path) for n in os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to see open files")
    with iter_frames(path) as reader:
        next(reader)
        assert opened() == 1
    assert opened() == 0 and list(reader) == []
    reader = iter_frames(path)
    next(reader)
    reader.close()
    assert opened() == 0
    list(iter_frames(path))
    assert opened() == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"fps": 0},
        {"fps": -1},
        {"fps": 1000},
        {"fps": float("nan")},
        {"max_side": 0},
        {"start_s": -1},
        {"start_s": 2, "end_s": 1},
    ],
)
def test_wrong_arguments_are_refused(make, arguments):
    with pytest.raises(UsageError):
        iter_frames(make.video(make.ramp_frames(1)), **arguments)
