"""Containers through PyAV: an allow-list of formats and decoders, no second file, no network, counted streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import av

from genmm.core.errors import GenmmError, LimitError, MediaError
from genmm.core.limits import Limits
from genmm.media.source import BUSY, MediaSource

__all__ = [
    "DAMAGE",
    "Notes",
    "check_size",
    "decoded",
    "largest_video",
    "main_audio",
    "max_pixels",
    "open_container",
    "zero_s",
]

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi,mpegts,mpeg,flv,gif",
    "wav,w64,aiff,au,caf,flac,ogg,mp3,aac",
)
"""Demuxers by FFmpeg's names. Playlists (hls, dash, concat) open other files and are not among them, on purpose."""

DECODERS = ",".join(
    (
        "h264,hevc,vp8,vp9,libvpx,libvpx-vp9,av1,libdav1d,mpeg4,mpeg2video,mpeg1video,h263,flv,mjpeg,gif,theora,prores",
        "msmpeg4,msmpeg4v2,vp6,vp6f,rawvideo,png,ffv1",
        "aac,aac_fixed,mp3,mp3float,mp2,mp2float,mp1,mp1float,opus,libopus,vorbis,flac,alac,ac3,eac3,speex,libspeex",
        "pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be",
        "pcm_u8,pcm_s8,pcm_mulaw,pcm_alaw,adpcm_ms,adpcm_ima_wav,adpcm_swf,gsm_ms",
    )
)
"""Decoders that files in those containers need; the rest of FFmpeg stays out of reach of uploads."""

DAMAGE = (av.FFmpegError, ValueError, OSError, MemoryError, UnicodeDecodeError)
"""What PyAV raises on broken input."""

OPEN_STREAMS = 64
"""FFmpeg stops here while it reads a header, so that ours is the message for anything above `limits.streams`."""


@dataclass
class Notes:
    """Sentences about what is unusual in a file, each once, in order."""

    items: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Keep a sentence unless it is known."""
        if text not in self.items:
            self.items.append(text)


def max_pixels(limits: Limits) -> int:
    """Largest video picture, in pixels; either side may be the long one."""
    return limits.width * limits.height


@contextmanager
def open_container(media: MediaSource) -> Iterator[Any]:
    """Open the container in a source for reading.

    Raises: MediaError when it is none of FORMATS or broken beyond its header; LimitError for too many streams.
    Errors of FFmpeg inside the block become MediaError too.
    """
    # The pixel limit here bounds the decoders that FFmpeg runs while it looks for stream parameters.
    options = {
        "format_whitelist": ",".join(FORMATS),
        "codec_whitelist": DECODERS,
        "protocol_whitelist": "",
        "max_pixels": str(max_pixels(media.limits)),
        "max_streams": str(OPEN_STREAMS),
    }
    try:
        with av.open(
            media.reader(),
            options=options,
            metadata_errors="replace",
            timeout=BUSY * media.limits.decode_s,
            io_open=_refuse_second_file,
        ) as container:
            _check_streams(container, media)
            yield container
    except GenmmError:
        raise
    except DAMAGE as error:
        media.clock.check()  # FFmpeg calls it "immediate exit" when the time is used up
        raise _unreadable(media.name, error) from error


def _refuse_second_file(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise MediaError("the file asks for another file or address; only files that hold their own media are read")


def _unreadable(name: str, error: BaseException) -> MediaError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return MediaError(
        f"{name} cannot be read as media ({reason}); it may be damaged, cut off, or of a kind that is not accepted. "
        "Accepted: mp4, mov, mkv, webm, avi, ts, flv, gif, wav, flac, ogg, opus, mp3, m4a, aac, aiff"
    )


def _check_streams(container: Any, media: MediaSource) -> None:
    count = len(container.streams)
    if count > media.limits.streams:
        raise LimitError(f"{media.name} holds {count} streams, the limit is {media.limits.streams}")
    if count == 0:
        raise MediaError(f"{media.name} holds no streams")


def largest_video(container: Any, media: MediaSource) -> Any | None:
    """The video stream with most pixels, cover pictures left out; None without one.

    Raises: LimitError when its declared size is above the limits; MediaError when no accepted decoder exists for any.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    usable = [s for s in streams if _is_accepted(s)]
    if streams and not usable:
        raise MediaError(f"{media.name}: the video has a coding that is not accepted; convert it to H.264")
    if not usable:
        return None
    stream = max(usable, key=lambda s: (s.codec_context.width * s.codec_context.height, -s.index))
    check_size(stream.codec_context.width, stream.codec_context.height, media)
    stream.codec_context.options = {"max_pixels": str(max_pixels(media.limits))}
    stream.codec_context.thread_count = 1  # frame threads can hang when a loop is left early beside torch
    return stream


def _is_accepted(stream: Any) -> bool:
    return stream.codec_context is not None and stream.codec_context.name in DECODERS.split(",")


def check_size(width: int, height: int, media: MediaSource) -> None:
    """Raises: LimitError when a picture of this size is above the limits, in either orientation."""
    long, short = max(media.limits.width, media.limits.height), min(media.limits.width, media.limits.height)
    if max(width, height) > long or width * height > long * short:
        raise LimitError(f"{media.name} has pictures of {width}x{height}, the limit is {long}x{short}; scale it down")


def main_audio(container: Any, media: MediaSource) -> Any | None:
    """The first audio stream that can be decoded; None without one.

    Raises: MediaError when there is sound, but no accepted decoder for it.
    """
    streams = list(container.streams.audio)
    usable = [s for s in streams if _is_accepted(s)]
    if streams and not usable:
        raise MediaError(f"{media.name}: the sound has a coding that is not accepted; convert it to WAV")
    return usable[0] if usable else None


def zero_s(container: Any) -> float:
    """Where the file's time zero lies on its own clock, in seconds: the earliest start of sound or picture."""
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in container.streams
        if stream.type in ("audio", "video") and stream.start_time is not None and stream.time_base
    ]
    return max(0.0, min(starts, default=0.0))


def decoded(container: Any, stream: Any, media: MediaSource, notes: Notes) -> Iterator[Any]:
    """Decode one stream, going on after damaged packets; what was lost is said in `notes`.

    Yields: PyAV frames in order of presentation. Raises: LimitError when the clock runs out.
    """
    lost = 0
    packets = _packets(container, stream, notes)
    for packet in packets:
        media.clock.check()
        try:
            frames = packet.decode() if packet is not None else stream.codec_context.decode(None)
        except GenmmError:
            raise
        except av.error.EOFError:
            continue
        except DAMAGE:
            lost += 1
            continue
        yield from frames
    if lost:
        notes.add(f"{lost} damaged packet{'s were' if lost > 1 else ' was'} skipped")


def _packets(container: Any, stream: Any, notes: Notes) -> Iterator[Any]:
    """Packets of the stream; at the end, or where the container breaks, a flush (None when the demuxer gave none)."""
    try:
        yield from container.demux(stream)
    except GenmmError:
        raise
    except DAMAGE:
        notes.add("the file breaks off or is damaged; what comes after that point is missing")
        with suppress(*DAMAGE):
            yield None
