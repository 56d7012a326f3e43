"""Official SLED and EnCodec checkpoints -> one checkpoint folder of ours, checked, or nothing at all.

Sources: the folders published as ICTNLP/SLED-TTS-Libriheavy, ICTNLP/SLED-TTS-Streaming-Libriheavy (both in the layout
of a transformers model) and facebook/encodec_24khz. The tensors keep their names, values and number format; the weight
normalisation of EnCodec is folded. Pickles are never opened.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from genmm.core.checkpoint import UnsetWeights, load_into, save_checkpoint
from genmm.core.errors import CheckpointError, ConfigError, GenerationError, UsageError
from genmm.core.events import Progress
from genmm.core.files import read_json
from genmm.core.staging import check_target, staged_folder
from genmm.core.weights import read_tensors
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.encodec import EncodecLatents
from genmm.systems.sled.network import SledNetwork
from genmm.systems.sled.official import official_file
from genmm.systems.sled.pipeline import SledPipeline
from genmm.systems.sled.tokenizer import SledTokenizer

Layout = Literal["offline", "streaming"]
OFFICIAL_STREAM = {"stream_n": 5, "stream_m": 45}
"""Text tokens and frames in a turn of the released streaming model."""
STOP_THRESHOLD = {"offline": 0.8, "streaming": 0.5}
"""Probability at which the official scripts stop; hard-coded there."""
GUIDANCE = 2.0
"""The value of the paper and of the official README."""
TRIAL_TEXT, TRIAL_FRAMES = "Hello there.", 8
"""What a converted checkpoint must be able to speak before it gets its place."""
ENCODEC_NAMES = ("encodec", "encodec_24khz", "codec")
"""Folders in or beside the official one that are looked at when no codec is named."""


def convert_sled(
    official: Path | str,
    encodec: Path | str | None,
    out: Path | str,
    *,
    layout: Layout | None = None,
    licence: str = "",
    origin: Mapping[str, str] | None = None,
    overwrite: bool = False,
    on_event: Callable[[Progress], None] | None = None,
) -> Path:
    """Convert an official SLED folder together with its codec into the new folder `out`; gives back `out`.

    official: config.json, model.safetensors, vocab.json and merges.txt as published. encodec: config.json and
    model.safetensors of facebook/encodec_24khz, None looks for them (see `find_encodec`). `layout` says whether the
    checkpoint is the offline or the streaming one; None reads it from the files. `licence` and `origin` (repository ->
    commit) are written down in the result.
    The checkpoint is built beside `out`, loaded back, made to generate a few frames, and only then moved there.
    Raises: CheckpointError or ConfigError when the files are not what they should be, UsageError when `out` exists and
    `overwrite` is off; in every such case `out` stays as it was.
    """
    say = on_event or (lambda event: None)
    official, out = Path(official), Path(out)
    if not official.is_dir():
        raise UsageError(f"there is no folder {official}; name the one that holds the files of the SLED repository")
    encodec = find_encodec(official) if encodec is None else Path(encodec)
    check_target(out, overwrite=overwrite)
    say(Progress(0, 4, "steps", f"reading {official.name or official}"))
    config, layout = _read_official_config(official, layout)
    tensors = _read_official_tensors(official)
    tokenizer = _read_tokenizer(official, config)
    _check_tensors(config, tensors)
    say(Progress(1, 4, "steps", f"reading {encodec.name or encodec}"))
    codec = EncodecLatents.from_official(encodec)
    if codec.channels != config.vae_embed_dim:
        raise CheckpointError(
            f"the codec makes {codec.channels} channels, the SLED checkpoint speaks {config.vae_embed_dim}; "
            "it was trained with facebook/encodec_24khz"
        )
    settings = _our_config(config, layout, licence, origin or {})
    with staged_folder(out, overwrite=overwrite) as stage:
        say(Progress(2, 4, "steps", "writing"))
        extra = {**tokenizer.files(), "README.md": _card(settings).encode()}
        save_checkpoint(stage, settings, tensors, extra_files=extra)
        del tensors
        codec.save(stage / "codec")
        say(Progress(3, 4, "steps", "trying it"))
        try_checkpoint(stage)
    say(Progress(4, 4, "steps", "done"))
    return out


def find_encodec(official: Path) -> Path:
    """The EnCodec folder that belongs to an official SLED folder when nobody names one.

    Looks for encodec, encodec_24khz and codec in the folder and beside it, then in the cache of huggingface_hub.
    Raises: CheckpointError that says where it looked and what to fetch.
    """
    places = [home / name for home in (official, official.absolute().parent) for name in ENCODEC_NAMES]
    for place in places:
        if (place / "config.json").is_file() and (place / "model.safetensors").is_file():
            return place
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache("facebook/encodec_24khz", "model.safetensors")
    if isinstance(cached, str):
        return Path(cached).parent
    raise CheckpointError(
        "the codec is missing: SLED speaks through facebook/encodec_24khz. Fetch its config.json and model.safetensors "
        f"into {official.absolute().parent / 'encodec_24khz'}, or name their folder with --codec"
    )


def try_checkpoint(folder: Path) -> np.ndarray:
    """Load a converted folder as any user would and speak for a moment, [S]; raises when anything about it fails."""
    pipeline = SledPipeline.from_folder(folder, device="cpu", dtype="float32")
    trial_s = TRIAL_FRAMES / pipeline.codec.frame_rate
    settings = {"min_s": trial_s, "max_s": trial_s, "retries": 0}
    try:
        return pipeline.generate(TRIAL_TEXT, seed=0, settings=settings).samples[0]
    except GenerationError as error:
        raise GenerationError(
            f"the converted checkpoint cannot speak: {error}. Its files are damaged or do not belong together"
        ) from error


def _read_official_config(folder: Path, layout: Layout | None) -> tuple[SledConfig, Layout]:
    values = read_json(official_file(folder, "config.json"))
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != "speech_llama":
        raise CheckpointError(
            f"{folder} is no official SLED checkpoint: model_type is {kind!r}, expected 'speech_llama'"
        )
    layout = layout or _layout_of(folder, values)
    stream = dict.fromkeys(OFFICIAL_STREAM, 0)
    if layout == "streaming":
        stream = {name: values.get(name) or default for name, default in OFFICIAL_STREAM.items()}
    try:
        return SledConfig.from_dict({**values, **stream}, strict=False), layout
    except ConfigError as error:
        raise ConfigError(f"{folder}/config.json: {error}") from error


def _layout_of(folder: Path, values: Mapping[str, Any]) -> Layout:
    """Streaming checkpoints have stream_n in config.json and a tokenizer that pads on the right."""
    by_config: Layout = "streaming" if values.get("stream_n") else "offline"
    path = folder / "tokenizer_config.json"
    side = read_json(path).get("padding_side") if path.is_file() else None
    by_tokenizer = {"left": "offline", "right": "streaming"}.get(side, by_config)
    if by_config != by_tokenizer:
        raise ConfigError(
            f"config.json of {folder} looks like the {by_config} model, its tokenizer (padding {side}) like the "
            f"{by_tokenizer} one; say which it is with --layout offline or --layout streaming"
        )
    return by_config


def _read_official_tensors(folder: Path) -> dict[str, Tensor]:
    tensors = read_tensors(official_file(folder, "model.safetensors"))
    # A constant of the stop loss and tables of the rotary embedding; neither is a weight.
    return {name: value for name, value in tensors.items() if not name.endswith(("bceloss.pos_weight", ".inv_freq"))}


def _check_tensors(config: SledConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError that lists every name and shape which is not that of the network."""
    with UnsetWeights():
        network = SledNetwork(config)
    load_into(network, tensors)


