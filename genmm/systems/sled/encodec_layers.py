"""The layers of EnCodec: causal convolutions, an LSTM with a skip, residual blocks, the residual quantiser.

Layers over time take a whole signal, `layer(x)`, or the next piece of one, `layer(x, memory)`. The memory holds what
each layer must remember (past inputs, LSTM state, the unfinished tail of a transposed convolution), keyed by the layer
itself, so that consecutive pieces give the samples of the whole up to float rounding.

Letters: B batch, C channels, L samples or frames at the rate of the layer; signals are [B, C, L] float32. In the
quantiser: T latent frames, D latent channels, N codebooks in use.
Source: EnCodec (arXiv 2210.13438) in the causal 24 kHz configuration; layer order and names as in transformers.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Memory = dict[nn.Module, Tensor | tuple[Tensor, Tensor]]
"""What the layers remember between two pieces of a signal; starts empty."""


def pad_reflect(x: Tensor, left: int, right: int) -> Tensor:
    """Mirror x [..., L] at both ends without repeating the edge: [..., left + L + right].

    A signal that is not longer than the padding is extended with zeros first and cropped afterwards.
    """
    missing = max(left, right) - x.shape[-1] + 1
    if missing <= 0:
        return F.pad(x, (left, right), mode="reflect")
    padded = F.pad(F.pad(x, (0, missing)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - missing]


class CausalConv(nn.Module):
    """A convolution that sees no future: [B, C, L] -> [B, C', ceil(L / stride)].

    With a memory, every piece but the last must be a multiple of `stride` long, and the first longer than `history`.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, out_channels, kernel, stride, dilation=dilation)
        self.history = (kernel - 1) * dilation + 1 - stride  # input samples that an output needs from the past
        self.stride = stride

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """The next output; a last partial frame is completed by reflection."""
        missing = -x.shape[-1] % self.stride
        if memory is None or self not in memory:
            padded = pad_reflect(x, self.history, missing)
        else:
            padded = pad_reflect(torch.cat([memory[self], x], dim=-1), 0, missing)
        if memory is not None:
            memory[self] = padded[..., padded.shape[-1] - self.history :]
        return self.conv(padded)


class CausalUpsample(nn.Module):
    """A transposed convolution without its last kernel - stride samples: [B, C, L] -> [B, C', L * stride]."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, out_channels, 2 * stride, stride)
        self.stride = stride

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """The next output; the overlap with the following piece is kept without its bias, which is added once."""
        spread = F.conv_transpose1d(x, self.conv.weight, stride=self.stride)  # [B, C', (L + 1) * stride]
        ready, tail = spread.split([x.shape[-1] * self.stride, self.stride], dim=-1)
        if memory is not None:
            if self in memory:
                ready = torch.cat([ready[..., : self.stride] + memory[self], ready[..., self.stride :]], dim=-1)
            memory[self] = tail
        return ready + self.conv.bias[:, None]


class SkipLSTM(nn.Module):
    """An LSTM over time whose input is added to its output: [B, C, L] -> [B, C, L]."""

    SHORT = 16
    """Pieces up to this length run cell by cell on a CPU: the fused LSTM rearranges its weights at every call, which
    made single frames six times slower (22 ms against 3.4 ms at C = 512, one core); from about 64 frames on it wins."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, depth)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """The next output; the memory holds the hidden and the cell state [depth, B, C]."""
        steps = x.permute(2, 0, 1)  # [B, C, L] -> [L, B, C]
        state = None if memory is None else memory.get(self)
        run = self._by_cells if x.shape[-1] <= self.SHORT and x.device.type == "cpu" else self.lstm
        out, state = run(steps, state)
        if memory is not None:
            memory[self] = state
        return (out + steps).permute(1, 2, 0)

    def _by_cells(self, steps: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What `self.lstm` gives, one cell at a time: output [L, B, C] and the two states [depth, B, C]."""
        start = steps.new_zeros(2, self.lstm.num_layers, *steps.shape[1:]) if state is None else state
        ends = []
        for hidden, cell, weights in zip(*start, self.lstm.all_weights, strict=True):
            outputs = []
            for step in steps:
                hidden, cell = torch.lstm_cell(step, (hidden, cell), *weights)
                outputs.append(hidden)
            steps = torch.stack(outputs)
            ends.append((hidden, cell))
        hiddens, cells = zip(*ends, strict=True)
        return steps, (torch.stack(hiddens), torch.stack(cells))


