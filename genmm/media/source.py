"""Opening one media input safely: a real file, bytes, or a binary stream, checked for size and read under a clock."""

from __future__ import annotations

import io
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

from genmm.core.errors import LimitError, MediaError, UsageError
from genmm.core.limits import Limits

__all__ = ["DecodeClock", "MediaInput", "MediaSource", "memory_limit", "open_source"]

MediaInput = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""What every reader takes: the path of a real file, the bytes of one, or an open binary stream."""

HEAD_BYTES = 64
"""How much of the beginning is kept for telling formats apart."""

MEMORY_PER_FILE_BYTE = 10
"""What is held decoded in memory may be this many times `limits.file_bytes` (2 GB by default)."""

BUSY = 10.0
"""How many times longer than its processor time decoding may take by the clock on the wall."""

_PROTOCOL = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+:")  # two letters at least, so that C:\ stays a path


class DecodeClock:
    """Counts the seconds spent in a decoder, without those that the caller spends between two frames.

    The limit holds for processor time of this thread, where all decoding happens, so that a busy machine refuses
    nothing that an idle one reads; by the clock on the wall it is BUSY times as long. Asking for processor time is a
    system call, dear on a virtual machine when it is made for every packet: up to half the limit the clock on the wall,
    which never shows less, is taken in its place.
    """

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.limit_s = limits.decode_s
        self._processor_s = self._wall_s = 0.0
        self._is_exact = False
        self._since: tuple[float, float] | None = self._now_s()

    def pause(self) -> None:
        """Stop counting while the caller works on what it was given."""
        self._processor_s, self._wall_s = self._sum_s()
        self._since = None

    def resume(self) -> None:
        """Go on counting."""
        if self._since is None:
            self._is_exact = self._wall_s > self.limit_s / 2
            self._since = self._now_s()

    @property
    def spent_s(self) -> float:
        """Seconds that count against the limit so far."""
        processor_s, wall_s = self._sum_s()
        return max(processor_s, wall_s / BUSY)

    def check(self) -> None:
        """Raises: LimitError when decoding has used up its time."""
        if self.spent_s > self.limit_s:
            raise LimitError(
                f"{self.name}: decoding took longer than {self.limit_s:g} s; cut the file into shorter parts, "
                "or raise limits.decode_s if you trust it"
            )
        if self._since is not None and not self._is_exact:
            self.pause()
            self.resume()

    def _sum_s(self) -> tuple[float, float]:
        if self._since is None:
            return self._processor_s, self._wall_s
        now_s = self._now_s()
        # A caller may go on in another thread, whose processor time started elsewhere.
        processor_s = self._processor_s + max(0.0, now_s[0] - self._since[0])
        return processor_s, self._wall_s + now_s[1] - self._since[1]

    def _now_s(self) -> tuple[float, float]:
        wall_s = time.monotonic()
        return (time.thread_time() if self._is_exact else wall_s), wall_s


@dataclass(frozen=True)
class MediaSource:
    """One opened input."""

    name: str
    """File name without its folder, for messages; '<bytes>' or '<stream>' where there is no name."""
    size_bytes: int
    """Whole size in bytes."""
    head: bytes
    """The first bytes, at most HEAD_BYTES."""
    stream: BinaryIO
    """Seekable; its position is wherever the last reader left it."""
    limits: Limits
    """What every reader of this source keeps to."""
    clock: DecodeClock
    """Time spent on this source by all readers together."""

    def reader(self, *, clocked: bool = True) -> NamelessReader:
        """A fresh view of the whole input, positioned at its start, that knows no file name and obeys the clock.

        Libraries that cannot pass on an exception from a read (libsndfile) need `clocked=False`.
        """
        self.stream.seek(0)
        return NamelessReader(self.stream, self.clock if clocked else None)


class NamelessReader:
    """The read, seek and tell of a stream, nothing else.

    Decoders choose formats by file name and resolve neighbouring files against it, so they are given none. Each read
    looks at the clock, which also ends demuxers that scan a long file without finding anything.
    """

    def __init__(self, stream: BinaryIO, clock: DecodeClock | None) -> None:
        self._stream, self._clock = stream, clock

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes; LimitError when the time is used up."""
        if self._clock is not None:
            self._clock.check()
        return self._stream.read(count)

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer and give back how many bytes it got."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; as for files."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Position in bytes."""
        return self._stream.tell()

    def seekable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True


def memory_limit(limits: Limits) -> int:
    """Bytes of decoded samples or pixels that one file may occupy at a time."""
    return MEMORY_PER_FILE_BYTE * limits.file_bytes


@contextmanager
def open_source(source: MediaInput | MediaSource, limits: Limits) -> Iterator[MediaSource]:
    """Open an input for one or more readers; a path is closed at the end, a caller's stream is not.

    What is open already is passed on as it is, with its own limits and clock.

    Raises: MediaError for what is no regular file, cannot be opened, is empty, or names a URL or protocol;
    LimitError above `limits.file_bytes`; UsageError for other types.
    """
    if isinstance(source, MediaSource):
        yield source
        return
    if isinstance(source, bytes | bytearray | memoryview):
        stream, name, ours = io.BytesIO(source), "<bytes>", True
    elif isinstance(source, str | os.PathLike):
        stream, name, ours = _open_path(source), os.path.basename(os.fspath(source)), True
    elif hasattr(source, "read"):
        stream, name, ours = _seekable(source, limits), "<stream>", False
    else:
        raise UsageError(f"media must be a path, bytes or a binary stream, got {type(source).__name__}")
    try:
        yield _checked(stream, name, limits)
    finally:
        if ours:
            stream.close()


def _checked(stream: BinaryIO, name: str, limits: Limits) -> MediaSource:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if size == 0:
        raise MediaError(f"{name} is empty (0 bytes)")
    if size > limits.file_bytes:
        raise LimitError(f"{name} has {size} bytes, the limit is {limits.file_bytes}; shorten or compress it")
    return MediaSource(name, size, stream.read(HEAD_BYTES), stream, limits, DecodeClock(name, limits))


def _open_path(source: str | os.PathLike[str]) -> BinaryIO:
    path = os.fspath(source)
    if not isinstance(path, str) or "\0" in path:
        raise MediaError("the path of a media file must be text without NUL characters")
    name = os.path.basename(path) or path
    if "://" in path or (_PROTOCOL.match(path) and not os.path.isfile(path)):
        raise MediaError("media is read from files only, not from URLs or protocols; download it and give the file")
    try:
        # Without waiting: opening a pipe that nobody writes to must not hang.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise MediaError(f"{name} cannot be opened: {error.strerror or error}") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise MediaError(f"{name} is not a regular file")
        return os.fdopen(handle, "rb")
    except BaseException:
        with suppress(OSError):
            os.close(handle)
        raise


def _seekable(stream: BinaryIO, limits: Limits) -> BinaryIO:
    if isinstance(stream, io.TextIOBase):
        raise UsageError("media streams must be binary; open the file with mode 'rb'")
    if hasattr(stream, "seekable") and stream.seekable():
        return stream
    data = stream.read(limits.file_bytes + 1)
    if not isinstance(data, bytes):
        raise UsageError(f"media streams must give bytes, got {type(data).__name__}")
    return io.BytesIO(data)
