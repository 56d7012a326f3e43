"""Linear layers packed for generation: fewer bytes read for each step, where a step reads every weight once.

Letters: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genmm.core.errors import UsageError

Packing = Literal["live", "split", "float16", "int8"]
PACKINGS: tuple[Packing, ...] = ("live", "split", "float16", "int8")
SEVEN_BITS = not torch.cpu._is_vnni_supported()
"""Whether activations get 7 bits instead of 8 beside int8 weights: without VNNI the processor adds pairs of products in
16 bits, where those of 8 bits overflow and are cut off (twice the error on random rows of 64)."""
PackingChoice = Literal["auto", "live", "split", "float16", "int8"]
"""What may be asked for; "auto" is resolved by `choose_packing`."""
PACKING_CHOICES: tuple[PackingChoice, ...] = ("auto", *PACKINGS)

FEW_ROWS, MANY_ROWS = 4, 48
"""Between these, weights beyond the caches are read faster as W x^T: measured 1.3 to 2 times on one AVX-512 core."""
BEYOND_CACHE = 1 << 19
"""Numbers in a weight from which reading it is what takes the time."""
SPLIT_ROWS = 24
"""Most rows that split weights serve faster than whole ones."""
REST_SCALE = 2.0**11
"""Factor on what float16 leaves of a weight, so that it fills a float16 of its own."""
LARGEST = 65504.0
"""Largest float16."""


class PackedLinear:
    """y = x W^T + b for rows x, with the weight in one of several forms.

    live: the tensors of the module themselves, in their dtype; follows training, costs no memory.
    split: float32 in two float16 parts that hold 22 of its 24 bits, as many bytes, an error about twice that of live
    rounding (6e-7 of the result); few rows are several times as fast as torch's float32 product, many take that.
    float16: half the bytes; products and sums in float32 (CPU, FBGEMM).
    int8: a quarter of the bytes; a scale for each output, activations quantised for each call from their range, so a
    row can depend a little on the rows beside it. CPU with FBGEMM only.
    """

    def __init__(self, weights: Sequence[Tensor], bias: Tensor | None = None, packing: Packing = "live") -> None:
        """Pack the rows of several weights [O_i, I] that share their input; the outputs come side by side."""
        if packing not in PACKINGS:
            raise UsageError(f"weights can be packed as {', '.join(PACKINGS)}, got {packing!r}")
        self.packing, self.bias = packing, bias
        joined = joined_view(weights)
        self._weights = list(weights) if joined is None else [joined]
        if packing == "live":
            return
        whole = torch.cat([weight.detach() for weight in self._weights]).float()
        if packing != "int8" and float(whole.abs().max()) > LARGEST:
            raise UsageError(f"a weight is beyond {LARGEST:g}, the largest float16: {packing} cannot hold it; use live")
        if packing == "split":
            rest = (whole - whole.half().float()) * REST_SCALE
            self._packed, self._rest = _pack_float16(whole, bias), _pack_float16(rest, None)
        else:
            self._packed, self._weights = _PACKERS[packing](whole, bias), []

    def __call__(self, x: Tensor) -> Tensor:
        """Shapes: x [N, I] -> [N, O], in the dtype of x."""
        if self.packing == "split" and x.shape[0] <= SPLIT_ROWS:
            rest = torch.ops.quantized.linear_dynamic_fp16(x, self._rest)
            return torch.ops.quantized.linear_dynamic_fp16(x, self._packed).add_(rest, alpha=1.0 / REST_SCALE)
        if self.packing == "float16":
            return torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        if self.packing == "int8":
            return torch.ops.quantized.linear_dynamic(x, self._packed, SEVEN_BITS)
        if len(self._weights) == 1:
            return product(x, self._weights[0], self.bias)
        y = torch.cat([product(x, weight, None) for weight in self._weights], dim=-1)
        return y if self.bias is None else y + self.bias


class PackableLinear(nn.Linear):
    """A linear layer whose weight can be read packed while it is not trained; parameters and their names stay."""

    packed: PackedLinear | None = None

    def pack(self, packing: Packing) -> None:
        """Read the weight packed from now on; "live" undoes it. The packed copy does not follow later changes."""
        self.packed = None if packing == "live" else PackedLinear([self.weight], self.bias, packing)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x [..., I] -> [..., O]."""
        return super().forward(x) if self.packed is None else rowwise(self.packed, x)


