"""Nearest-code search, residual levels and sums of codes: ours beside peers, with the bare product as the limit.

Letters: N vectors, D width, K codes, Q levels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.tables import Row, Section
from benchmarks.timing import Measured, alternate
from genmm.quantizers.nearest import code_sums, nearest_codes, residual_codes

SIZES = ((8192, 64, 1024), (8192, 8, 8192), (16_384, 256, 512), (4096, 16, 65_536), (2048, 896, 32))
"""N, D, K of the CPU."""
GPU_SIZES = ((65_536, 64, 1024), (65_536, 256, 8192), (65_536, 8, 8192), (16_384, 16, 262_144), (11_664, 896, 32))
QUICK = ((300, 8, 64),)
MATRIX_SCORES = 1 << 27
"""Peers that store all scores are left out above this: they need gigabytes."""
BLOCK_SCORES = 1 << 19
"""Scores of a block of the bare product, so that it is not the memory that is measured."""
NO_GPU = "no CUDA device"
FAISS_SHARE = 1 / 1.2
"""Goal against faiss: at most 1.2 times its time."""


def find_faiss():  # noqa: ANN201 - a module
    """The faiss module, or None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def library_quantizer(width: int, codes: Tensor, device: torch.device):  # noqa: ANN201 - a torch module
    """VectorQuantize of vector-quantize-pytorch with the given codebook, in evaluation."""
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(dim=width, codebook_size=len(codes), kmeans_init=False).to(device).eval()
    quantizer._codebook.embed.data.copy_(codes.float().unsqueeze(0))
    return quantizer


