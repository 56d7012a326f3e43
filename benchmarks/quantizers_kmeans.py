"""k-means: ours beside faiss on a CPU and beside flash-kmeans on a GPU, with the distortion that each reaches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quantizers_search import NO_GPU, bare_product, find_faiss
from benchmarks.tables import Row, Section
from benchmarks.timing import alternate
from genmm.quantizers.kmeans import KMeansConfig, spherical_kmeans

SIZES = ((1000, 64, 8), (11_664, 896, 32), (50_000, 64, 64))
"""N, D, K."""
QUICK = ((300, 8, 4),)
ITERATIONS = 25


def rows_like(rows: int, width: int, themes: int) -> Tensor:
    """Unit rows [N, D] around that many directions."""
    generator = torch.Generator().manual_seed(0)
    middle = torch.randn(themes, width, generator=generator)
    which = torch.randint(0, themes, (rows,), generator=generator)
    return F.normalize(middle[which] + 0.8 * torch.randn(rows, width, generator=generator), dim=-1)


def distortion(unit: Tensor, labels: Tensor, clusters: int) -> float:
    """Sum of squared distances of unit rows to the mean of their cluster."""
    sums = torch.zeros(clusters, unit.shape[1], device=unit.device).index_add(0, labels, unit)
    sizes = torch.bincount(labels, minlength=clusters).clamp_min(1)
    return float(len(unit) - (sums.square().sum(1) / sizes).sum())


def kmeans_section(device: torch.device, *, runs: int, quick: bool) -> Section:
    """Whole fits, seeding included."""
    missing, rows = [], []
    for count, width, clusters in QUICK if quick else SIZES:
        unit = rows_like(count, width, clusters).to(device)
        found: dict[str, Tensor] = {}

        def ours(unit: Tensor = unit, clusters: int = clusters, found: dict = found) -> None:
            found["ours"] = spherical_kmeans(unit.unsqueeze(0), clusters).labels[0]

        peers, missing = _peers(unit, clusters, found, device)
        actions = {"ours": ours, "product": bare_product(unit, unit[:clusters].clone()), **peers}
        times = alternate(actions, runs=runs, device=device)
        loss = {name: distortion(unit, labels, clusters) for name, labels in found.items()}
        for peer in list(peers) or [""]:
            note = f"distortion {loss['ours']:.1f}" + (f" against {loss[peer]:.1f}" if peer else "")
            rows.append(
                Row(item=f"N {count}, D {width}, K {clusters}", unit="ms", ours=times["ours"].per_unit(1e-3), note=note,
                    peer=times[peer].per_unit(1e-3) if peer else None, peer_name=peer, better="lower",
                    limit=times["product"].median * 1000)
            )  # fmt: skip
    method = f"Spherical, at most {ITERATIONS} iterations. The limit is the bare product of one assignment."
    return Section("", " ".join([method, *missing]), tuple(rows))


def _peers(
    unit: Tensor, clusters: int, found: dict[str, Tensor], device: torch.device
) -> tuple[dict[str, Callable[[], None]], list[str]]:
    """Fits of what is installed, and what is not."""
    peers: dict[str, Callable[[], None]] = {}
    missing: list[str] = []
    faiss = find_faiss()
    if device.type != "cpu":
        missing.append("faiss: not measured (it runs on the CPU here).")
    elif faiss is None:
        missing.append("faiss: not measured (not installed: pip install faiss-cpu).")
    else:
        array = unit.numpy()

        def by_faiss() -> None:
            fit = faiss.Kmeans(array.shape[1], clusters, niter=ITERATIONS, spherical=True, seed=0)
            fit.train(array)
            found["faiss"] = torch.from_numpy(fit.index.search(array, 1)[1][:, 0])

        peers["faiss"] = by_faiss
    if device.type != "cuda":
        missing.append(f"flash-kmeans: not measured ({NO_GPU}).")
    elif not _has_flash():
        missing.append("flash-kmeans: not measured (not installed: pip install flash-kmeans).")
    else:
        config = KMeansConfig(engine="flash", max_iterations=ITERATIONS, sample_iterations=0)

        def by_flash() -> None:
            found["flash-kmeans"] = spherical_kmeans(unit.unsqueeze(0), clusters, config=config).labels[0]

        peers["flash-kmeans"] = by_flash
    return peers, missing


def _has_flash() -> bool:
    from importlib.util import find_spec

    return find_spec("flash_kmeans") is not None
