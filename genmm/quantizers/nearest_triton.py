"""The fused kernels of nearest-code search on a GPU: product and running arg-min, one level or all residual levels.

Letters: B batches, N vectors, D width, K codes, Q levels, S shares of the codebook.

A program keeps a block of vectors and walks over the codes; the scores live in registers only. Each column of the
tile keeps its own best, so that a tile costs one multiply-add, one comparison and two selections a score and no
exchange between threads; columns meet once, at the end. Few vectors with many codes are spread by giving each program a
share of the codebook. bfloat16 and float16 go to the tensor cores with float32 sums, float32 is multiplied in float32.
TRITON_INTERPRET=1 in the environment, before this is imported, runs the kernels on CPU tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

if TYPE_CHECKING:
    from genmm.quantizers.nearest import Prepared

__all__ = ["INTERPRETED", "WIDEST_RESIDUAL", "residual_triton", "search_triton"]

WHOLE_WIDTH = 256
"""Vectors up to this width stay in the program; wider ones are read again in pieces for every tile of codes."""
WIDEST_RESIDUAL = 256
"""Widest vectors of the residual kernel, which keeps what is left of them."""
ROWS_A_PROGRAM = 128
SHARE_STEP = 256
"""Shares of a codebook are multiples of this, and so of every tile."""
PROGRAMS_A_UNIT = 2
"""Programs that every multiprocessor should have before the codebook is left in one piece."""


@triton.jit
def _tile_scores(x, x_rows, x_step, c_rows, c_step, shift, in_rows, in_codes, D: tl.constexpr, PIECE: tl.constexpr,
                 WHOLE: tl.constexpr, HALVES: tl.constexpr, SHIFTED: tl.constexpr):  # fmt: skip
    """Products [rows, codes] float32 of a block of vectors and a tile of codes; x is the block where it is WHOLE."""
    products = tl.zeros([x_rows.shape[0], c_rows.shape[0]], dtype=tl.float32)
    if WHOLE:
        d = tl.arange(0, PIECE)
        c = tl.load(c_rows[None, :] + (d * c_step)[:, None], mask=in_codes[None, :] & (d < D)[:, None], other=0.0)
        products = _added_product(x, c, products, HALVES)
    else:
        for at in range(0, D, PIECE):
            d = at + tl.arange(0, PIECE)
            part = _read(x_rows, x_step, shift, in_rows, d, D, HALVES, SHIFTED)
            c = tl.load(c_rows[None, :] + (d * c_step)[:, None], mask=in_codes[None, :] & (d < D)[:, None], other=0.0)
            products = _added_product(part, c, products, HALVES)
    return products


@triton.jit
def _added_product(x, c, products, HALVES: tl.constexpr):
    if HALVES:
        products = tl.dot(x, c, products)
    else:
        products = tl.dot(x, c.to(tl.float32), products, input_precision="ieee")
    return products


@triton.jit
def _read(x_rows, x_step, shift, in_rows, d, D: tl.constexpr, HALVES: tl.constexpr, SHIFTED: tl.constexpr):
    """A piece [rows, d] of the vectors, moved to the middle of the codes."""
    part = tl.load(x_rows[:, None] + (d * x_step)[None, :], mask=in_rows[:, None] & (d < D)[None, :], other=0.0)
    if not HALVES:
        part = part.to(tl.float32)
    if SHIFTED:
        part -= tl.load(shift + d, mask=d < D, other=0.0)[None, :]
    return part


@triton.jit
def _first_least(best, tile, first, COLUMNS: tl.constexpr):
    """Least value of each row of best [rows, columns] and the lowest code that has it."""
    least = tl.min(best, axis=1)
    code = first + tile * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return least, tl.min(tl.where(best == least[:, None], code, 2147483647), axis=1)


@triton.jit
def _nearest(x, c, bias, scale, shift, index, value, batches, N, K, share, gain, job,
             x_batch, x_row, x_step, c_batch, c_row, c_step, bias_batch, shift_batch,
             D: tl.constexpr, PIECE: tl.constexpr, WHOLE: tl.constexpr, HALVES: tl.constexpr, SCALED: tl.constexpr,
             SHIFTED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Least bias - gain * scale * x . c of a block of rows over one share of the codes."""
    blocks = tl.cdiv(N, ROWS)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    part = tl.program_id(1)
    row = (tl.program_id(0) % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = row < N
    x_rows = x + batch * x_batch + row * x_row
    shift += batch * shift_batch
    block = tl.zeros([1, 1], tl.float32)
    if WHOLE:
        block = _read(x_rows, x_step, shift, in_rows, tl.arange(0, PIECE), D, HALVES, SHIFTED)
    first = part * share
    last = tl.minimum(first + share, K)
    best = tl.full([ROWS, COLUMNS], float("inf"), tl.float32)
    tile = tl.zeros([ROWS, COLUMNS], tl.int32)
    for start in range(first, last, COLUMNS):
        code = start + tl.arange(0, COLUMNS)
        in_codes = code < last
        c_rows = c + batch * c_batch + code.to(tl.int64) * c_row
        products = _tile_scores(block, x_rows, x_step, c_rows, c_step, shift, in_rows, in_codes, D, PIECE, WHOLE,
                                HALVES, SHIFTED)  # fmt: skip
        if SCALED:
            products *= tl.load(scale + batch * bias_batch + code, mask=in_codes, other=0.0)[None, :]
        added = tl.load(bias + batch * bias_batch + code, mask=in_codes, other=float("inf"))
        scores = added[None, :] - gain * products
        better = scores < best  # the earlier tile stays when they are equal
        best = tl.where(better, scores, best)
        tile = tl.where(better, (start - first) // COLUMNS, tile)
    least, code = _first_least(best, tile, first, COLUMNS)
    out = (part * batches + batch) * N + row
    tl.store(index + out, code, mask=in_rows)
    tl.store(value + out, least, mask=in_rows)


@triton.jit
def _residual(x, moved, codes, bias, shift, index, total, value, N, K, x_row, x_step, LEVELS, job, D: tl.constexpr,
              PIECE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """All levels for a block of rows: what is left of them never leaves the program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = row < N
    d = tl.arange(0, PIECE)
    inside = in_rows[:, None] & (d < D)[None, :]
    x_rows = x + row * x_row
    rest = _read(x_rows, x_step, shift, in_rows, d, D, False, False)
    summed = tl.zeros([ROWS, PIECE], tl.float32)
    worst = tl.full([ROWS], float("-inf"), tl.float32)
    for level in range(LEVELS):
        block = rest - tl.load(shift + d, mask=d < D, other=0.0)[None, :]
        best = tl.full([ROWS, COLUMNS], float("inf"), tl.float32)
        tile = tl.zeros([ROWS, COLUMNS], tl.int32)
        for start in range(0, K, COLUMNS):
            code = start + tl.arange(0, COLUMNS)
            in_codes = code < K
            c_rows = moved + code.to(tl.int64) * D
            products = _tile_scores(block, x_rows, x_step, c_rows, 1, shift, in_rows, in_codes, D, PIECE, True, False,
                                    False)  # fmt: skip
            scores = tl.load(bias + code, mask=in_codes, other=float("inf"))[None, :] - 2.0 * products
            better = scores < best
            best = tl.where(better, scores, best)
            tile = tl.where(better, start // COLUMNS, tile)
        least, code = _first_least(best, tile, 0, COLUMNS)
        chosen = tl.load(codes + code.to(tl.int64)[:, None] * D + d[None, :], mask=inside, other=0.0)
        rest -= chosen
        summed += chosen
        worst = tl.maximum(worst, tl.abs(least))
        tl.store(index + row * LEVELS + level, code, mask=in_rows)
        moved += K * D  # on to the next codebook
        codes += K * D
        bias += K
        shift += D
    tl.store(total + row[:, None] * D + d[None, :], summed, mask=inside)
    tl.store(value + row, worst, mask=in_rows)


INTERPRETED = isinstance(_nearest, InterpretedFunction)
"""Whether the kernels run on CPU tensors, in Triton's interpreter."""


def _configs() -> list[triton.Config]:
    if INTERPRETED:
        return [triton.Config({"ROWS": 16, "COLUMNS": 32}, num_warps=1, num_stages=1)]
    # Three float32 tiles (product, best, place) have to fit into the registers: at most 64 entries of each a thread.
    shapes = [(32, 64, 4), (32, 128, 4), (64, 64, 4), (128, 64, 4), (64, 128, 4), (128, 128, 8), (64, 256, 8)]
    return [
        triton.Config({"ROWS": rows, "COLUMNS": columns}, num_warps=warps, num_stages=stages)
        for rows, columns, warps in shapes
        for stages in (2, 3, 4)
    ]


_tuned_nearest = triton.autotune(configs=_configs(), key=["job", "D", "HALVES", "SCALED"])(_nearest)
_tuned_residual = triton.autotune(configs=_configs(), key=["job", "D"])(_residual)


def search_triton(prepared: Prepared) -> tuple[Tensor, Tensor]:
    """Indices [B, N] int64 and least scores [B, N] float32; beside them only S partial results of each are stored."""
    x, codes, bias = prepared.vectors, prepared.codes, prepared.bias.contiguous()
    batches, rows, width = x.shape
    count = codes.shape[1]
    # The interpreter multiplies the bit patterns of bfloat16 as whole numbers: there it is widened first.
    natives = (torch.float16,) if INTERPRETED else (torch.float16, torch.bfloat16)
    halves = x.dtype == codes.dtype and x.dtype in natives
    share = _share(batches, rows, count, x.device)
    shares = triton.cdiv(count, share)
    index = torch.empty(shares, batches, rows, dtype=torch.int32, device=x.device)
    value = torch.empty(shares, batches, rows, dtype=torch.float32, device=x.device)
    scale = bias if prepared.scale is None else prepared.scale.contiguous()
    shift = bias if prepared.shift is None else prepared.shift.contiguous()
    one = len(codes) == 1
    _tuned_nearest[lambda chosen: (batches * triton.cdiv(rows, chosen["ROWS"]), shares)](
        x, codes, bias, scale, shift, index, value, batches, rows, count, share, prepared.gain, _job(rows, count),
        *x.stride(), 0 if one else codes.stride(0), *codes.stride()[1:], 0 if one else count, 0 if one else width,
        D=width, PIECE=_piece(width), WHOLE=width <= WHOLE_WIDTH, HALVES=halves, SCALED=prepared.scale is not None,
        SHIFTED=prepared.shift is not None,
    )  # fmt: skip
    if shares == 1:
        return index[0].long(), value[0]
    best = value.amin(0)
    return torch.where(value == best, index, torch.iinfo(torch.int32).max).amin(0).clamp_max_(count - 1).long(), best


def residual_triton(
    vectors: Tensor, codebooks: Tensor, moved: Tensor, bias: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """All levels at once: indices [N, Q] int64, chosen sum [N, D] float32, largest absolute score of each row [N].

    Shapes: vectors [N, D] with D at most WIDEST_RESIDUAL; codebooks [Q, K, D] float32 and the same moved by shift
    [Q, D], with their squared norms in bias [Q, K].
    """
    rows, width = vectors.shape
    levels, count = bias.shape
    index = torch.empty(rows, levels, dtype=torch.int64, device=vectors.device)
    total = torch.empty(rows, width, dtype=torch.float32, device=vectors.device)
    value = torch.empty(rows, dtype=torch.float32, device=vectors.device)
    _tuned_residual[lambda chosen: (triton.cdiv(rows, chosen["ROWS"]),)](
        vectors, moved.contiguous(), codebooks.contiguous(), bias.contiguous(), shift.contiguous(), index, total, value,
        rows, count, *vectors.stride(), levels, _job(rows, count), D=width, PIECE=_piece(width),
    )  # fmt: skip
    return index, total, value


def _piece(width: int) -> int:
    """Width of the pieces that go into one product: a power of two, at least 16."""
    return max(16, triton.next_power_of_2(width)) if width <= WHOLE_WIDTH else 64


def _job(rows: int, codes: int) -> int:
    """What the tuning is remembered for: sizes to the next power of two."""
    return 100 * rows.bit_length() + codes.bit_length()


def _share(batches: int, rows: int, codes: int, device: torch.device) -> int:
    """Codes that one program walks over."""
    units = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
    programs = batches * triton.cdiv(rows, ROWS_A_PROGRAM)
    shares = min(triton.cdiv(PROGRAMS_A_UNIT * units, programs), triton.cdiv(codes, SHARE_STEP))
    return SHARE_STEP * triton.cdiv(triton.cdiv(codes, shares), SHARE_STEP)
