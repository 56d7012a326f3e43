"""What may be opened as media, and how decoding time is counted."""

from __future__ import annotations

import io
import os
import time

import numpy as np
import pytest

from genmm.core.errors import LimitError, MediaError, UsageError
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.audio import read_audio
from genmm.media.image import read_image
from genmm.media.source import DecodeClock, open_source
from genmm.media.video import iter_frames, probe, read_video

READERS = (read_audio, read_image, read_video, probe, iter_frames)

ADDRESSES = [
    "http://127.0.0.1:9/x.wav",
    "https://example.com/x.mp4",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "rtsp://127.0.0.1/x",
    "concat:a.wav|b.wav",
    "subfile,,start,0,end,0,,:/etc/passwd",
    "data:audio/wav;base64,UklGRg==",
    "pipe:0",
    "crypto+file:x",
    "async:cache:x.mp4",
    "tcp://127.0.0.1:1",
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_and_protocols_are_refused(reader, address):
    with pytest.raises(MediaError):
        reader(address)


def test_a_real_file_with_a_colon_in_its_name_is_read(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "take:1.wav").write_bytes(make.wav(make.int16(make.tone())))
    assert read_audio("take:1.wav").seconds == 0.5


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_with_content_is_refused(reader, tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    for source in (tmp_path, tmp_path / "missing.wav", tmp_path / "empty.wav", b"", "a\0b.wav", io.BytesIO()):
        with pytest.raises(MediaError):
            reader(source)
    for source in (3, None, ["a.wav"], io.StringIO("text")):
        with pytest.raises(UsageError):
            reader(source)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_that_nobody_writes_to_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(MediaError, match="regular file"):  # a reader that opens it waits until the test's time is up
        read_audio(tmp_path / "pipe.wav")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_devices_are_refused():
    with pytest.raises(MediaError, match="regular file"):
        read_audio("/dev/zero")


def test_messages_name_the_file_without_its_folder(tmp_path):
    secret = tmp_path / "secret-folder"
    secret.mkdir()
    (secret / "broken.mp4").write_bytes(b"not media at all" * 10)
    for reader in READERS:
        with pytest.raises(MediaError) as caught:
            reader(secret / "broken.mp4")
        assert "broken.mp4" in str(caught.value)
        assert "secret-folder" not in str(caught.value)


def test_path_bytes_and_streams_give_the_same(make, tmp_path):
    data = make.wav(make.int16(make.tone(channels=2)), channels=2)
    path = tmp_path / "sound.bin"  # the content counts, not the suffix
    path.write_bytes(data)

    class OnlyRead:
        def __init__(self) -> None:
            self.inner = io.BytesIO(data)

        def read(self, count: int = -1) -> bytes:
            return self.inner.read(count)

    stream = io.BytesIO(data)
    stream.seek(7)  # wherever it stands
    expected = read_audio(path).samples
    for source in (str(path), data, bytearray(data), memoryview(data), stream, OnlyRead(), path.open("rb")):
        assert np.array_equal(read_audio(source).samples, expected)
    assert not stream.closed, "a stream of the caller stays open"


def test_files_above_the_size_limit_are_refused_before_decoding(make):
    data = make.wav(make.int16(make.tone()))
    small = Limits(file_bytes=len(data) - 1)

    class Endless:
        def read(self, count: int = -1) -> bytes:
            assert 0 < count <= len(data), "no more is read than the limit allows"
            return b"\0" * count

    for source in (data, io.BytesIO(data), Endless()):
        with pytest.raises(LimitError, match="limit"):
            read_audio(source, limits=small)
    assert read_audio(data, limits=Limits(file_bytes=len(data))).seconds == 0.5


def test_the_clock_counts_the_decoder_and_not_the_caller():
    clock = DecodeClock("x", Limits(decode_s=0.05))
    clock.pause()
    time.sleep(0.7)
    clock.check()
    clock.resume()
    time.sleep(0.55)  # waiting counts a tenth
    with pytest.raises(LimitError, match="longer than 0.05 s"):
        clock.check()


def test_the_clock_counts_work_in_full():
    clock, begin = DecodeClock("x", Limits(decode_s=0.1)), time.thread_time()
    while time.thread_time() - begin < 0.11:
        pass
    with pytest.raises(LimitError):
        clock.check()


def test_past_half_the_limit_waiting_counts_a_tenth():
    clock, begin = DecodeClock("x", Limits(decode_s=0.4)), time.monotonic()
    while time.monotonic() - begin < 0.25:
        pass
    clock.check()
    time.sleep(0.6)
    clock.check()
    assert clock.spent_s < 0.4


def test_a_slow_consumer_may_take_its_time(make):
    data = make.video(make.ramp_frames(4))
    count = 0
    for _ in iter_frames(data, limits=Limits(decode_s=0.3)):
        time.sleep(1.0)
        count += 1
    assert count == 4


def test_reads_stop_when_the_time_is_used_up(make):
    """A demuxer that goes on reading is ended from inside its reads."""

    reads = []

    class Slow(io.BytesIO):
        def read(self, count: int = -1) -> bytes:
            time.sleep(0.1)
            reads.append(count)
            return super().read(min(count, 64) if count > 0 else count)

    with pytest.raises(LimitError, match="longer than 0.1 s"):
        read_audio(Slow(make.sound_file(make.tone(20), 16000, "adts", "aac")), limits=Limits(decode_s=0.1))
    assert len(reads) < 15, "the whole file takes about 2000 reads"


def test_a_source_that_is_open_is_passed_on():
    with open_source(b"abc", DEFAULT_LIMITS) as outer, open_source(outer, Limits(decode_s=1)) as inner:
        assert inner is outer
