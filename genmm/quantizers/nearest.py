"""Nearest-code search: for every vector the code of a codebook that is closest, exactly, without an N x K matrix.

Letters: N vectors, D width, K codes, Q levels of a residual quantizer; leading dimensions "..." are batches, with one
codebook for all of them or one for each.

Every metric becomes one form, the least `bias[k] - gain * x . code[k] * scale[k]`, so that an engine is a product with
a running arg-min: `plain` (the twin of the others, a matrix of scores), `blocked` (`nearest_cpu`: tiles that stay in
the cache) and `triton` (`nearest_triton`: one fused kernel).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from genmm.core.devices import widest_float
from genmm.core.errors import MissingDependencyError, ShapeError, UsageError
from genmm.quantizers.nearest_cpu import search_blocked
from genmm.quantizers.nearest_sums import code_sums

__all__ = ["NearestCodes", "code_sums", "nearest_codes", "residual_codes", "rounding_bound"]

Metric = Literal["euclidean", "cosine", "dot"]
Engine = Literal["auto", "plain", "blocked", "triton"]
METRICS = ("euclidean", "cosine", "dot")
ENGINES = ("auto", "plain", "blocked", "triton")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
PLAIN_SCORES = 1 << 26
"""Scores that the plain engine holds at once; more rows are taken in turns."""
BLOCKED_FROM = 1 << 17
"""Scores (N x K of one codebook) from which `auto` takes the blocked engine on a CPU."""
OFFSET_SHARE = 0.25
"""The codes are moved to their mean when that makes the median of their squared norms smaller than this share."""
TINY = torch.finfo(torch.float32).tiny
"""Vectors shorter than this have no direction."""
UNIT_ROUNDOFF = 2.0**-24


@dataclass(frozen=True, eq=False)
class NearestCodes:
    """The closest code of every vector."""

    indices: Tensor
    """[..., N] int64 in [0, K); the lowest of those that are equally near."""
    distances: Tensor | None
    """[..., N] float32: the squared distance for "euclidean", the similarity for "cosine" and "dot"; None unless asked
    for. Worked out from the vector and its code alone, so it does not suffer from large norms."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A search in the form that the engines share: the least of bias - gain * (x - shift) . codes * scale."""

    vectors: Tensor
    """[B, N, D]."""
    codes: Tensor
    """[B or 1, K, D], as stored; zero where masked."""
    bias: Tensor
    """[B or 1, K] float32, infinite where masked."""
    gain: float
    """2 for Euclidean, else 1."""
    scale: Tensor | None
    """[B or 1, K] float32: 1 / norm for cosine."""
    shift: Tensor | None
    """[B or 1, 1, D] float32, what both sides are moved by; `codes` is moved already."""

    @property
    def weights(self) -> Tensor:
        """[B or 1, K, D] float32: the codes with gain and scale multiplied in."""
        codes = self.codes.float()
        return codes * self.scale.unsqueeze(-1) if self.scale is not None else codes * self.gain


def nearest_codes(
    vectors: Tensor,
    codes: Tensor,
    *,
    metric: Metric = "euclidean",
    mask: Tensor | None = None,
    engine: Engine = "auto",
    return_distances: bool = False,
    check: bool = True,
) -> NearestCodes:
    """Find the nearest code of every vector; ties go to the lowest id.

    Shapes: vectors [..., N, D]; codes [K, D], or [..., K, D] with one codebook for each batch; mask [K] or [..., K]
    bool, True at codes that may be chosen (the others may hold anything). float32, bfloat16 or float16, mixed at will;
    sums are float32 whatever autocast says. N may be 0. No gradient flows.
    Args: engine "auto" takes triton for CUDA tensors, blocked for larger searches on a CPU, plain for the rest;
    `check=False` leaves out the look at whether all is finite, for which a GPU has to be waited for: vectors or codes
    that are not finite then give meaningless indices in [0, K).
    Zero vectors have the cosine 0 with everything. Raises: ShapeError, UsageError.
    Rounding: the answer is the float64 one except where two codes are closer to each other in score than
    `rounding_bound`; a large offset common to all codes plays no part in it.
    """
    _check_arguments(vectors, codes, mask, metric, engine)
    with torch.no_grad(), full_precision(vectors.device):
        leading = _leading(vectors, codes, mask)
        x, codebook, allowed = _batched(vectors, codes, mask, leading)
        chosen = _choose(engine, x, codebook)
        prepared = prepare(x, codebook, allowed, metric, halves=chosen == "triton")
        if check:
            _check_codes(prepared, codebook, allowed)
        indices, best = search(prepared, chosen)
        if check and not bool(torch.isfinite(best).all()):
            raise UsageError(_not_finite(x))
        distances = _distances(x, codebook, indices, metric) if return_distances else None
    shape = (*leading, vectors.shape[-2])
    return NearestCodes(indices.view(shape), None if distances is None else distances.view(shape))


