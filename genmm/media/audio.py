"""Sound in: any accepted file or bytes to float32 samples that are finite, within limits, and say what was odd.

Shapes: samples [C, S]. Writing lives in `audio_write`, and is offered here too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from genmm.core.errors import MediaError, ShapeError, UsageError
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.audio_decode import decode_audio
from genmm.media.audio_write import AUDIO_FORMATS, as_samples, encode_audio_bytes, write_audio
from genmm.media.channels import downmix
from genmm.media.resampling import check_rates, resample, resampled_length
from genmm.media.source import MediaInput, MediaSource, open_source

__all__ = [
    "AUDIO_FORMATS",
    "Audio",
    "as_samples",
    "encode_audio_bytes",
    "read_audio",
    "read_audio_source",
    "resample",
    "resampled_length",
    "write_audio",
]

LOUDEST = 64.0
"""Float files may go above full scale; beyond this (+36 dB) their numbers are on another scale, often
16-bit steps."""


@dataclass(frozen=True, eq=False)
class Audio:
    """One sound."""

    samples: np.ndarray
    """[C, S] float32, finite, full scale at 1.0; C and S at least 1."""
    sample_rate: int
    """Samples per second."""
    notes: tuple[str, ...] = ()
    """Sentences about what was unusual in the file; empty for a sound one."""

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or 0 in self.samples.shape or self.samples.dtype != np.float32:
            raise ShapeError(f"samples must be float32 [C, S], got {self.samples.dtype} {self.samples.shape}")

    @property
    def channels(self) -> int:
        """C."""
        return self.samples.shape[0]

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples.shape[1] / self.sample_rate

    def mono(self) -> Audio:
        """The same sound with one channel [1, S]."""
        return self if self.channels == 1 else replace(self, samples=downmix(self.samples, 1))

    def stereo(self) -> Audio:
        """The same sound with two channels [2, S]."""
        return self if self.channels == 2 else replace(self, samples=downmix(self.samples, 2))

    def resampled(self, sample_rate: int) -> Audio:
        """The same sound at another rate."""
        if sample_rate == self.sample_rate:
            return self
        samples = resample(self.samples, self.sample_rate, sample_rate)
        return replace(self, samples=samples, sample_rate=sample_rate)

    def part(self, start_s: float, end_s: float) -> Audio:
        """The samples from `start_s` up to `end_s`, cut to what is there. Raises: UsageError when nothing is."""
        first, last = max(0, round(start_s * self.sample_rate)), round(end_s * self.sample_rate)
        if first >= min(last, self.samples.shape[1]):
            raise UsageError(f"there is no sound from {start_s:g} to {end_s:g} s; it is {self.seconds:.2f} s long")
        return replace(self, samples=self.samples[:, first:last])


def read_audio(
    source: MediaInput, *, sample_rate: int | None = None, mono: bool = False, limits: Limits = DEFAULT_LIMITS
) -> Audio:
    """Read the sound of an audio or video file.

    Args: `sample_rate` converts to that rate; `mono` mixes to one channel while reading (less memory).
    What is odd but harmless is repaired and said in `Audio.notes`: NaN and infinite samples become silence, sound on
    a scale far above 1.0 is brought to a peak of 1.0, damaged or missing parts become silence, a cut-off file gives
    what it has. In a video, time zero is that of the video: sound that begins later is preceded by silence.
    Raises: MediaError when there is no sound, no sample, no usable sample, or the file cannot be read (URLs are not
    opened); LimitError past `limits`; UsageError for a wrong argument.
    """
    if sample_rate is not None:
        check_rates(sample_rate)
    with open_source(source, limits) as media:
        return read_audio_source(media, sample_rate=sample_rate, mono=mono)


def read_audio_source(media: MediaSource, *, sample_rate: int | None = None, mono: bool = False) -> Audio:
    """`read_audio` for a source that is open already, under the same clock."""
    decoded = decode_audio(media, mono=mono)
    if decoded.frames == 0:
        raise MediaError(f"{media.name} holds no sound samples; it is empty or damaged")
    samples = _repaired(decoded.samples(), decoded.notes.add, media.name)
    decoded.blocks.clear()
    audio = Audio(samples, decoded.sample_rate, tuple(decoded.notes.items))
    return audio if sample_rate is None else audio.resampled(int(sample_rate))


def _repaired(samples: np.ndarray, note: Callable[[str], None], name: str) -> np.ndarray:
    """Finite samples on the usual scale; works in place. Raises: MediaError when most of it is not numbers."""
    finite = np.isfinite(samples)
    broken = samples.size - int(np.count_nonzero(finite))
    if 2 * broken > samples.size:
        raise MediaError(f"{name}: most samples are not finite numbers; it is damaged or not sound")
    if broken:
        samples[~finite] = 0.0
        note(f"{broken} of {samples.size} samples were not finite numbers; silence stands in their place")
    peak = float(max(samples.max(), -samples.min()))
    if peak > LOUDEST:
        samples /= peak
        note(f"the samples reached {peak:.6g} where 1.0 is full scale; the sound was scaled down to a peak of 1.0")
    return samples
