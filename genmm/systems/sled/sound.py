"""From latents to sound while they appear: codec state, the cut after a prompt, joins between parts.

Letters: k latent frames, D channels, n samples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genmm.systems.sled.latents import CodecStream, LatentCodec

FADE_S = 0.01
"""Length of the fades at joins between parts."""


class TakeSound:
    """The growing sound of one take; everything that is given back, joined, is the whole take.

    One part alone is exactly the codec's decode. Between parts the end is faded out, a pause follows, and the next
    part is faded in.
    """

    def __init__(self, codec: LatentCodec, parts: int, pause_s: float) -> None:
        self.codec, self.parts = codec, parts
        self.part = -1
        self._fade = int(FADE_S * codec.sample_rate) if parts > 1 else 0
        self._pause = int(pause_s * codec.sample_rate)
        self._stream: CodecStream | None = None
        self._skip = 0
        self._held = np.zeros(0, np.float32)
        self._is_fresh = True

    def begin_part(self, prompt: Tensor | None) -> None:
        """Start the next part; a prompt [P, D] warms the codec up and is not heard."""
        self.part += 1
        self._stream = self.codec.stream(1)
        self._skip, self._is_fresh = 0, True
        if prompt is not None:
            self._skip = len(prompt) * self.codec.hop_samples
            self._cut(self._stream.push(self._placed(prompt)))

    def push(self, latents: Tensor) -> np.ndarray:
        """Samples [n] that are final after these further latents [k, D]."""
        return self._joined(self._cut(self._stream.push(self._placed(latents))))

    def end_part(self) -> np.ndarray:
        """The last samples of the part, and the pause after it when another follows."""
        rest = np.concatenate((self._joined(self._cut(self._stream.flush())), self._held))
        self._held = np.zeros(0, np.float32)
        if self.part + 1 == self.parts:
            return rest
        fade = min(self._fade, len(rest))
        if fade:
            rest[-fade:] *= _ramp(fade)[::-1]
        return np.concatenate((rest, np.zeros(self._pause, np.float32)))

    def _placed(self, latents: Tensor) -> Tensor:
        device = latents.device
        if isinstance(self.codec, torch.nn.Module):
            device = next(self.codec.parameters()).device
        return latents[None].to(device, torch.float32)

    def _cut(self, samples: Tensor) -> np.ndarray:
        """What is left after the prompt has been skipped."""
        array = samples[0].float().cpu().numpy()
        skipped = min(self._skip, len(array))
        self._skip -= skipped
        return array[skipped:]

    def _joined(self, samples: np.ndarray) -> np.ndarray:
        """Fade the part in and hold back as much as a later fade-out may touch."""
        if not self._fade or not len(samples):
            return samples
        samples = np.concatenate((self._held, samples))
        if self._is_fresh and self.part > 0:
            # The ramp is as long as what is there; a first piece is far longer than the fade.
            fade = min(self._fade, len(samples))
            samples[:fade] *= _ramp(fade)
        self._is_fresh = False
        free = max(0, len(samples) - self._fade)
        self._held = samples[free:]
        return samples[:free]


def _ramp(length: int) -> np.ndarray:
    """Equal-power fade-in [length] float32."""
    return np.sin(np.linspace(0.0, np.pi / 2, length, dtype=np.float32))
