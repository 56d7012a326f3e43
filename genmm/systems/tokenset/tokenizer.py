"""An image as an unordered set of codes, and back from the codes in any order.

Letters: B batch, M tokens, W width, D code width, G grid, Z features, H height = width of the image.
Source: TokenSet (arXiv 2503.16425) section 3.1, on TiTok (arXiv 2406.07550). The decoder gives its code tokens no
position, so it cannot tell their order: invariance is built in, not learned. `legacy_mixing` keeps what the released
weights need (see the configuration); without it every token is the projection of one latent query, and a tokenizer
trained with several set sizes serves them all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from genmm.core.errors import ShapeError, UsageError
from genmm.quantizers.codebook import Quantised, SphereCodebook
from genmm.systems.tokenset.blocks import Block
from genmm.systems.tokenset.config import SetTokenizerConfig
from genmm.systems.tokenset.pixels import build_pixel_decoder

START_STD = 0.02
"""Standard deviation of new embeddings; the original scales by width^-0.5, about the same."""
PLACE_SIZE = 0.5
"""Size of the waves with which places start, where they start as waves."""


def place_waves(places: Tensor, width: int) -> Tensor:
    """Sines and cosines of places [N, 2] in [0, 1], as far as they fit: [N, W]."""
    octaves = width // 4
    angles = places[:, :, None] * torch.pi * 2.0 ** torch.linspace(0.0, 3.0, octaves)  # [N, 2, W/4]
    waves = torch.cat((angles.sin(), angles.cos()), -1).flatten(1)
    return functional.pad(waves, (0, width - waves.shape[1]))


def grid_places(side: int) -> Tensor:
    """Middles of the cells of a square grid, [side^2, 2] in [0, 1]."""
    line = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)


def spread_places(count: int) -> Tensor:
    """Places of which every first part covers the square evenly, [N, 2] in [0, 1].

    Source: the additive recurrence R2 (extremelearning.com.au/unreasonable-effectiveness-of-quasirandom-sequences).
    """
    plastic = 1.32471795724474602596
    steps = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    return ((0.5 + steps / torch.tensor([plastic, plastic**2], dtype=torch.float64)) % 1.0).float()


class SetEncoder(nn.Module):
    """Image [B, 3, H, H] in [0, 1] and queries [M, W] -> vectors [B, M, D]."""

    def __init__(self, config: SetTokenizerConfig) -> None:
        super().__init__()
        self.legacy, width = config.legacy_mixing, config.width
        self.patch_embed = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.class_embedding = nn.Parameter(START_STD * torch.randn(1, width))
        self.positional_embedding = nn.Parameter(START_STD * torch.randn(config.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Block(width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.ln_post = nn.LayerNorm(width)
        self.conv_out = nn.Conv2d(width, config.code_width, 1)

    def latents(self, images: Tensor, queries: Tensor) -> Tensor:
        """What the queries have become after the last norm, [B, M, W]."""
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)  # [B, W, G, G] -> [B, G*G, W]
        first = self.class_embedding.expand(len(images), 1, -1).to(patches.dtype)
        x = torch.cat((first, patches), dim=1) + self.positional_embedding
        x = self.ln_pre(torch.cat((x, queries.expand(len(images), -1, -1).to(x.dtype)), dim=1))
        for block in self.transformer:
            x = block(x)
        return self.ln_post(x[:, -queries.shape[0] :])

    def forward(self, images: Tensor, queries: Tensor) -> Tensor:
        return self.project(self.latents(images, queries))

    def project(self, latents: Tensor) -> Tensor:
        """Latents [B, M, W] -> vectors [B, M, D]."""
        batch, tokens, width = latents.shape
        if self.legacy:  # the memory of [M, W] read as [W, M], as the released code does
            columns = latents.reshape(batch, width, tokens, 1)
        else:
            columns = latents.transpose(1, 2)[..., None]
        return self.conv_out(columns)[..., 0].transpose(1, 2)


class SetDecoder(nn.Module):
    """Unit codes [B, M, D] in any order -> features [B, Z, G, G]."""

    def __init__(self, config: SetTokenizerConfig) -> None:
        super().__init__()
        self.grid, width = config.grid, config.width
        self.decoder_embed = nn.Linear(config.code_width, width)
        self.class_embedding = nn.Parameter(START_STD * torch.randn(1, width))
        self.positional_embedding = nn.Parameter(START_STD * torch.randn(config.grid**2 + 1, width))
        self.mask_token = nn.Parameter(START_STD * torch.randn(1, 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Block(width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.ln_post = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, config.features, 1))

    def forward(self, codes: Tensor, keep: Tensor | None = None) -> Tensor:
        """`keep` [B, M] bool leaves out the padding of smaller sets."""
        embedded = self.decoder_embed(codes)
        slots = torch.cat((self.class_embedding[None], self.mask_token.expand(1, self.grid**2, -1)), dim=1)
        slots = (slots + self.positional_embedding).expand(len(codes), -1, -1).to(embedded.dtype)
        mask = None
        if keep is not None:
            seen = torch.ones(len(codes), slots.shape[1], dtype=torch.bool, device=keep.device)
            mask = torch.cat((seen, keep), dim=1)[:, None, None]
        x = self.ln_pre(torch.cat((slots, embedded), dim=1))
        for block in self.transformer:
            x = block(x, mask)
        x = self.ln_post(x[:, 1 : 1 + self.grid**2])
        return self.ffn(x.transpose(1, 2).reshape(len(codes), -1, self.grid, self.grid))


class SetTokenizer(nn.Module):
    """Encoder, codebook, decoder and pixel decoder. Pictures are [B, 3, H, H] float in [-1, 1]."""

    def __init__(self, config: SetTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_tokens = nn.Parameter(START_STD * torch.randn(config.tokens, config.width))
        self.encoder = SetEncoder(config)
        self.quantize = SphereCodebook(config.codes, config.code_width)
        self.decoder = SetDecoder(config)
        self.pixel_decoder = build_pixel_decoder(config)
        if not config.legacy_mixing:
            self._start_from_places()

    @torch.no_grad()
    def _start_from_places(self) -> None:
        """Patches and queries start as waves of where they are, so that a query finds its surroundings at once.

        Ours. From plain noise, training spends most of its time on finding out where things are.
        """
        width = self.config.width
        cells = PLACE_SIZE * place_waves(grid_places(self.config.grid), width)
        self.encoder.positional_embedding[1:] = cells
        self.decoder.positional_embedding[1:] = cells
        own = 5.0 * START_STD * torch.randn(self.config.tokens, width)
        self.latent_tokens.copy_(PLACE_SIZE * place_waves(spread_places(self.config.tokens), width) + own)

    def vectors(self, images: Tensor, size: int | None = None) -> Tensor:
        """What the encoder says before quantisation: [B, M, D] with M = `size`, else all queries.

        Raises: ShapeError for pictures of another size, UsageError for a set size that the tokenizer does not know.
        """
        side = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, side, side):
            raise ShapeError(f"pictures must be [B, 3, {side}, {side}], got {tuple(images.shape)}")
        size = self.config.tokens if size is None else size
        if not 1 <= size <= self.config.tokens or (self.config.legacy_mixing and size != self.config.tokens):
            known = self.config.tokens if self.config.legacy_mixing else f"1 to {self.config.tokens}"
            raise UsageError(f"this tokenizer makes sets of {known} tokens, got {size}")
        return self.encoder(images * 0.5 + 0.5, self.latent_tokens[:size])

    def encode(self, images: Tensor, size: int | None = None) -> Tensor:
        """Token ids [B, M] int64 of pictures; their order carries no meaning."""
        return self.quantize.nearest(self.vectors(images, size))

    def quantised(self, images: Tensor, size: int | None = None) -> Quantised:
        """Codes with gradients and the commitment loss, for training."""
        return self.quantize(self.vectors(images, size))

    def decode(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Pictures [B, 3, H, H], nominally in [-1, 1], from token ids [B, M] in any order; any M a trained size."""
        codes = self.quantize.lookup(tokens)
        return self.decode_codes(codes.to(self.decoder.decoder_embed.weight.dtype), keep)

    def decode_codes(self, codes: Tensor, keep: Tensor | None = None) -> Tensor:
        """As `decode`, from unit vectors [B, M, D]."""
        return self.pixel_decoder(self.decoder(codes, keep)) * 2.0 - 1.0
