"""SLED: speech as a sequence of continuous latents with an energy-distance head (arXiv 2505.13181)."""