def residual_codes(
    vectors: Tensor, codebooks: Tensor, *, engine: Engine = "auto", check: bool = True
) -> tuple[Tensor, Tensor]:
    """Quantise vectors level by level, each codebook on what the one before has left (Euclidean).

    Shapes: vectors [..., N, D]; codebooks [Q, K, D]. Returns: indices [..., N, Q] int64 and the sum of the chosen
    codes [..., N, D] float32. Engines as in `nearest_codes`; triton does all levels in one kernel where D allows it.
    Raises: ShapeError, UsageError. Source: residual vector quantisation, SoundStream (arXiv 2107.03312), algorithm 1.
    """
    if codebooks.ndim != 3 or not len(codebooks):
        raise ShapeError(f"codebooks must be [Q, K, D] with at least one level, got {tuple(codebooks.shape)}")
    _check_arguments(vectors, codebooks[0], None, "euclidean", engine)
    x, books = vectors.detach().reshape(-1, vectors.shape[-1]), codebooks.detach().float()
    with torch.no_grad(), full_precision(vectors.device):
        if len(x) and _choose(engine, x.unsqueeze(0), books) == "triton" and _fits_residual(x):
            indices, quantised = _residual_fused(x, books, check)
        else:
            indices, quantised = _residual_loop(x, books, engine, check)
    return indices.view(*vectors.shape[:-1], len(books)), quantised.view(vectors.shape)


def _residual_loop(x: Tensor, books: Tensor, engine: Engine, check: bool) -> tuple[Tensor, Tensor]:
    """The twin of the fused kernel: one search for each level."""
    rest, quantised, found = x.float(), torch.zeros_like(x, dtype=torch.float32), []
    for book in books:
        ids = nearest_codes(rest, book, engine=engine, check=check).indices
        chosen = book[ids]
        rest, quantised = rest - chosen, quantised + chosen
        found.append(ids)
    return torch.stack(found, dim=-1), quantised


def _fits_residual(x: Tensor) -> bool:
    return x.shape[-1] <= _kernels().WIDEST_RESIDUAL


def _residual_fused(x: Tensor, books: Tensor, check: bool) -> tuple[Tensor, Tensor]:
    prepared = prepare(x.unsqueeze(0), books, None, "euclidean")
    if check:
        _check_codes(prepared, books, None)
    shift = torch.zeros_like(books[:, 0]) if prepared.shift is None else prepared.shift[:, 0]
    indices, quantised, worst = _kernels().residual_triton(x, books, prepared.codes, prepared.bias, shift)
    if check and not bool(torch.isfinite(worst).all()):
        raise UsageError(_not_finite(x))
    return indices, quantised