def _read_tokenizer(folder: Path, config: SledConfig) -> SledTokenizer:
    tokenizer = SledTokenizer.from_files(official_file(folder, "vocab.json"), official_file(folder, "merges.txt"))
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"vocab.json has {tokenizer.vocab_size} entries, the network has rows for {config.vocab_size}; "
            "the tokenizer belongs to another checkpoint"
        )
    return tokenizer


def _our_config(config: SledConfig, layout: Layout, licence: str, origin: Mapping[str, str]) -> dict[str, Any]:
    about = "text and speech in turns, speaks while text arrives" if layout == "streaming" else "the whole text first"
    return {
        "system": "sled",
        "network": config.to_dict(),
        "codec": {"kind": "encodec"},
        "text": {},
        "defaults": {"guidance": GUIDANCE, "stop_threshold": STOP_THRESHOLD[layout]},
        "licence": licence,
        "description": f"official SLED, English, 24 kHz, {layout}: {about}",
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
# Converted SLED checkpoint

{settings["description"]}. Made by `genmm convert` from:
{sources}

Method: SLED, speech language modelling with energy distance in a continuous space (arXiv 2505.13181). Codec: EnCodec at
6 kbit/s (arXiv 2210.13438). Weights and vocabulary are the authors'; their licence applies.
"""
