"""Whole pictures of a model against its bare network calls, and tokenising."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

import genmm
from benchmarks.image_sampling import one_step, released_predictor, stub_logits
from benchmarks.tables import Row, Section
from benchmarks.timing import alternate
from genmm.quantizers.multiset import to_counts
from genmm.samplers.fixed_sum import RowNoise
from genmm.samplers.fixed_sum_diffusion import DiffusionSettings, start_counts
from genmm.systems.tokenset.pictures import as_tensor
from genmm.systems.tokenset.request import PictureRequest, PictureSettings, Wish
from genmm.systems.tokenset.sampling import Predictor, sample_rows
from genmm.systems.tokenset.sampling import Row as SampleRow

ENGINES_MEASURED = ("exact", "repair")
OVERHEAD = 1.10
"""Time of sampling that we allow as a multiple of the network's own."""


def whole_section(model: str, device: str, *, batch: int, runs: int, quick: bool) -> Section:
    """Sampling of a batch against the same number of network calls on one state; one step at the released size."""
    pipeline = genmm.load(model, device=device)
    settings, network = pipeline.defaults, pipeline.network
    rows = [SampleRow(Wish("red heart" if pipeline.reads_text else "", {}), seed) for seed in range(batch)]
    predict = Predictor(network, [row.wish for row in rows], settings)
    state = torch.zeros(batch, network.config.codes, dtype=torch.int64, device=pipeline.device)
    state[:, : network.config.tokens] = 1

    @torch.inference_mode()
    def bare() -> None:
        for step in range(settings.steps):
            predict(state, step / settings.steps)

    def sampled(engine: str) -> None:
        for _ in sample_rows(network, rows, settings.changed({"engine": engine})):
            pass

    def whole() -> None:
        pipeline.generate_batch([_request(row, settings) for row in rows], batch_size=batch)

    actions = {"exact": lambda: sampled("exact"), "repair": lambda: sampled("repair"), "whole": whole, "bare": bare}
    seconds = alternate(actions, runs=runs, device=device)
    times = {name: seconds[name].median / seconds["bare"].median for name in ENGINES_MEASURED}
    rate = seconds["whole"].per(batch)
    return Section(
        "Whole pictures",
        f"{pipeline.name}: {batch} pictures, {settings.steps} steps, guidance {settings.guidance}, "
        f"{pipeline.image_size} pixels. Bare: the same network calls and guidance on one state, nothing drawn. The "
        "network of this model is so small that drawing weighs much; at the released small size (36 M parameters, "
        "random weights) one step of two pictures was taken apart into the guided network call and the drawing.",
        (
            Row(item="pictures with decoding", unit="pictures/s", ours=rate),
            *(
                Row(
                    item=f"sampling, {name}",
                    unit="times the bare calls",
                    ours=times[name],
                    better="lower",
                    bound=OVERHEAD,
                )
                for name in ENGINES_MEASURED
            ),
            *_released_rows(torch.device(device), quick=quick),
        ),
    )


def _released_rows(device: torch.device, *, quick: bool) -> list[Row]:
    """Network and sampler of one step at the released small size, drawn from what a trained network would predict."""
    rows, t = 2, 0.4
    predict, config = released_predictor(rows, device, quick=quick)
    state = start_counts(config.codes, config.tokens, RowNoise(range(rows), device))
    log_p = stub_logits(rows, config.codes, config.tokens, t).to(device)

    @torch.inference_mode()
    def network() -> None:
        predict(state, t)

    seconds = alternate({"network": network}, runs=2, device=device)["network"].median
    actions = {name: partial(one_step, log_p, state, t, DiffusionSettings(engine=name)) for name in ENGINES_MEASURED}
    drawn = alternate(actions, runs=5, device=device)
    return [
        Row(
            item=f"released small size, {name}",
            unit="times the bare calls",
            ours=1.0 + drawn[name].median / seconds,
            better="lower",
            bound=None if quick else OVERHEAD,
        )
        for name in ENGINES_MEASURED
    ]


def _request(row: SampleRow, settings: PictureSettings) -> PictureRequest:
    return PictureRequest(text=row.wish.text or None, seed=row.seed, settings=settings)


def encode_section(model: str, device: str, *, runs: int, quick: bool) -> Section:
    """Pictures in memory to counts."""
    pipeline = genmm.load(model, device=device)
    many, side = (4 if quick else 64), pipeline.image_size
    rng = np.random.default_rng(0)
    pictures = as_tensor(list(rng.integers(0, 255, (many, side, side, 3), dtype=np.uint8))).to(pipeline.device)

    @torch.inference_mode()
    def encode() -> None:
        to_counts(pipeline.tokenizer.encode(pictures, pipeline.tokens), pipeline.codes)

    @torch.inference_mode()
    def network_alone() -> None:
        pipeline.tokenizer.vectors(pictures, pipeline.tokens)

    seconds = alternate({"encode": encode, "network": network_alone}, runs=runs, device=device)
    rate, limit = seconds["encode"].per(many), many / seconds["network"].median
    row = Row(
        item="tokenise and count", unit="pictures/s", ours=rate, limit=limit, note="The limit is the encoder alone."
    )
    return Section("Pictures to counts", f"{many} pictures of {side} pixels at once.", (row,))
