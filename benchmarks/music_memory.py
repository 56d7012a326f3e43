"""Peak memory of decoding so many latent frames, in a process of its own: python -m benchmarks.music_memory FRAMES."""

from __future__ import annotations

import resource
import sys


def main(frames: int) -> None:
    """Decode with the released configuration and random weights; prints the growth of the peak in MiB."""
    import torch

    from genmm.systems.melodyflow.config import SeanetConfig
    from genmm.systems.melodyflow.vae import SeanetCodec

    codec = SeanetCodec(SeanetConfig(n_filters=16)).eval().requires_grad_(False)
    with torch.inference_mode():
        codec.decode(torch.zeros(1, codec.channels, 26), piece_frames=25)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        samples = codec.decode(torch.randn(1, codec.channels, frames), piece_frames=25)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(grown / unit, samples.numel() * 4 / 2**20)


if __name__ == "__main__":
    main(int(sys.argv[1]))