def bare_product(x: Tensor, codes: Tensor) -> Callable[[], None]:
    """The product of all vectors and codes and nothing else, in blocks."""
    rows = max(64, BLOCK_SCORES // len(codes)) if x.device.type == "cpu" else max(256, (1 << 28) // len(codes))
    out, turned = torch.empty(min(rows, len(x)), len(codes), dtype=x.dtype, device=x.device), codes.T

    def run() -> None:
        for part in x.split(rows):
            torch.mm(part, turned, out=out[: len(part)])

    return run


def search_actions(x: Tensor, codes: Tensor) -> dict[str, Callable[[], object]]:
    """Our search, the bare product and the peers that can do this size."""
    actions: dict[str, Callable[[], object]] = {
        "ours": lambda: nearest_codes(x, codes),
        "product": bare_product(x, codes),
    }
    if len(x) * len(codes) <= MATRIX_SCORES:
        actions["cdist + argmin"] = lambda: torch.cdist(x, codes).argmin(-1)
        library = library_quantizer(x.shape[1], codes, x.device)
        batch = x.unsqueeze(0)
        actions["vector-quantize-pytorch"] = lambda: library(batch)
    return actions


def search_rows(
    size: tuple[int, int, int], times: dict[str, Measured], goals: dict[str, float], note: str
) -> list[Row]:
    """One row for each peer of a size, in milliseconds; a row without a peer where there is none."""
    item = "N {}, D {}, K {}".format(*size)
    limit = times["product"].median * 1000
    peers = [name for name in times if name not in ("ours", "product")]
    return [
        Row(
            item=item, unit="ms", ours=times["ours"].per_unit(1e-3), better="lower", limit=limit, note=note,
            peer=times[peer].per_unit(1e-3) if peer else None, peer_name=peer, goal=goals.get(peer),
        )
        for peer in (peers or [""])
    ]  # fmt: skip


def drawn(
    size: tuple[int, int, int], device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Vectors [N, D] and codes [K, D], standard normal."""
    generator = torch.Generator().manual_seed(0)
    rows, width, codes = size
    x = torch.randn(rows, width, generator=generator).to(device, dtype)
    return x, torch.randn(codes, width, generator=generator).to(device, dtype)


@torch.inference_mode()
def search_section(*, runs: int, quick: bool) -> Section:
    """The blocked engine beside the bare product and the peers."""
    faiss = find_faiss()
    rows: list[Row] = []
    for size in QUICK if quick else SIZES:
        x, codes = drawn(size, torch.device("cpu"))
        actions = search_actions(x, codes)
        note = ""
        if faiss is not None:
            arrays = x.numpy(), codes.numpy()
            actions["faiss flat index"] = lambda arrays=arrays: flat_search(faiss, *arrays)
            differing = int((flat_search(faiss, *arrays) != nearest_codes(x, codes).indices).sum())
            note = f"{differing} of {size[0]} indices differ from those of faiss, by rounding"
        goals = {} if quick else {"faiss flat index": FAISS_SHARE}
        rows += search_rows(size, alternate(actions, runs=runs), goals, note)
    absent = "" if faiss is not None else " faiss: not measured (not installed: pip install faiss-cpu)."
    return Section(
        "", f"Indices alone. The limit is the bare product of vectors and codes, in blocks.{absent}", tuple(rows)
    )


def flat_search(faiss, x, codes) -> Tensor:  # noqa: ANN001 - a module and two arrays
    """Ids [N] by faiss' exact flat index, the index built anew as a codebook that changes needs it."""
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(codes)
    return torch.from_numpy(index.search(x, 1)[1][:, 0])


@torch.inference_mode()
def gpu_section(device: torch.device, *, runs: int, quick: bool) -> Section:
    """The fused kernel in bfloat16 and float32, its time and what it adds to the memory."""
    if device.type != "cuda":
        return Section("", "", (), NO_GPU)
    rows: list[Row] = []
    for dtype in (torch.bfloat16, torch.float32):
        for size in QUICK if quick else GPU_SIZES:
            x, codes = drawn(size, device, dtype)
            actions = search_actions(x, codes)
            times = alternate(actions, runs=runs, warm_up=2, device=device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            nearest_codes(x, codes)
            extra = (torch.cuda.max_memory_allocated(device) - before) / 2**20
            note = f"{str(dtype).removeprefix('torch.')}; {extra:.1f} MiB beside the input"
            rows += search_rows(size, times, {} if quick else {"vector-quantize-pytorch": 5.0}, note)
            if not quick and dtype == torch.bfloat16 and size[1] >= 64:
                limit = 1.3 * times["product"].median * 1000
                rows.append(
                    Row(item="the same against the product", unit="ms", ours=times["ours"].per_unit(1e-3),
                        better="lower", bound=limit)
                )  # fmt: skip
    return Section("", "Indices alone. The limit is the bare product in the same dtype, written out.", tuple(rows))


@torch.inference_mode()
def residual_section(device: torch.device, *, runs: int, quick: bool) -> Section:
    """Eight levels against the library's ResidualVQ."""
    from vector_quantize_pytorch import ResidualVQ

    rows, width, codes, levels = (200, 8, 32, 2) if quick else (8192, 64, 1024, 8)
    x, _ = drawn((rows, width, codes), device)
    books = torch.stack([0.7**level * drawn((1, width, codes), device)[1] for level in range(levels)])
    library = ResidualVQ(dim=width, num_quantizers=levels, codebook_size=codes, kmeans_init=False).to(device).eval()
    for layer, book in zip(library.layers, books, strict=True):
        layer._codebook.embed.data.copy_(book.unsqueeze(0))
    batch = x.unsqueeze(0)
    product = bare_product(x, books[0])
    actions = {
        "ours": lambda: residual_codes(x, books),
        "library": lambda: library(batch),
        "product": lambda: [product() for _ in range(levels)],
    }
    times = alternate(actions, runs=runs, device=device)
    row = Row(
        item=f"N {rows}, D {width}, K {codes}, {levels} levels", unit="ms", ours=times["ours"].per_unit(1e-3),
        peer=times["library"].per_unit(1e-3), peer_name="vector-quantize-pytorch", better="lower",
        limit=times["product"].median * 1000,
    )  # fmt: skip
    return Section("", "Indices and the sum of the codes. The limit is one bare product for each level.", (row,))


@torch.inference_mode()
def sums_section(device: torch.device, *, runs: int, quick: bool) -> Section:
    """What an update of moving averages needs, against the product with one-hot codes."""
    rows = []
    for count, width, codes in ((300, 8, 16),) if quick else ((8192, 64, 1024), (16_384, 256, 512)):
        x, _ = drawn((count, width, 1), device)
        ids = torch.randint(0, codes, (count,), generator=torch.Generator().manual_seed(1)).to(device)
        actions = {
            "ours": lambda x=x, ids=ids, codes=codes: code_sums(x, ids, codes),
            "one-hot": lambda x=x, ids=ids, codes=codes: _by_one_hot(x, ids, codes),
            "read": lambda x=x: x.sum(),
        }
        times = alternate(actions, runs=runs, device=device)
        rows.append(
            Row(item=f"N {count}, D {width}, K {codes}", unit="ms", ours=times["ours"].per_unit(1e-3), better="lower",
                peer=times["one-hot"].per_unit(1e-3), peer_name="product with one-hot codes",
                limit=times["read"].median * 1000)
        )  # fmt: skip
    return Section("", "The limit is one reading of the vectors (their plain sum).", tuple(rows))


def _by_one_hot(x: Tensor, ids: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    hot = torch.nn.functional.one_hot(ids, codes).to(x.dtype)
    return hot.T @ x, hot.sum(0)