def rounding_bound(vectors: Tensor, codes: Tensor, chosen: Tensor, best: Tensor, *, metric: Metric) -> Tensor:
    """By how much the exact scores of two codes may differ when the search takes one for the other, [N] float64.

    Shapes: vectors [N, D], codes [K, D] (those that may be chosen), chosen and best [N] ids. A score is the squared
    distance, the dot product, or the dot product with the unit code for "cosine".
    With u = 2^-24, a sum of D products in any order is off by at most D u |x| |c| (Higham, Accuracy and Stability of
    Numerical Algorithms, 3.1), and bias, shift, scale and the last subtraction add at most 4 u of the same. So a code's
    score is off by (D + 4) u (2 |x - m| |c - m| + |c - m|^2) for Euclidean, by (D + 4) u |x| |c| for dot and by
    (D + 4) u |x| for cosine; the bound is the sum over both codes. m is what `common_offset` gives. Tensor cores, which
    take bfloat16 and float16 on a GPU, cut off instead of rounding and use m = 0: twice the bound with m = 0.
    """
    x, c = vectors.double(), codes.double()
    unit = (vectors.shape[-1] + 4) * UNIT_ROUNDOFF
    if metric == "cosine":
        return 2 * unit * x.norm(dim=-1)
    if metric == "euclidean":
        shift = common_offset(codes.unsqueeze(0).float(), None)
        if shift is not None:
            x, c = x - shift[0].double(), c - shift[0].double()
    length, norms = x.norm(dim=-1), c.norm(dim=-1)
    one, other = norms[chosen], norms[best]
    if metric == "dot":
        return unit * length * (one + other)
    return unit * (2 * length * (one + other) + one.square() + other.square())


# ---------------------------------------------------------------- what all engines share


def prepare(x: Tensor, codes: Tensor, allowed: Tensor | None, metric: Metric, *, halves: bool = False) -> Prepared:
    """Bring a search into the common form: x [B, N, D], codes [B or 1, K, D], allowed [B or 1, K].

    `halves` leaves bfloat16 and float16 codes as they are, unmoved, when the vectors have the same dtype.
    """
    if allowed is not None:
        codes = torch.where(allowed.unsqueeze(-1), codes, torch.zeros_like(codes))
    keep = halves and x.dtype == codes.dtype and x.dtype != torch.float32
    wide = codes.float()
    shift = scale = None
    bias = torch.zeros(codes.shape[:2], device=codes.device)
    if metric == "euclidean":
        bias = wide.square().sum(-1)
        shift = None if keep else common_offset(wide, allowed, bias)
        if shift is not None:
            wide = wide - shift
            bias = wide.square().sum(-1)
    elif metric == "cosine":
        norms = row_norms(wide)
        scale = torch.where(norms >= TINY, norms.reciprocal(), torch.zeros_like(norms))
    if allowed is not None:
        bias = bias.masked_fill(~allowed, torch.inf)
    return Prepared(x, codes if keep else wide, bias, 2.0 if metric == "euclidean" else 1.0, scale, shift)


def common_offset(codes: Tensor, allowed: Tensor | None, squares: Tensor | None = None) -> Tensor | None:
    """The mean of the codes [B, 1, D] where moving them to it makes the median of their squared norms much smaller.

    Distances do not change when vectors and codes move together, but their rounding does. Zero, or None for all, where
    the codes lie around the origin anyway or where a few codes far out would make the mean useless.
    """
    if allowed is None:
        mean = codes.mean(1, keepdim=True)
    else:
        mean = codes.sum(1, keepdim=True) / allowed.sum(1).clamp_min(1).view(-1, 1, 1)
    before = _median(codes.square().sum(-1) if squares is None else squares, allowed)
    if codes.device.type == "cpu":  # a GPU would have to be waited for
        # Codes at least half of which come four times closer to the mean are not twice as far out as the mean is.
        if not bool((mean.square().sum((1, 2)) > OFFSET_SHARE * before).any()):
            return None
    worth = _median((codes - mean).square().sum(-1), allowed) < OFFSET_SHARE * before
    return torch.where(worth.view(-1, 1, 1), mean, torch.zeros_like(mean))


def _median(values: Tensor, allowed: Tensor | None) -> Tensor:
    """Median over the codes that may be chosen, [B]."""
    if allowed is None:
        return values.median(1).values
    return values.masked_fill(~allowed, torch.nan).nanmedian(1).values


def row_norms(x: Tensor) -> Tensor:
    """Lengths [...] float32 of rows [..., D], also where their squares go past float32 or vanish in it."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=widest_float(x.device)).float()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products in real float32: no autocast, no TF32 or bfloat16 that a setting of torch has allowed."""
    with _EXACT, torch.autocast(device_type=device.type, enabled=False):
        yield


