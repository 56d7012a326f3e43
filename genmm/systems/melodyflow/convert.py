"""Official MelodyFlow files -> one checkpoint folder of ours, checked, or nothing at all.

Sources: state_dict.bin and compression_state_dict.bin of facebook/melodyflow-t24-30secs, and t5-base. The flow tensors
keep names, values and number format; the weight normalisation of the codec is folded. The pickles are read by an
interpreter that runs nothing in them (`pickled.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genmm.core.checkpoint import UnsetWeights, load_into, save_checkpoint
from genmm.core.errors import CheckpointError, ConfigError, GenerationError
from genmm.core.events import Progress
from genmm.core.staging import check_target, staged_folder
from genmm.systems.melodyflow.config import FlowConfig
from genmm.systems.melodyflow.network import FlowNetwork, from_official_names
from genmm.systems.melodyflow.official import CODEC_FILE, FLOW_FILE, condition_width, published_file, read_part
from genmm.systems.melodyflow.pipeline import MelodyFlowPipeline
from genmm.systems.melodyflow.t5 import T5Text
from genmm.systems.melodyflow.vae import SeanetCodec

WINDOW_S = 30.0
"""Length of the released model's training pieces, when its configuration does not say."""
TRIAL = {"steps": 2, "guidance": 1.0}
"""What a converted checkpoint must be able to do before it gets its place: two calls, half a second."""
T5_NAMES = ("t5-base", "t5", "google-t5")
"""Folders in or beside the official one that are looked at when no text encoder is named."""


def convert_melodyflow(
    official: Path | str,
    t5: Path | str | None,
    out: Path | str,
    *,
    licence: str = "",
    origin: Mapping[str, str] | None = None,
    overwrite: bool = False,
    on_event: Callable[[Progress], None] | None = None,
) -> Path:
    """Convert the published files together with T5 into the new folder `out`; gives back `out`.

    official: state_dict.bin and compression_state_dict.bin. t5: config.json, model.safetensors and tokenizer.json of
    t5-base, None looks for them in and beside `official`. `licence` and `origin` (repository -> commit) are written
    down in the result. The checkpoint is built beside `out`, loaded back, made to generate half a second, and only then
    moved there.
    Raises: CheckpointError or ConfigError when the files are not what they should be, UsageError when `out` exists and
    `overwrite` is off; in every such case `out` stays as it was.
    """
    say = on_event or (lambda event: None)
    official, out = Path(official), Path(out)
    check_target(out, overwrite=overwrite)
    t5 = find_t5(official) if t5 is None else Path(t5)
    say(Progress(0, 4, "steps", f"reading {CODEC_FILE}"))
    part = read_part(published_file(official, CODEC_FILE))
    codec = SeanetCodec.from_official(_blocks(part.config, ("seanet",), CODEC_FILE), part.tensors)
    say(Progress(1, 4, "steps", f"reading {FLOW_FILE}"))
    part = read_part(published_file(official, FLOW_FILE))
    blocks = _blocks(part.config, ("transformer_lm",), FLOW_FILE)
    network = FlowConfig.from_official({**blocks, "cond_dim": condition_width(part.config, part.tensors)})
    tensors = from_official_names(part.tensors)
    with UnsetWeights():
        load_into(FlowNetwork(network), tensors)
    say(Progress(2, 4, "steps", f"reading {t5.name}"))
    text = T5Text.from_official(t5)
    if text.width != network.cond_dim:
        raise CheckpointError(
            f"the text encoder in {t5} has states of width {text.width}, the model was trained with "
            f"{network.cond_dim}; fetch t5-base"
        )
    settings = _settings(network, part.config, licence, origin or {})
    with staged_folder(out, overwrite=overwrite) as stage:
        say(Progress(3, 4, "steps", "writing and trying it"))
        save_checkpoint(stage, settings, tensors, extra_files={"README.md": _card(settings).encode()})
        codec.save(stage / "codec")
        text.save(stage / "text")
        del tensors, text, codec
        try_checkpoint(stage)
    say(Progress(4, 4, "steps", "done"))
    return out


def find_t5(official: Path) -> Path:
    """The T5 folder that belongs to an official folder when nobody names one. Raises: CheckpointError."""
    places = [home / name for home in (official, official.absolute().parent) for name in T5_NAMES]
    for place in places:
        if (place / "config.json").is_file() and (place / "model.safetensors").is_file():
            return place
    raise CheckpointError(
        "the text encoder is missing: MelodyFlow reads its descriptions through t5-base. Fetch its config.json, "
        f"model.safetensors and tokenizer.json into {official.absolute().parent / 't5-base'}, or name their folder "
        "with --t5"
    )


def try_checkpoint(folder: Path) -> np.ndarray:
    """Load a converted folder as any user would and make half a second, [C, S]; raises when anything about it fails."""
    pipeline = MelodyFlowPipeline.from_folder(folder, device="cpu", dtype="float32")
    settings = {**TRIAL, "loudness_lufs": None}
    try:
        return pipeline.generate("calm piano", duration_s=0.5, seed=0, settings=settings).samples[0]
    except GenerationError as error:
        raise GenerationError(
            f"the converted checkpoint makes no music: {error}. Its files are damaged or do not belong together"
        ) from error


def _blocks(config: Mapping[str, Any], names: tuple[str, ...], file: str) -> Mapping[str, Any]:
    missing = [name for name in names if not isinstance(config.get(name), Mapping)]
    if missing:
        raise ConfigError(
            f"the configuration in {file} has no block {', '.join(missing)}; it is not the published file"
        )
    return config


def _settings(
    network: FlowConfig, config: Mapping[str, Any], licence: str, origin: Mapping[str, str]
) -> dict[str, Any]:
    dataset = config.get("dataset")
    seconds = dataset.get("segment_duration") if isinstance(dataset, Mapping) else None
    return {
        "system": "melodyflow",
        "network": network.to_dict(),
        "text": {"kind": "t5"},
        "window_s": float(seconds) if isinstance(seconds, int | float) else WINDOW_S,
        "defaults": {},
        "licence": licence,
        "description": "official MelodyFlow: instrumental music from English descriptions and edits, 48 kHz stereo",
        "origin": dict(origin),
    }


def _card(settings: Mapping[str, Any]) -> str:
    sources = (
        "\n".join(f"- {name} at {commit}" for name, commit in settings["origin"].items()) or "- files of the user's"
    )
    return f"""---
license: {json.dumps(settings["licence"] or "not stated")}
description: {json.dumps(settings["description"])}
---
# Converted MelodyFlow checkpoint

{settings["description"]}. Made by `genmm convert` from:
{sources}

Method: MelodyFlow, text-guided music generation and editing by flow matching (arXiv 2407.03648). Text encoder: T5
(arXiv 1910.10683). Weights and vocabulary are the authors'; their licence applies. The authors release the music model
under CC BY-NC 4.0: not for commercial use.
"""
