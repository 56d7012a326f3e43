"""The published clustering: what is known of its rules, and that it starts from the rows it is given."""

import pytest
import torch
from torch.nn import functional as F

from genmm.core.errors import UsageError
from genmm.quantizers.kmeans_official import (
    official_adaptive,
    official_codebook,
    official_kmeans,
    official_seeds,
    pick_elbow,
    pick_silhouette,
)


def rows(count: int, width: int = 6, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_elbow_forgets_where_its_list_begins():
    bent_at_20 = [100.0 - 5 * k if k <= 8 else 60.0 - 0.1 * (k - 8) for k in range(21)]
    assert pick_elbow(bent_at_20) == 12  # the bend is at K = 20, index 7 of the second difference
    bent_at_30 = [100.0 - 5 * k if k <= 18 else 10.0 for k in range(21)]
    assert pick_elbow(bent_at_30) == 17 + 4


def test_the_elbow_needs_three_numbers():
    with pytest.raises(UsageError, match="at least 3"):
        pick_elbow([2.0, 1.0])


def test_the_silhouette_always_takes_the_first():
    assert pick_silhouette([0.7] * 4) == 12


def test_fits_and_final_fit_of_the_search():
    unit = rows(80)
    final, fits = official_adaptive(unit, most=15, seed_rows=lambda u, k: torch.arange(k))
    assert len(fits) == 4 and len(final.centroids) == pick_elbow([fit.distortion for fit in fits])
    assert all(int(fit.labels.max()) < 12 + n for n, fit in enumerate(fits))


def test_seeds_come_from_the_generator_and_differ():
    unit = rows(50)
    first = official_seeds(unit, 9, torch.Generator().manual_seed(1))
    assert torch.equal(first, official_seeds(unit, 9, torch.Generator().manual_seed(1)))
    assert len(set(first.tolist())) == 9


def test_the_iteration_limit_leaves_centroids_one_update_ahead():
    unit = rows(60)
    fit = official_kmeans(unit, range(5), max_iterations=1)
    labels = (unit @ unit[:5].T).argmax(1)
    assert torch.equal(fit.labels, labels) and not fit.converged
    torch.testing.assert_close(fit.centroids[0], unit[labels == 0].mean(0))


def test_the_codebook_passes_gradients_and_leaves_empty_rows_zero():
    tokens = torch.randn(6, 3, requires_grad=True)
    book = official_codebook(tokens, torch.tensor([0, 0, 2, 2, 2, 0]), 4)
    assert (book[1] == 0).all() and (book[3] == 0).all()
    book.square().sum().backward()
    assert tokens.grad.abs().sum() > 0
