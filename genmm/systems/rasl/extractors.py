"""What describes the pictures of a step: by hand without weights, a backbone, a small own net, or any callable.

Letters: F pictures in a step, D features.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genmm.core.checkpoint import load_into
from genmm.core.errors import CheckpointError, ShapeError, UsageError
from genmm.core.weights import read_tensors
from genmm.systems.rasl.visual_features import VISUAL_SIZE, static_features

__all__ = ["HANDCRAFTED", "CallableExtractor", "ConvNet", "NetExtractor", "VisualExtractor", "torchvision_extractor"]

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VisualExtractor(Protocol):
    """Describes one step."""

    name: str
    """Identifies the features; models and tables with another name do not fit together."""
    size: int
    """D."""

    def __call__(self, pictures: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """Pictures [F, 128, 128, 3] uint8 and their motion features [8] -> [D] float32."""
        ...


class _Handcrafted:
    """Colour, gradients, light and movement; see `visual_features`."""

    name = "handcrafted-1"
    size = VISUAL_SIZE

    def __call__(self, pictures: np.ndarray, motion: np.ndarray) -> np.ndarray:
        return np.concatenate([static_features(pictures[len(pictures) // 2]), motion])


HANDCRAFTED: VisualExtractor = _Handcrafted()


@dataclass(frozen=True)
class CallableExtractor:
    """Any function of the pictures of a step."""

    function: Callable[[np.ndarray], Any]
    """[F, 128, 128, 3] uint8 -> [D]."""
    size: int
    name: str = "callable"

    def __call__(self, pictures: np.ndarray, motion: np.ndarray) -> np.ndarray:
        row = np.asarray(self.function(pictures), np.float32)
        if row.shape != (self.size,) or not np.isfinite(row).all():
            raise ShapeError(f"the extractor {self.name} must give {self.size} finite numbers, got shape {row.shape}")
        return row


class ConvNet(nn.Module):
    """A small convolutional network [B, 3, 128, 128] in [0, 1] -> [B, width], to be trained by whoever uses it."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        sizes = (3, 24, 48, 96, width)
        layers: list[nn.Module] = []
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.GELU()]
        self.layers, self.width = nn.Sequential(*layers), width

    def forward(self, pictures: Tensor) -> Tensor:
        """Mean over places of the last map."""
        return self.layers(pictures).mean((2, 3))


class NetExtractor:
    """A network that describes the middle picture of a step, followed by the motion features."""

    def __init__(self, network: nn.Module, size: int, name: str, *, side: int = 128, imagenet: bool = False) -> None:
        self._network, self._side = network.eval().requires_grad_(False), side
        self.name, self.size = name, size + 8
        mean = IMAGENET_MEAN if imagenet else (0.0, 0.0, 0.0)
        deviation = IMAGENET_DEVIATION if imagenet else (1.0, 1.0, 1.0)
        self._mean, self._deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, deviation))

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray, motion: np.ndarray) -> np.ndarray:
        picture = torch.from_numpy(pictures[len(pictures) // 2]).permute(2, 0, 1)[None].float() / 255.0
        if self._side != picture.shape[-1]:
            picture = F.interpolate(picture, size=(self._side, self._side), mode="bilinear", antialias=True)
        row = self._network((picture - self._mean) / self._deviation).reshape(-1)
        return np.concatenate([row.numpy().astype(np.float32), motion])


def torchvision_extractor(architecture: str, weights: str | os.PathLike[str]) -> NetExtractor:
    """Pooled features of resnet18 (512) or resnet50 (2048) with weights from a .safetensors file.

    Nothing is downloaded. Raises: UsageError for another architecture; CheckpointError for weights that do not fit.
    """
    import torchvision

    sizes = {"resnet18": 512, "resnet50": 2048}
    if architecture not in sizes:
        raise UsageError(f"the backbone must be {' or '.join(sizes)}, got {architecture!r}")
    if not os.fspath(weights).endswith(".safetensors"):
        raise CheckpointError("backbone weights are read from .safetensors files only; convert them first")
    network = getattr(torchvision.models, architecture)(weights=None)
    load_into(network, read_tensors(weights))
    network.fc = nn.Identity()
    return NetExtractor(network, sizes[architecture], f"torchvision-{architecture}", side=224, imagenet=True)
