"""Linear layers packed for generation: fewer bytes read for each step, where a step reads every weight once.

Letters: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from genmm.core.errors import UsageError

Packing = Literal["live", "float16", "int8"]
PACKINGS: tuple[Packing, ...] = ("live", "float16", "int8")


class PackedLinear:
    """y = x W^T + b for rows x, with the weight in one of several forms.

    live: the tensors of the module themselves, in their dtype; follows training, costs no memory.
    float16: half the bytes; products and sums in float32 (CPU, FBGEMM), elsewhere float16 weights are widened.
    int8: a quarter of the bytes; a scale for each output, activations quantised for each call from their range, so a
    row can depend a little on the rows beside it. CPU with FBGEMM only.
    """

    def __init__(self, weights: list[Tensor], bias: Tensor | None = None, packing: Packing = "live") -> None:
        """Pack the rows of several weights [O_i, I] that share their input; the outputs come side by side."""
        if packing not in PACKINGS:
            raise UsageError(f"weights can be packed as {', '.join(PACKINGS)}, got {packing!r}")
        self.packing, self.bias = packing, bias
        self._weights = weights
        if packing != "live":
            self._packed = _PACKERS[packing](torch.cat([weight.detach() for weight in weights]).float(), bias)
            self._weights = []

    def __call__(self, x: Tensor) -> Tensor:
        """Shapes: x [N, I] -> [N, O], in the dtype of x."""
        if self.packing == "float16":
            return torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        if self.packing == "int8":
            return torch.ops.quantized.linear_dynamic(x, self._packed)
        if len(self._weights) == 1:
            return F.linear(x, self._weights[0], self.bias)
        return torch.cat([F.linear(x, weight) for weight in self._weights], dim=-1)


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


def _pack_float16(weight: Tensor, bias: Tensor | None) -> torch.ScriptObject:
    return torch.ops.quantized.linear_prepack_fp16(weight, bias)


def _pack_int8(weight: Tensor, bias: Tensor | None) -> torch.ScriptObject:
    scales = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny).double()
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        return torch.ops.quantized.linear_prepack(quantised, bias)
    finally:
        torch.backends.quantized.engine = before


_PACKERS = {"float16": _pack_float16, "int8": _pack_int8}
