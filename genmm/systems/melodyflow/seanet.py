"""The layers of MelodyFlow's codec: centred convolutions with reflected edges, snake activations, an LSTM with a skip.

Weights are plain; weight normalisation is folded when official tensors are read (`fold_weight_norm`).

Letters: B batch, C channels, L samples or frames at the rate of the layer; signals are [B, C, L] float32.
Source: EnCodec (arXiv 2210.13438) in its non-causal form with the changes of MelodyFlow (arXiv 2407.03648).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from genmm.systems.melodyflow.config import SeanetConfig


def reflect(x: Tensor, left: int, right: int) -> Tensor:
    """Mirror x [..., L] at both ends without repeating the edge: [..., left + L + right].

    A signal that is not longer than the padding gets zeros at its end first, which are cut off afterwards.
    """
    missing = max(0, max(left, right) - x.shape[-1] + 1)
    padded = functional.pad(functional.pad(x, (0, missing)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - missing]


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha with one alpha per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        return torch.addcdiv(x, torch.sin(self.alpha * x).square(), (self.alpha + 1e-9).expand_as(x))


class CentredConv(nn.Module):
    """A convolution that sees as far ahead as back: [B, C, L] -> [B, C', ceil(L / stride)]."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, out_channels, kernel, stride, dilation=dilation)
        self.extent = (kernel - 1) * dilation + 1
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """An odd padding has its extra sample on the left; a last partial window is completed on the right."""
        total = self.extent - self.stride
        right = total // 2
        extra = -x.shape[-1] % self.stride
        return self.conv(reflect(x, total - right, right + extra))


class CentredUpsample(nn.Module):
    """A transposed convolution cut at both ends: [B, C, L] -> [B, C', L * stride]."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, out_channels, 2 * stride, stride)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """The longer of two unequal cuts is on the left."""
        right = self.stride // 2
        spread = self.conv(x)
        return spread[..., self.stride - right : spread.shape[-1] - right]


class SkipLSTM(nn.Module):
    """An LSTM over time whose input is added to its output: [B, C, L] -> [B, C, L]."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, depth)

    def forward(self, x: Tensor) -> Tensor:
        """The whole sequence at once: its memory reaches back without end, so it is never cut into pieces."""
        steps = x.permute(2, 0, 1)
        out, _ = self.lstm(steps)
        return (out + steps).permute(1, 2, 0)


class ResidualBlock(nn.Module):
    """Snake, convolution to C / compress, snake, 1x1 convolution back to C, plus the input."""

    def __init__(self, channels: int, config: SeanetConfig, dilation: int) -> None:
        super().__init__()
        inner = channels // config.compress
        self.block = nn.Sequential(
            Snake(channels),
            CentredConv(channels, inner, config.residual_kernel_size, dilation=dilation),
            Snake(inner),
            CentredConv(inner, channels, 1),
        )
        self.shortcut = nn.Identity() if config.true_skip else CentredConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        return self.shortcut(x) + self.block(x)


def encoder_layers(config: SeanetConfig) -> tuple[list[nn.Module], int]:
    """Layers from waveform to mean and scale, and how many of them come before the LSTM."""
    width = config.n_filters
    layers: list[nn.Module] = [CentredConv(config.channels, width, config.kernel_size)]
    for stride in reversed(config.ratios):
        layers += _residual(width, config)
        layers += [Snake(width), CentredConv(width, 2 * width, 2 * stride, stride)]
        width *= 2
    local = len(layers)
    if config.lstm:
        layers.append(SkipLSTM(width, config.lstm))
    return [*layers, Snake(width), CentredConv(width, 2 * config.dimension, config.last_kernel_size)], local


def decoder_layers(config: SeanetConfig) -> tuple[list[nn.Module], int]:
    """Layers from latents to waveform, and how many of them there are up to and including the LSTM."""
    width = config.n_filters * 2 ** len(config.ratios)
    layers: list[nn.Module] = [CentredConv(config.dimension, width, config.kernel_size)]
    if config.lstm:
        layers.append(SkipLSTM(width, config.lstm))
    whole = len(layers)
    for stride in config.ratios:
        layers += [Snake(width), CentredUpsample(width, width // 2, stride)]
        width //= 2
        layers += _residual(width, config)
    return [*layers, Snake(width), CentredConv(width, config.channels, config.last_kernel_size)], whole


def _residual(width: int, config: SeanetConfig) -> list[nn.Module]:
    return [ResidualBlock(width, config, config.dilation_base**j) for j in range(config.n_residual_layers)]


def halo(layers: list[nn.Module]) -> int:
    """Inputs of the chain of local layers that one output can depend on to each side, rounded up.

    Half-widths of all kernels add up at the rates they work at; what lies further away cannot matter.
    """
    reach, rate = Fraction(0), Fraction(1)
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, CentredConv):
                reach += Fraction(module.extent) / rate
                rate /= module.stride
            elif isinstance(module, CentredUpsample):
                reach += Fraction(2) / rate
                rate *= module.stride
    return math.ceil(reach)


_NORMED = re.compile(r"(.*)\.(?:conv\.conv|convtr\.convtr)\.parametrizations\.weight\.original0")


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official codec tensors under our names, with the weight normalisation (over axis 0) multiplied out."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _NORMED.fullmatch(name)
        if match:
            direction = tensors[name.removesuffix("0") + "1"].float()
            norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.ndim - 1))
            plain[f"{match[1]}.conv.weight"] = direction * (tensor.float() / norm)
        elif ".parametrizations." not in name:
            plain[name.replace(".conv.conv.", ".conv.").replace(".convtr.convtr.", ".conv.")] = tensor
    return plain
