"""Figures about pictures that need no pretrained network: PSNR, SSIM, distances of feature clouds, nearest pictures.

Letters: N pictures, D features, H height = width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from genmm.core.errors import ShapeError, UsageError

__all__ = ["PrecisionRecall", "frechet_distance", "nearest_pictures", "precision_recall", "psnr", "ssim"]


def psnr(pictures: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture [N]: pictures and targets [N, C, H, W] in [-1, 1]."""
    _check(pictures, targets)
    error = (pictures.float().clamp(-1, 1) - targets.float()).square().mean((1, 2, 3)) / 4.0
    return -10.0 * torch.log10(error.clamp_min(1e-10))


def ssim(pictures: Tensor, targets: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity of each picture [N], mean over colours: pictures and targets [N, C, H, W] in [-1, 1].

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, with its Gaussian window and constants.
    """
    _check(pictures, targets)
    if min(pictures.shape[-2:]) < window:
        raise UsageError(f"pictures must be at least {window} pixels wide and high, got {tuple(pictures.shape[-2:])}")
    one, other = (pictures.double().clamp(-1, 1) + 1) / 2, (targets.double() + 1) / 2
    line = torch.exp(-((torch.arange(window, dtype=torch.float64) - window // 2) ** 2) / (2 * sigma**2))
    line = (line / line.sum()).to(pictures.device)
    kernel = (line[:, None] * line)[None, None].expand(pictures.shape[1], 1, -1, -1)

    def mean(values: Tensor) -> Tensor:
        return functional.conv2d(values, kernel, groups=pictures.shape[1])

    a, b = mean(one), mean(other)
    var_a, var_b, cov = mean(one * one) - a * a, mean(other * other) - b * b, mean(one * other) - a * b
    c1, c2 = 0.01**2, 0.03**2
    found = ((2 * a * b + c1) * (2 * cov + c2)) / ((a * a + b * b + c1) * (var_a + var_b + c2))
    return found.mean((1, 2, 3)).float()


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Frechet distance of two clouds of features [N, D], taken as Gaussians, in float64.

    Not an FID unless the features are Inception's; say which network gave them. Needs N well above D to mean much.
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or min(len(one), len(other)) < 2:
        raise ShapeError(
            f"features must be [N, D] with one D and N above 1, got {tuple(one.shape)}, {tuple(other.shape)}"
        )
    a, b = one.double(), other.double()
    cov_a, cov_b = (torch.cov(x.T).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    # The trace of (A B)^(1/2) is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric.
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    roots = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    return float((mean + cov_a.trace() + cov_b.trace() - 2 * roots).clamp_min(0))


@dataclass(frozen=True)
class PrecisionRecall:
    """How much of what was made lies among real pictures, and the other way round."""

    precision: float
    """Share of made pictures inside the neighbourhood of a real one."""
    recall: float
    """Share of real pictures inside the neighbourhood of a made one."""


def precision_recall(real: Tensor, made: Tensor, neighbours: int = 3) -> PrecisionRecall:
    """Improved precision and recall of features [N, D].

    Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991), with its 3 nearest neighbours.
    """
    if min(len(real), len(made)) <= neighbours:
        raise UsageError(f"precision and recall need more than {neighbours} pictures, got {len(real)} and {len(made)}")

    def inside(points: Tensor, centres: Tensor) -> float:
        radius = torch.cdist(centres, centres).kthvalue(neighbours + 1, dim=1).values
        return float((torch.cdist(points, centres) <= radius).any(1).double().mean())

    real, made = real.double(), made.double()
    return PrecisionRecall(inside(made, real), inside(real, made))


def nearest_pictures(pictures: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """For each picture [N, C, H, W] the index of the nearest other one and their RMS difference (0 to 1)."""
    if pictures.shape[1:] != others.shape[1:]:
        raise ShapeError(f"pictures must have one size, got {tuple(pictures.shape)} and {tuple(others.shape)}")
    flat = pictures.float().flatten(1), others.float().flatten(1)
    distance = torch.cdist(*flat, compute_mode="donot_use_mm_for_euclid_dist")  # exact copies differ by 0
    best, index = distance.min(1)
    return index, best / (2.0 * pictures[0].numel() ** 0.5)


def _check(pictures: Tensor, targets: Tensor) -> None:
    if pictures.shape != targets.shape or pictures.ndim != 4:
        raise ShapeError(
            f"pictures and targets must be [N, C, H, W], got {tuple(pictures.shape)}, {tuple(targets.shape)}"
        )
