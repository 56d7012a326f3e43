"""One process of a training in `test_vector_ranks.py`: rank, world size, meeting file, folder for what it ends with."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from genmm.quantizers import ResidualVQ, VectorQuantize

CASES = {
    "plain": (VectorQuantize, {}),
    "cosine": (VectorQuantize, {"use_cosine_sim": True, "threshold_ema_dead_code": 2}),
    "dead codes": (VectorQuantize, {"threshold_ema_dead_code": 3}),
    "k-means": (VectorQuantize, {"kmeans_init": True, "kmeans_iters": 3, "threshold_ema_dead_code": 1}),
    "heads": (
        VectorQuantize,
        {"heads": 2, "separate_codebook_per_head": True, "kmeans_init": True, "threshold_ema_dead_code": 1},
    ),
    "in place": (
        VectorQuantize,
        {
            "learnable_codebook": True,
            "ema_update": False,
            "in_place_codebook_optimizer": lambda parameters: torch.optim.SGD(parameters, 0.1),
        },
    ),
    "residual": (ResidualVQ, {"num_quantizers": 3, "quantize_dropout": True, "threshold_ema_dead_code": 1}),
    "shared": (ResidualVQ, {"num_quantizers": 3, "shared_codebook": True, "threshold_ema_dead_code": 1}),
}
STEPS = 5


def batches(step: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """What each of two processes sees in a step: also nothing, and nothing that counts."""
    draw = torch.Generator().manual_seed(step)
    first, second = torch.randn(4, 10, 8, generator=draw), torch.randn(2, 7, 8, generator=draw)
    if step == 1:
        second = second[:0]
    if step == 2:
        first = first[:0]
    mask = torch.zeros(2, 7, dtype=torch.bool) if step == 3 else None
    return [(first, None), (second, mask)]


def main(rank: int, world: int, meeting: str, folder: str) -> None:
    if world > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=timedelta(seconds=300)
        )
    states = {}
    for name, (cls, options) in CASES.items():
        torch.manual_seed(0)
        quantizer = cls(dim=8, codebook_size=12, **options)
        torch.manual_seed(100 + rank)  # processes of a training draw differently
        for step in range(STEPS):
            parts = batches(step)
            if world > 1:
                x, mask = parts[rank]
                quantizer(x.requires_grad_(), mask=mask)
            else:
                rows = [x.flatten(0, 1) for x, mask in parts if mask is None]
                quantizer(torch.cat(rows).unsqueeze(0).requires_grad_())
        states[name] = quantizer.state_dict()
    torch.save(states, Path(folder) / f"{world}_{rank}.pt")
    if world > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
