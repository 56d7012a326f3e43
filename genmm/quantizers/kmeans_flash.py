"""k-means by the flash-kmeans package, where somebody has installed it: an optional engine for CUDA tensors."""

from __future__ import annotations

from torch import Tensor

from genmm.core.errors import MissingDependencyError, UsageError

__all__ = ["flash_labels"]


def flash_labels(unit: Tensor, centroids: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, int]:
    """Labels [B, N] int64 and iterations of spherical k-means on unit rows [B, N, D] from centroids [B, K, D].

    `tolerance` is the package's: how far the centroids may still move.
    Raises: MissingDependencyError, UsageError. Source: flash-kmeans (arXiv 2603.09229).
    """
    if unit.device.type != "cuda":
        raise UsageError(f'the k-means engine "flash" runs on CUDA tensors, these are on {unit.device}; take "own"')
    try:
        from flash_kmeans import batch_kmeans_Cosine
    except ImportError as error:
        raise MissingDependencyError(
            'the k-means engine "flash" needs the flash-kmeans package: pip install flash-kmeans, or take "own"'
        ) from error
    labels, _, rounds = batch_kmeans_Cosine(
        unit.contiguous(), centroids.shape[1], max_iters=iterations, tol=tolerance, init_centroids=centroids
    )
    return labels.long(), int(rounds)