class Elu(nn.Module):
    """ELU with alpha 1; it remembers nothing."""

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Same shape as x."""
        return F.elu(x)


class ResidualBlock(nn.Module):
    """ELU, convolution to C / compress, ELU, 1x1 convolution back to C, plus the (projected) input."""

    def __init__(self, channels: int, kernel: int, dilation: int, compress: int, project_input: bool) -> None:
        super().__init__()
        hidden = channels // compress
        wide, narrow = CausalConv(channels, hidden, kernel, dilation=dilation), CausalConv(hidden, channels, 1)
        self.block = nn.ModuleList([Elu(), wide, Elu(), narrow])
        self.shortcut = CausalConv(channels, channels, 1) if project_input else None

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Same shape as x."""
        inner = x
        for layer in self.block:
            inner = layer(inner, memory)
        return inner + (x if self.shortcut is None else self.shortcut(x, memory))


class LayerChain(nn.Module):
    """Layers one after the other, under the key `layers.{index}`."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """The output of the last layer, computed in true float32 on a GPU too."""
        with _without_tf32(x.device):
            for layer in self.layers:
                x = layer(x, memory)
        return x


def _without_tf32(device: torch.device) -> AbstractContextManager[None]:
    """cuDNN rounds convolutions to 10 bits by default; codes, and pieces against wholes, would then differ."""
    cudnn = torch.backends.cudnn
    if device.type != "cuda":
        return nullcontext()
    return cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, allow_tf32=False)


class Codebook(nn.Module):
    """K vectors; one stage of the residual quantiser."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("embed", torch.zeros(size, width))

    def nearest(self, frames: Tensor) -> Tensor:
        """Ids [...] int64 of the codes closest to frames [..., D] in squared Euclidean distance."""
        # The terms and their order are those of the official code: near-ties must fall the same way.
        distance = frames.square().sum(-1, keepdim=True) - 2 * frames @ self.embed.T + self.embed.square().sum(1)
        return (-distance).max(dim=-1).indices


class ResidualQuantizer(nn.Module):
    """Codebooks that each quantise what the ones before left over."""

    def __init__(self, count: int, size: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"codebook": Codebook(size, width)}) for _ in range(count))

    def encode(self, frames: Tensor, count: int) -> Tensor:
        """Codes [B, N, T] int64 of frames [B, T, D] with the first `count` codebooks."""
        residual, codes = frames, []
        for layer in self.layers[:count]:
            codes.append(layer["codebook"].nearest(residual))
            residual = residual - F.embedding(codes[-1], layer["codebook"].embed)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Summed codebook vectors [B, T, D] of codes [B, N, T]."""
        stages = self.layers[: codes.shape[1]]
        vectors = [F.embedding(codes[:, n], stage["codebook"].embed) for n, stage in enumerate(stages)]
        return sum(vectors[1:], start=vectors[0])


def first_piece_length(chain: LayerChain) -> int:
    """Inputs that the first piece needs so that reflection at the start is that of the whole signal.

    Every convolution mirrors its first `history` inputs, so it must see one more than that; the decoder of 24 kHz
    EnCodec needs 7 latents. Strides and upsampling on the way are accounted for.
    """
    needed, up, down = 1, 1, 1  # a layer sees L * up / down samples for L inputs of the chain
    for module in chain.modules():
        if isinstance(module, CausalConv):
            needed = max(needed, -(-(module.history + 1) * down // up))
            down *= module.stride
        elif isinstance(module, CausalUpsample):
            up *= module.stride
    return needed
