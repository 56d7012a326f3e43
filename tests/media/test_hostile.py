"""Files made to read other files, to fill the memory, to hang or to crash: each ends in an error, soon."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from genmm.core.errors import GenmmError, LimitError, MediaError
from genmm.core.limits import Limits
from genmm.media.audio import Audio, encode_audio_bytes, read_audio
from genmm.media.image import read_image
from genmm.media.tag_reader import read_tags
from genmm.media.video import Video, iter_frames, probe, read_video

READERS = (read_audio, read_video, iter_frames, probe, read_image, read_tags)

WORK_S = 10.0
"""Processor seconds for one file; a hang is ended by pytest's own timeout."""

PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile neighbour.mp4\n",
    "ffconcat, absolute": "ffconcat version 1.0\nfile '{folder}/neighbour.mp4'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\nneighbour.mp4\n#EXT-X-ENDLIST\n",
    "hls, absolute": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{folder}/neighbour.mp4\n#EXT-X-ENDLIST\n",
    "hls, address": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "hls, map": '#EXTM3U\n#EXT-X-MAP:URI="neighbour.mp4"\n#EXTINF:2.0,\nneighbour.mp4\n#EXT-X-ENDLIST\n',
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    "<Period><AdaptationSet><Representation><BaseURL>neighbour.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "playlist": "neighbour.mp4\nneighbour.mp4\n",
    "cue": 'FILE "neighbour.wav" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n',
    "ffmetadata": ";FFMETADATA1\ntitle=x\n",
    "srt": "1\n00:00:00,000 --> 00:00:02,000\nhello\n",
}


@pytest.fixture(scope="session")
def neighbour(make) -> bytes:
    """A good video that lies beside the upload."""
    return make.video(make.ramp_frames(), audio=make.tone(1.0, 48000))


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".wav", ".m3u8", ".ffconcat", ".mpd", ".mkv"])
def test_files_that_name_other_files_are_refused(make, neighbour, tmp_path, monkeypatch, kind, suffix):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour.mp4").write_bytes(neighbour)
    (tmp_path / "neighbour.wav").write_bytes(make.wav(make.int16(make.tone())))
    text = PLAYLISTS[kind].format(folder=tmp_path).encode()
    Path(f"upload{suffix}").write_bytes(text)
    for source in (f"upload{suffix}", tmp_path / f"upload{suffix}", text, io.BytesIO(text)):
        for reader in (read_audio, iter_frames, probe):
            with pytest.raises(MediaError):
                reader(source)


