"""What a speech language model needs from a codec, whichever codec it is.

Letters: B batch, S samples, T latent frames, D latent channels.
"""

from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from torch import Tensor


class CodecStream(Protocol):
    """A decoder that carries its state from one push to the next."""

    def push(self, latents: Tensor) -> Tensor:
        """Take the next latents [B, k, D], give back every sample [B, n] that no later latent can change."""
        ...

    def flush(self) -> Tensor:
        """Give back what is still held, [B, n]; the stream ends here."""
        ...


@runtime_checkable
class LatentCodec(Protocol):
    """Waveforms [B, S] to a sequence of continuous vectors [B, ceil(S / hop), D] and back.

    Concatenated pushes plus flush of a stream equal `decode` up to float rounding.
    """

    sample_rate: int
    hop_samples: int
    channels: int

    @property
    def frame_rate(self) -> float:
        """Latent frames a second."""
        ...

    def encode(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Latents [B, T, D] of mono waveforms [B, S] in [-1, 1], `lengths` [B] counts real samples."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Waveforms [B, T * hop] of latents [B, T, D]."""
        ...

    def stream(self, batch: int = 1) -> CodecStream:
        """A fresh streaming decoder for `batch` sequences."""
        ...

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Load from a folder with config.json and model.safetensors."""
        ...

    def save(self, folder: Path) -> None:
        """Write such a folder."""
        ...
