"""Peak memory of decoding so many latent frames, in a process of its own: python -m benchmarks.music_memory FRAMES."""

from __future__ import annotations

import sys

from benchmarks.memory import peak_memory_bytes


def main(frames: int) -> None:
    """Decode with the released configuration and random weights; prints the growth of the peak in MiB."""
    import torch

    from genmm.systems.melodyflow.config import SeanetConfig
    from genmm.systems.melodyflow.vae import SeanetCodec

    codec = SeanetCodec(SeanetConfig(n_filters=16)).eval().requires_grad_(False)
    with torch.inference_mode():
        codec.decode(torch.zeros(1, codec.channels, 26), piece_frames=25)
        before = peak_memory_bytes() or 0
        samples = codec.decode(torch.randn(1, codec.channels, frames), piece_frames=25)
    grown = (peak_memory_bytes() or 0) - before
    print(grown / 2**20, samples.numel() * 4 / 2**20)


if __name__ == "__main__":
    main(int(sys.argv[1]))