def rowwise(packed: PackedLinear, x: Tensor) -> Tensor:
    """A packed product over the last axis: x [..., I] -> [..., O]."""
    return packed(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, in the order that reads a large weight fastest for this many rows: x [N, I] -> [N, O]."""
    is_batch = FEW_ROWS <= x.shape[0] <= MANY_ROWS
    if is_batch and weight.numel() >= BEYOND_CACHE and x.dtype == torch.float32 and x.device.type == "cpu":
        turned = torch.mm(weight, x.t()).t().contiguous()
        return turned if bias is None else turned.add_(bias)
    return F.linear(x, weight, bias)


def join_storage(parameters: Sequence[nn.Parameter]) -> None:
    """Let parameters [O_i, I] lie one after the other in one piece of memory; their values and users do not change.

    A PackedLinear over them then takes one product instead of several. Moving the module elsewhere undoes it.
    """
    whole = torch.cat([parameter.detach() for parameter in parameters])
    for parameter, part in zip(parameters, whole.split([len(parameter) for parameter in parameters]), strict=True):
        parameter.data = part


def joined_view(weights: Sequence[Tensor]) -> Tensor | None:
    """All rows of the weights as one tensor without copying, or None when they do not lie one after the other."""
    first, end = weights[0], weights[0].storage_offset()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or not weight.is_contiguous() or weight.storage_offset() != end:
            return None
        end += weight.numel()
    rows = sum(len(weight) for weight in weights)
    return first.detach().as_strided((rows, first.shape[1]), (first.shape[1], 1))


def choose_packing(choice: PackingChoice, parameters: Sequence[Tensor]) -> Packing:
    """What "auto" means for these weights: on a CPU float16 where that loses nothing, else split; elsewhere live.

    Float16 loses nothing where the weights came from a float16 file. Weights that are trained stay live.
    Raises: UsageError when this machine cannot run the packing that was asked for.
    """
    first = parameters[0]
    if choice != "auto":
        check_packing(choice, first.device, first.dtype)
        return choice
    try:
        check_packing("float16", first.device, first.dtype)
    except UsageError:
        return "live"
    if any(parameter.requires_grad or float(parameter.abs().max()) > LARGEST for parameter in parameters):
        return "live"
    return "float16" if all(torch.equal(p, p.half().float()) for p in parameters) else "split"


def check_packing(packing: Packing, device: torch.device, dtype: torch.dtype) -> None:
    """Raise UsageError when this machine cannot run the packing."""
    if packing not in PACKINGS:
        raise UsageError(f"weights can be packed as {', '.join(PACKINGS)}, got {packing!r}")
    if packing == "live":
        return
    if device.type != "cpu" or dtype != torch.float32:
        raise UsageError(f"{packing} weights need a float32 network on a CPU, not {dtype} on {device}; use live there")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        raise UsageError(f"{packing} weights need the FBGEMM kernels, which this build of torch lacks; use live")


@contextmanager
def _fbgemm() -> Iterator[None]:
    """The FBGEMM engine while packing; which one packs is a global choice of torch, running needs none."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def _pack_float16(weight: Tensor, bias: Tensor | None) -> torch.ScriptObject:
    with _fbgemm():
        return torch.ops.quantized.linear_prepack_fp16(weight, bias)


def _pack_int8(weight: Tensor, bias: Tensor | None) -> torch.ScriptObject:
    scales = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny).double()
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    with _fbgemm():
        return torch.ops.quantized.linear_prepack(quantised, bias)


_PACKERS = {"float16": _pack_float16, "int8": _pack_int8}