class _Exact:
    """Torch's setting of the whole process at its most precise while any thread is inside; then as it was."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._restore: Callable[[], None] = _nothing

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._restore = _most_precise()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore()


def _nothing() -> None:
    pass


def _most_precise() -> Callable[[], None]:
    """Set it, and give back what undoes that. Torch has two ways to set it and refuses to read one after the other."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        parts = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
        settings = [part.fp32_precision for part in parts]

        def restore() -> None:
            for part, setting in zip(parts, settings, strict=True):
                part.fp32_precision = setting

        for part in parts:
            part.fp32_precision = "ieee"
        return restore
    if before == "highest":
        return _nothing
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(before)


_EXACT = _Exact()


def search_plain(prepared: Prepared) -> tuple[Tensor, Tensor]:
    """Indices and least scores [B, N] by a matrix of scores."""
    x, weights, bias = prepared.vectors, prepared.weights, prepared.bias.unsqueeze(1)
    rows = max(1, PLAIN_SCORES // max(1, len(x) * bias.shape[-1]))
    found = []
    for part in x.split(rows, dim=1):
        part = part.float() if prepared.shift is None else part.float() - prepared.shift
        found.append((bias - torch.matmul(part, weights.transpose(1, 2))).min(dim=-1))
    return torch.cat([part.indices for part in found], 1), torch.cat([part.values for part in found], 1)


def search(prepared: Prepared, engine: Engine = "auto") -> tuple[Tensor, Tensor]:
    """Indices [B, N] int64 and least scores [B, N] float32 of a prepared search, without checks of its numbers.

    To be called inside `full_precision`.
    """
    engine = _choose(engine, prepared.vectors, prepared.codes)
    if not prepared.vectors.shape[0] * prepared.vectors.shape[1]:
        empty = prepared.vectors.new_empty(prepared.vectors.shape[:2], dtype=torch.float32)
        return empty.long(), empty
    if engine == "triton":
        return _kernels().search_triton(prepared)
    return search_blocked(prepared) if engine == "blocked" else search_plain(prepared)


def _choose(engine: str, x: Tensor, codes: Tensor) -> str:
    """The engine to run; refuses one that the device does not have."""
    kind = x.device.type
    if engine == "blocked" and kind != "cpu":
        raise UsageError(f'the engine "blocked" runs on CPU tensors, these are on {x.device}; use "auto"')
    if engine == "triton" and kind != "cuda" and not _kernels().INTERPRETED:
        raise UsageError(f'the engine "triton" runs on CUDA tensors, these are on {x.device}; use "auto"')
    if engine != "auto":
        return engine
    if kind == "cuda":
        return "triton" if find_spec("triton") else "plain"
    large = x.shape[1] * codes.shape[1] * len(x) >= BLOCKED_FROM
    return "blocked" if kind == "cpu" and large else "plain"


def _kernels() -> ModuleType:
    """The Triton kernels, imported when they are used."""
    try:
        from genmm.quantizers import nearest_triton
    except ImportError as error:
        raise MissingDependencyError('the engine "triton" needs the triton package: pip install triton') from error
    return nearest_triton


# ---------------------------------------------------------------- arguments and results


def _check_arguments(vectors: Tensor, codes: Tensor, mask: Tensor | None, metric: str, engine: str) -> None:
    if metric not in METRICS:
        raise UsageError(f"metric must be euclidean, cosine or dot, got {metric!r}")
    if engine not in ENGINES:
        raise UsageError(f"engine must be auto, plain, blocked or triton, got {engine!r}")
    for name, tensor in (("vectors", vectors), ("codes", codes)):
        if tensor.dtype not in FLOATS:
            raise ShapeError(f"{name} must be float32, bfloat16 or float16, got {tensor.dtype}; convert with .float()")
        if tensor.ndim < 2:
            raise ShapeError(f"{name} must have at least two dimensions, rows and width, got {tuple(tensor.shape)}")
    if vectors.shape[-1] != codes.shape[-1] or not codes.shape[-1]:
        raise ShapeError(
            f"vectors [..., N, D] and codes [..., K, D] need one width D of at least 1, "
            f"got {tuple(vectors.shape)} and {tuple(codes.shape)}"
        )
    if not codes.shape[-2]:
        raise ShapeError(f"the codebook is empty: codes are {tuple(codes.shape)}, K must be at least 1")
    if mask is not None and (mask.dtype != torch.bool or not mask.ndim or mask.shape[-1] != codes.shape[-2]):
        raise ShapeError(f"mask must be bool [..., {codes.shape[-2]}], got {mask.dtype} {tuple(mask.shape)}")
    devices = {tensor.device for tensor in (vectors, codes, mask) if tensor is not None}
    if len(devices) > 1:
        raise UsageError(f"vectors, codes and mask must be on one device, got {', '.join(map(str, devices))}")


def _leading(vectors: Tensor, codes: Tensor, mask: Tensor | None) -> torch.Size:
    """The batch dimensions of the result."""
    shapes = [vectors.shape[:-2], codes.shape[:-2], *([] if mask is None else [mask.shape[:-1]])]
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError as error:
        said = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ShapeError(f"the batch dimensions of vectors, codes and mask do not fit each other: {said}") from error


def _batched(
    vectors: Tensor, codes: Tensor, mask: Tensor | None, leading: torch.Size
) -> tuple[Tensor, Tensor, Tensor | None]:
    """vectors [B, N, D], codes [B or 1, K, D], mask [B or 1, K]; B is 1 when one codebook serves all."""
    vectors, codes = vectors.detach(), codes.detach()
    one_codebook = codes.shape[:-2].numel() == 1 and (mask is None or mask.shape[:-1].numel() == 1)
    if one_codebook:
        x = vectors.reshape(1, leading.numel() * vectors.shape[-2], vectors.shape[-1])
        return x, codes.reshape(1, *codes.shape[-2:]), None if mask is None else mask.reshape(1, -1)
    x = vectors.expand(*leading, *vectors.shape[-2:]).reshape(leading.numel(), *vectors.shape[-2:])
    codebook = codes.expand(*leading, *codes.shape[-2:]).reshape(leading.numel(), *codes.shape[-2:])
    allowed = None if mask is None else mask.expand(*leading, mask.shape[-1]).reshape(leading.numel(), -1)
    return x, codebook, allowed


def _check_codes(prepared: Prepared, codes: Tensor, allowed: Tensor | None) -> None:
    """Codes are finite and every codebook has one that may be chosen; a pass over the codes, not over the vectors."""
    if allowed is not None and not bool(allowed.any(-1).all()):
        raise UsageError("the mask leaves no code to choose from; every codebook needs at least one True")
    if prepared.gain == 2.0:  # the squared norms are there already
        largest = (prepared.bias if allowed is None else prepared.bias.masked_fill(~allowed, 0.0)).amax()
    else:
        largest = prepared.codes.abs().amax()
    if not bool(torch.isfinite(largest)):
        raise UsageError(_not_finite(codes if allowed is None else codes[allowed.expand(codes.shape[:2])], "codes"))


def _not_finite(tensor: Tensor, name: str = "vectors") -> str:
    bad = int((~torch.isfinite(tensor)).any(-1).sum())
    if bad:
        return f"{name} must be finite, got NaN or infinity in {bad} of {tensor.shape[:-1].numel()} rows"
    return f"{name} are too large: their products go past float32, largest entry {float(tensor.abs().max()):.3g}"


def _distances(x: Tensor, codes: Tensor, indices: Tensor, metric: Metric) -> Tensor:
    """Squared distance or similarity [B, N] float32 of each vector and its code, straight from the two."""
    found = []
    for part, ids in zip(x.split(1 << 15, dim=1), indices.split(1 << 15, dim=1), strict=True):
        code = codes.expand(len(x), -1, -1).gather(1, ids.unsqueeze(-1).expand(-1, -1, x.shape[-1])).float()
        part = part.float()
        if metric == "euclidean":
            found.append((part - code).square().sum(-1))
            continue
        if metric == "cosine":
            part, code = (rows / row_norms(rows).clamp_min(TINY).unsqueeze(-1) for rows in (part, code))
        dot = (part * code).sum(-1)
        found.append(dot.clamp(-1.0, 1.0) if metric == "cosine" else dot)
    return torch.cat(found, dim=1)
