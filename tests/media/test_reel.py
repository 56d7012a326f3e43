"""Reels: the right pictures and sound, exact lengths, odd sizes, sources without sound; copies; thumbnails."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from genmm.core.errors import Cancelled, UsageError
from genmm.core.events import CancelToken
from genmm.media.audio import read_audio
from genmm.media.edit_lists import Span
from genmm.media.reel import copy_reel, sound_between, write_reel
from genmm.media.reel_pictures import picture_at, write_contact_sheet, write_thumbnails
from genmm.media.video import probe, read_video, write_video


@pytest.fixture(scope="module")
def source(make, tmp_path_factory):
    """Six seconds at 25 frames a second; each second has its own grey and its own pitch."""
    frames = [np.full((48, 63, 3), 30 + 35 * (i // 25), np.uint8) for i in range(150)]
    tones = np.concatenate([make.tone(1.0, 48_000, 1, hertz=200.0 * (i + 1)) for i in range(6)], axis=1)
    path = tmp_path_factory.mktemp("reel") / "source.mp4"
    path.write_bytes(
        make.video([np.pad(f, ((0, 0), (0, 1), (0, 0)), mode="edge") for f in frames], fps=25, audio=tones)
    )
    return path


def second_of(picture: np.ndarray) -> int:
    return round((float(picture.mean()) - 30) / 35)


def pitch(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()])


@pytest.mark.parametrize("end_s", [1.0, 1.02, 1.08, 1.5, 2.0, 2.04])
def test_the_last_pictures_of_a_copied_part_are_those_of_the_source(tmp_path, end_s):
    """B pictures near the end are made of later pictures, which come before them in the file."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(12, 0).repeat(12, 1).astype(np.int64)
    frames = [np.roll(base, 3 * n, 1).astype(np.uint8) for n in range(90)]
    path = write_video(tmp_path / "b.mp4", frames, 25, preset="medium", crf=12)
    source, copied = read_video(path), read_video(copy_reel(tmp_path / "copy.mp4", path, [Span(0.0, end_s)]))
    count = len(copied.frames)
    assert round(25 * end_s) <= count <= round(25 * end_s) + 8
    wrong = [float(np.abs(copied.frames[n].astype(int) - source.frames[n]).mean()) for n in range(round(25 * end_s))]
    assert max(wrong) < 1.0


def test_a_reel_holds_what_was_asked_for(source, tmp_path):
    path = write_reel(tmp_path / "reel.mp4", source, [Span(1.0, 2.0), Span(4.2, 4.8)])
    video = read_video(path)
    assert len(video.frames) == 40
    assert [second_of(f) for f in video.frames[:25]] == [1] * 25
    assert [second_of(f) for f in video.frames[25:]] == [4] * 15
    assert probe(path).video.codec == "h264"
    assert probe(path).audio.codec == "aac"
    audio = read_audio(path, mono=True)
    assert audio.seconds == pytest.approx(1.6, abs=0.03)
    assert pitch(audio.samples[0, 9600:38_400], audio.sample_rate) == pytest.approx(400, abs=5)
    assert pitch(audio.samples[0, 52_800:72_000], audio.sample_rate) == pytest.approx(1000, abs=5)


def test_joints_are_faded(source):
    part = sound_between(source, 1.0, 1.5)
    assert part.shape == (2, 24_000)
    assert pitch(part[0], 48_000) == pytest.approx(400, abs=5)
    assert sound_between(source, 5.9, 6.5)[:, 12_000:].max() == 0.0  # after the end


def test_odd_sizes_become_even_and_the_rest_is_scaled(make, tmp_path):
    source = tmp_path / "odd.mkv"
    source.write_bytes(make.video(make.ramp_frames(20, 61, 43), form="matroska", codec="ffv1", pix_fmt="bgr0"))
    info = probe(write_reel(tmp_path / "reel.mp4", source, [Span(0.2, 1.0)]))
    assert (info.video.width, info.video.height) == (62, 44)
    assert info.audio is None
    small = probe(write_reel(tmp_path / "small.mp4", source, [Span(0.2, 1.0)], max_side=32))
    assert max(small.video.width, small.video.height) == 32


