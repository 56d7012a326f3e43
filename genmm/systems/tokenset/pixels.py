"""From a map of features to pixels: the MaskGIT-VQGAN decoder of the released tokenizer, and a light one.

Letters: B batch, Z features, G grid, H height = width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from genmm.systems.tokenset.config import SetTokenizerConfig


def build_pixel_decoder(config: SetTokenizerConfig) -> nn.Module:
    """The pixel decoder that the configuration names: [B, Z, G, G] -> [B, 3, H, H] in [0, 1]."""
    return MaskgitDecoder(config) if config.pixels == "maskgit" else ShuffleDecoder(config)


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, *, legacy: bool) -> None:
        super().__init__()
        self.legacy = legacy
        self.norm1 = nn.GroupNorm(32, channels_in, eps=1e-6)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(32, channels, eps=1e-6)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        if channels_in != channels:
            # The released block feeds its shortcut with its own output, so the input is lost where channels change.
            self.nin_shortcut = nn.Conv2d(channels if legacy else channels_in, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        if hasattr(self, "nin_shortcut"):
            return hidden + self.nin_shortcut(hidden if self.legacy else x)
        return hidden + x


class Level(nn.Module):
    """Residual blocks at one resolution, then twice the resolution unless it is the last."""

    def __init__(self, channels_in: int, channels: int, blocks: int, *, grows: bool, legacy: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(channels if number else channels_in, channels, legacy=legacy) for number in range(blocks)
        )
        if grows:
            self.upsample_conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if hasattr(self, "upsample_conv"):
            x = self.upsample_conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class MaskgitDecoder(nn.Module):
    """The decoder of MaskGIT-VQGAN (arXiv 2202.04200), level 0 being the finest."""

    def __init__(self, config: SetTokenizerConfig) -> None:
        super().__init__()
        channels = [config.pixel_channels * factor for factor in config.channel_mult]
        legacy = config.legacy_mixing
        self.conv_in = nn.Conv2d(config.features, channels[-1], 3, padding=1)
        self.mid = nn.ModuleList(
            ResidualBlock(channels[-1], channels[-1], legacy=legacy) for _ in range(config.res_blocks)
        )
        self.up = nn.ModuleList(
            Level(before, own, config.res_blocks, grows=number > 0, legacy=legacy)
            for number, (own, before) in enumerate(zip(channels, [*channels[1:], channels[-1]], strict=True))
        )
        self.norm_out = nn.GroupNorm(32, channels[0], eps=1e-6)
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        x = self.conv_in(features)
        for block in self.mid:
            x = block(x)
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(functional.silu(self.norm_out(x)))


class ShuffleDecoder(nn.Module):
    """A light decoder: most of the upscaling at once by a pixel shuffle, a few convolutions at half resolution."""

    def __init__(self, config: SetTokenizerConfig) -> None:
        super().__init__()
        channels, half = config.pixel_channels, config.patch_size // 2
        self.spread = nn.Sequential(nn.Conv2d(config.features, channels * half * half, 1), nn.PixelShuffle(half))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
            )
            for _ in range(config.res_blocks)
        )
        self.out = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, features: Tensor) -> Tensor:
        x = self.spread(features)
        for block in self.blocks:
            x = x + block(x)
        return self.out(x) + 0.5
