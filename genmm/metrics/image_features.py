"""A small network of our own that looks at pictures: perceptual distances in training, statistics in measurements.

It is trained here to tell emoji styles and sub-groups apart (`models.image_features`), with no pretrained weights. Two
of them with different seeds exist for a model: one that trainings may look at, and a judge that they never see.
Letters: B batch, H height = width, D features.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genmm.core.checkpoint import load_into, load_tensors, read_config, save_checkpoint
from genmm.core.errors import CheckpointError

__all__ = ["PictureFeatures", "load_features", "perceptual_distance", "save_features"]


class PictureFeatures(nn.Module):
    """Pictures [B, 3, H, H] in [-1, 1] -> maps of every stage, and their mean as features [B, D]."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        before = (3, *widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(start, end, 3, stride=2, padding=1),
                nn.GroupNorm(8, end),
                nn.SiLU(),
                nn.Conv2d(end, end, 3, padding=1),
                nn.GroupNorm(8, end),
                nn.SiLU(),
            )
            for start, end in zip(before, widths, strict=True)
        )

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """The output of every stage, each half as large as the one before."""
        found, x = [], pictures
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, pictures: Tensor) -> Tensor:
        """Features [B, D] for statistics: the last map averaged over places, and its maximum."""
        last = self.maps(pictures)[-1].float()
        return torch.cat((last.mean((2, 3)), last.amax((2, 3))), dim=-1)


def perceptual_distance(features: PictureFeatures, pictures: Tensor, targets: Tensor) -> Tensor:
    """Mean distance of the normalised maps of pictures and targets [B, 3, H, H] over all stages, scalar.

    Source: the form of LPIPS (arXiv 1801.03924) without its weights: unit vectors over channels, squared difference.
    """
    with torch.no_grad():
        wanted = features.maps(targets)
    distances = [
        (functional.normalize(own.float(), dim=1) - functional.normalize(other.float(), dim=1)).square().sum(1).mean()
        for own, other in zip(features.maps(pictures), wanted, strict=True)
    ]
    return torch.stack(distances).mean()


def save_features(
    features: PictureFeatures, folder: str | os.PathLike[str], about: Mapping[str, Any] | None = None
) -> Path:
    """Write a folder with the network in float16; gives it back."""
    config = {"system": "tokenset", "features": list(features.widths), **(about or {})}
    return save_checkpoint(folder, config, features.state_dict(), dtype=torch.float16)


def load_features(folder: str | os.PathLike[str]) -> PictureFeatures:
    """Read such a folder. Raises: CheckpointError when it is something else."""
    config = read_config(folder)
    if "features" not in config:
        raise CheckpointError(
            f"{folder} holds no picture features; train them with configs/tokenset/features_demo.yaml"
        )
    features = PictureFeatures(tuple(config["features"]))
    load_into(features, load_tensors(folder))
    return features.eval().requires_grad_(False)
