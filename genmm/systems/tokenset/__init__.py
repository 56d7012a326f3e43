"""TokenSet: images as unordered sets of tokens, generated and edited by fixed-sum discrete diffusion."""