def test_variable_rates_keep_the_clock(make, tmp_path):
    stamps = [0, 100, 200, 300, 1000, 1100, 1200, 3000, 3100, 3200]
    source = tmp_path / "vfr.mkv"
    source.write_bytes(make.video(make.ramp_frames(10), stamps=stamps, time_base=Fraction(1, 1000), form="matroska"))
    video = read_video(write_reel(tmp_path / "reel.mp4", source, [Span(1.0, 3.2)], fps=10))
    shown = [make.frame_number(f) for f in video.frames]
    assert shown[0] == 4
    assert shown[3:19] == [6] * 16  # held from 1.2 to 3.0 s
    assert shown[20] == 7


def test_mistakes_and_cancelling(source, make, tmp_path):
    with pytest.raises(UsageError, match="at least one segment"):
        write_reel(tmp_path / "r.mp4", source, [])
    with pytest.raises(UsageError, match="at most"):
        write_reel(tmp_path / "r.mp4", source, [Span(0.0, 5000.0)])
    sound = tmp_path / "a.wav"
    sound.write_bytes(make.wav(make.int16(make.tone(1.0))))
    with pytest.raises(UsageError, match="no"):
        write_reel(tmp_path / "r.mp4", sound, [Span(0.0, 0.5)])
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        write_reel(tmp_path / "r.mp4", source, [Span(0.0, 2.0)], cancel=token)
    assert list(tmp_path.glob("*r.mp4*")) == []


def test_a_copy_begins_at_a_key_frame_and_is_not_encoded_anew(source, tmp_path):
    path = copy_reel(tmp_path / "copy.mp4", source, [Span(1.5, 3.0)])
    video = read_video(path)
    seconds = {second_of(f) for f in video.frames}
    assert {1, 2} <= seconds
    assert video.seconds >= 1.5
    assert probe(path).video.codec == "h264"


def test_a_copy_takes_the_largest_video_stream(tmp_path):
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as out:
        tracks = []
        for side in (32, 96):
            track = out.add_stream("libx264", rate=10)
            track.width, track.height, track.pix_fmt = side, side, "yuv420p"
            tracks.append(track)
        for track in tracks:
            for i in range(20):
                frame = av.VideoFrame.from_ndarray(
                    np.full((track.height, track.width, 3), 40, np.uint8), format="rgb24"
                )
                frame.pts, frame.time_base = i, Fraction(1, 10)
                out.mux(track.encode(frame))
            out.mux(track.encode(None))
    assert probe(copy_reel(tmp_path / "copy.mp4", path, [Span(0.0, 1.0)])).video.width == 96


@pytest.mark.skipif("libmp3lame" not in av.codecs_available, reason="this build of FFmpeg writes no MP3")
def test_mp3_is_copied_too(tmp_path):
    path = tmp_path / "mp3.mp4"
    with av.open(str(path), "w") as out:
        video, sound = out.add_stream("libx264", rate=10), out.add_stream("libmp3lame", rate=44_100, layout="mono")
        video.width, video.height, video.pix_fmt, sound.format = 32, 32, "yuv420p", "fltp"
        for i in range(20):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * i, np.uint8), format="rgb24")))
        out.mux(video.encode(None))
        for i in range(70):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44_100, 1152 * i
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    facts = probe(copy_reel(tmp_path / "copy.mp4", path, [Span(0.0, 1.0)]))
    assert facts.video.codec == "h264" and facts.audio.codec.startswith("mp3")


def test_a_copy_of_other_codecs_is_refused(make, tmp_path):
    source = tmp_path / "a.webm"
    source.write_bytes(make.video(make.ramp_frames(10), form="webm", codec="libvpx"))
    with pytest.raises(UsageError, match="copied"):
        copy_reel(tmp_path / "copy.mp4", source, [Span(0.0, 0.5)])


def test_pictures_of_moments(source, tmp_path):
    assert second_of(picture_at(source, 3.5)) == 3
    assert second_of(picture_at(source, 99.0)) == 5
    paths = write_thumbnails(tmp_path / "thumbs", source, [0.5, 4.5], max_side=32)
    assert [p.name for p in paths] == ["highlight_001.jpg", "highlight_002.jpg"]
    assert [second_of(np.asarray(Image.open(p))) for p in paths] == [0, 4]
    sheet = Image.open(write_contact_sheet(tmp_path / "sheet.png", source, [0.5, 2.5, 4.5], ["a", "b", "c"], columns=2))
    assert sheet.width == 2 * 64 + 3 * 8
    assert sheet.height == 2 * (48 + 22) + 3 * 8
    assert second_of(np.asarray(sheet)[8:56, 8:72]) == 0