def test_a_movie_that_refers_to_another_file_does_not_get_it(make, tmp_path, monkeypatch):
    """QuickTime's data references may name a file; the demuxer must not follow them."""
    monkeypatch.chdir(tmp_path)
    neighbour = make.video(make.ramp_frames(), form="mov")
    Path("neighbour.mov").write_bytes(neighbour)
    place = neighbour.index(b"dref") + 4 + 8  # version, count; then the entry: size, "url ", flags
    assert neighbour[place + 4 : place + 8] == b"url "
    path = b"neighbour.mov\0"
    entry = (12 + len(path)).to_bytes(4, "big") + b"url \0\0\0\0" + path
    data = neighbour[:place] + entry + neighbour[place + 12 :]
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):  # the boxes around it grow
        start = data.rindex(name, 0, place) - 4
        size = int.from_bytes(data[start : start + 4], "big") + len(entry) - 12
        data = data[:start] + size.to_bytes(4, "big") + data[start + 4 :]
    mdat = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4 if data.index(b"moov") > mdat else len(data)
    emptied = data[:mdat] + bytes(end - mdat) + data[end:]
    try:
        frames = list(iter_frames(emptied))
    except MediaError:
        return
    assert [f for f in frames if make.frame_number(f.image) > 3] == [], "pictures of the neighbour were read"


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to see the memory of a process")
def test_a_pixel_bomb_is_refused_at_little_cost(tmp_path):
    """8192 x 8192 pictures in a small file; decoding one costs 100 MB in the decoder alone."""
    import av

    path = tmp_path / "bomb.mp4"
    with av.open(str(path), "w") as out:
        track = out.add_stream("libx264", rate=10, options={"preset": "ultrafast", "crf": "51"})
        track.width = track.height = 8192
        track.pix_fmt = "yuv420p"
        frame = av.VideoFrame(8192, 8192, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
    assert path.stat().st_size < 1_000_000
    code = f"""
import resource
from genmm.core.errors import LimitError
from genmm.media.video import iter_frames, probe, read_video
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for reader in (probe, iter_frames, read_video):
    try:
        reader({str(path)!r})
    except LimitError as error:
        assert "8192x8192" in str(error), error
    else:
        raise SystemExit("it was read")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60, f"{done.stdout} MB"


def test_pictures_that_grow_behind_a_small_header_are_refused(make):
    """The container says 64x48, the stream inside 640x480."""
    small = make.video(make.ramp_frames(3), form="matroska")
    large = make.video(make.ramp_frames(3, 640, 480), form="matroska")
    for limits in (Limits(width=320, height=240),):
        assert len(read_video(small, limits=limits).frames) == 3
        with pytest.raises(LimitError):
            read_video(large, limits=limits)
    lying = large.replace(b"\xb0\x82\x02\x80\xba\x82\x01\xe0", b"\xb0\x82\x00\x40\xba\x82\x00\x30")
    assert lying != large, "the sizes of the track header were found"
    with pytest.raises(MediaError):
        read_video(lying, limits=Limits(width=320, height=240))


def seeds(make) -> dict[str, bytes]:
    frames, sound = make.ramp_frames(8), make.tone(0.8, 48000)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8))
    pictures = {}
    for form in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        stream = io.BytesIO()
        picture.save(stream, form)
        pictures[form] = stream.getvalue()
    return {
        "mp4": make.video(frames, audio=sound),
        "mp4 with index in front": make.video(frames, audio=sound, container_options={"movflags": "faststart"}),
        "webm": make.video(frames, audio=sound, form="webm", codec="libvpx", audio_codec="libopus"),
        "mkv": make.video(frames, audio=sound, form="matroska"),
        "avi": make.video(frames, audio=sound, form="avi", codec="mpeg4", audio_codec="libmp3lame"),
        "ts": make.video(frames, audio=sound, form="mpegts"),
        "gif": make.video(frames, form="gif", codec="gif", pix_fmt="rgb8"),
        **{form: encode_audio_bytes(sound, 48000, form, tags={"x": 1}) for form in ("wav", "flac", "ogg", "mp3")},
        "m4a": make.sound_file(sound, 48000, "mp4", "aac"),
        "aiff": make.sound_file(sound, 48000, "aiff", "pcm_s16be"),
        **pictures,
    }


@pytest.fixture(scope="session")
def whole_files(make) -> dict[str, bytes]:
    return seeds(make)


def outcome(reader, data: bytes):
    """What a reader makes of damaged data: a result that is checked, or None for one of our errors."""
    begin = time.thread_time()
    try:
        result = reader(data, limits=Limits(decode_s=10, audio_s=600, video_s=600, image_pixels=4_000_000))
        if reader is iter_frames:
            with result:
                for _, frame in zip(range(40), result, strict=False):
                    assert frame.image.ndim == 3 and frame.time_s >= 0
    except GenmmError as error:
        assert str(error)
        result = None
    assert time.thread_time() - begin < WORK_S
    if isinstance(result, Video):
        result = result.audio
    if isinstance(result, Audio):
        assert np.isfinite(result.samples).all() and result.samples.size and result.sample_rate > 0
    return result


NAMES = "mp4,mp4 with index in front,webm,mkv,avi,ts,gif,wav,flac,ogg,mp3,m4a,aiff,PNG,JPEG,WEBP,TIFF,BMP".split(",")
BEGINNINGS = (b"", b"RIFF\x10\0\0\0WAVEfmt ", b"OggS", b"fLaC", b"ID3\x04\0\0", b"\x1aE\xdf\xa3", b"\0\0\0\x18ftypmp42",
              b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"FORM\0\0\0\x10AIFF")  # fmt: skip
flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(cut=st.floats(0, 1), damage=flips, front=st.booleans())
@example(cut=0.5, damage=[], front=False)
@example(cut=1.0, damage=[(0.5, 0), (0.51, 255)], front=False)
def test_cut_and_damaged_files_end_in_a_result_or_an_error(whole_files, name, cut, damage, front):
    data = bytearray(whole_files[name])
    for place, value in damage:
        reach = min(400, len(data)) if front else len(data)  # headers are where damage does most
        data[int(place * reach)] = value
    data = bytes(data[: max(1, int(cut * len(data)))])
    for reader in READERS:
        outcome(reader, data)


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_files_are_fine(whole_files, name):
    """Otherwise the test above would test nothing."""
    results = [outcome(reader, whole_files[name]) for reader in READERS]
    assert any(result is not None for result in results)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(min_size=1, max_size=400), st.sampled_from(BEGINNINGS))
def test_random_bytes_behind_any_beginning_are_refused_or_read(body, beginning):
    for reader in READERS:
        outcome(reader, beginning + body)


def test_junk_of_many_megabytes_is_given_up_soon():
    junk = np.random.default_rng(0).integers(0, 256, 20_000_000, dtype=np.uint8).tobytes()
    for reader in (read_audio, probe, read_image):
        begin = time.thread_time()
        with pytest.raises(MediaError):
            reader(junk)
        assert time.thread_time() - begin < WORK_S


@pytest.mark.parametrize("claim", [0, 1, 799, 2**31, 2**32 - 1])
@pytest.mark.parametrize("rate", [1, 7, 44099, 192000])
def test_any_claimed_size_and_rate_of_a_wav_is_safe(make, claim, rate):
    data = make.wav(b"\1\2" * 800, rate=rate, claimed=claim)
    result = outcome(lambda d, limits: read_audio(d, sample_rate=16000, limits=limits), data)
    assert result is None or result.sample_rate == 16000
