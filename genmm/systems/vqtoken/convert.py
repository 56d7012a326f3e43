"""Published VQToken weights -> ours: the block alone, or the whole LLaVA-OneVision model around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genmm.core.checkpoint import load_into, save_checkpoint
from genmm.core.errors import CheckpointError, GenerationError
from genmm.core.events import Progress
from genmm.core.files import read_json
from genmm.core.staging import check_target, staged_folder
from genmm.core.weights import read_tensors
from genmm.systems.vqtoken.blocks import OFFICIAL_INNER, OfficialBlock
from genmm.systems.vqtoken.config import BlockConfig
from genmm.systems.vqtoken.llava import PLAIN, RELEASED, LlavaPipeline, build_llava
from genmm.systems.vqtoken.pipeline import stored_budget

__all__ = ["BLOCK_PREFIXES", "block_tensors", "convert_vqtoken", "official_block"]

BLOCK_PREFIXES = ("model.cross_attention.", "cross_attention.", "module.model.cross_attention.", "")
"""Where the block's tensors may sit in a state dict."""
MARK = "to_q_proj.weight"
TOWER = "model.vision_tower.vision_tower.vision_model."
HEADS = 8
"""Attention heads of the released block; the weights do not tell."""
VISION_HEADS = 16
"""Attention heads of SigLIP so400m; the weights do not tell."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
TEXT_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "tie_word_embeddings",
    "hidden_act", "bos_token_id", "eos_token_id",
)  # fmt: skip


def block_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the block with bare names. Raises: CheckpointError when the state dict has none."""
    for prefix in BLOCK_PREFIXES:
        if prefix + MARK in tensors:
            names = [n for n in tensors if n.startswith((f"{prefix}to_q_proj.", f"{prefix}transformer_decoder."))]
            return {name.removeprefix(prefix): tensors[name] for name in names}
    raise CheckpointError(
        f"there is no VQToken block in these weights: no tensor is called {BLOCK_PREFIXES[0]}{MARK} (or without prefix)"
    )


def official_block(tensors: Mapping[str, Tensor], *, heads: int = HEADS) -> OfficialBlock:
    """Build the published block from a state dict, with or without prefix; sizes are read from to_q_proj.weight.

    The number of heads is not in the weights; 8 in the released model.
    Raises: CheckpointError for missing, foreign or misshapen tensors.
    """
    own = block_tensors(tensors)
    if own[MARK].ndim != 2:
        raise CheckpointError(f"{MARK} must be a matrix [width, cells], got {tuple(own[MARK].shape)}")
    width, cells = own[MARK].shape
    if width % heads:
        raise CheckpointError(f"a block of width {width} cannot have {heads} heads; name the number it was made with")
    inner = own.get("transformer_decoder.layers.0.linear1.weight")
    if inner is not None and len(inner) != OFFICIAL_INNER:
        raise CheckpointError(f"the feed-forward of the published block is {OFFICIAL_INNER} wide, here {len(inner)}")
    block = OfficialBlock(cells, width, heads)
    load_into(block, own)
    return block


def convert_vqtoken(
    official: Path | str,
    out: Path | str,
    *,
    licence: str = "",
    origin: Mapping[str, str] | None = None,
    overwrite: bool = False,
    on_event: Callable[[Progress], None] | None = None,
    vision_heads: int = VISION_HEADS,
) -> Path:
    """Convert a published folder (config.json, model.safetensors or its shards, tokenizer files) into `out`.

    Weights keep their values and number format. The new folder is built beside `out`, loaded, asked one question about
    a made-up clip, and only then moved there.
    Raises: CheckpointError when the files are not what they should be, UsageError when `out` exists.
    """
    say = on_event or (lambda event: None)
    official, out = Path(official), Path(out)
    check_target(out, overwrite=overwrite)
    say(Progress(0, 3, "steps", f"reading {official.name or official}"))
    values = _read_config(official)
    tensors = _read_weights(official)
    config = llava_config(values, tensors, vision_heads)
    network = build_llava(config)
    renamed = _renamed(tensors, set(network.state_dict()))
    load_into(network, renamed)  # says what is missing or misshapen
    del network
    stored = {f"llava.{name}": tensor for name, tensor in renamed.items()}
    cells = 0
    if any(prefix + MARK in tensors for prefix in BLOCK_PREFIXES):
        stored |= {f"block.{name}": tensor for name, tensor in block_tensors(tensors).items()}
        cells = official_block(tensors).cells
    settings = _settings(config, cells, licence, origin or {})
    with staged_folder(out, overwrite=overwrite) as stage:
        say(Progress(1, 3, "steps", "writing"))
        save_checkpoint(stage, settings, stored, extra_files={**_tokenizer_files(official), **_card(settings)})
        del stored, renamed, tensors
        say(Progress(2, 3, "steps", "trying it"))
        try_llava(stage)
    say(Progress(3, 3, "steps", "done"))
    return out


def try_llava(folder: Path) -> str:
    """Load a converted folder and let it write two words about a grey clip. Raises when anything about it fails."""
    pipeline = LlavaPipeline.from_folder(folder, device="cpu", dtype="float32")
    pipeline.frames = 2
    frames = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    reduced = pipeline.reduce(pipeline.encoder(frames).unsqueeze(0), 4)
    if not bool(torch.isfinite(reduced.tokens).all()):
        raise GenerationError("the converted model gives no finite tokens; its files are damaged")
    return pipeline.answer_words(reduced, "What is this?", max_new_tokens=2)


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json; name the folder with the files as the authors publish them"
        )
    values = read_json(folder / "config.json")
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != "llava_qwen":
        raise CheckpointError(f"{folder} is no published VQToken model: model_type is {kind!r}, expected 'llava_qwen'")
    return values


def _read_weights(folder: Path) -> dict[str, Tensor]:
    table = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if not (folder / names[0]).is_file() and table.is_file():
        names = sorted(set(read_json(table)["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for name in names:
        path = folder / name
        if "/" in name or "\\" in name or not path.is_file():
            pickles = [p.name for p in folder.glob("*.bin")]
            hint = f"; {pickles[0]} is a pickle, which can run code, and is not opened" if pickles else ""
            raise CheckpointError(f"{folder} has no {name}{hint}")
        tensors |= read_tensors(path, dtype=None)
    return tensors


def llava_config(values: Mapping[str, Any], tensors: Mapping[str, Tensor], vision_heads: int) -> dict[str, Any]:
    """transformers' LLaVA-OneVision configuration from the published one and the shapes of the weights."""
    try:
        patch = tensors[f"{TOWER}embeddings.patch_embedding.weight"]
        places = tensors[f"{TOWER}embeddings.position_embedding.weight"]
        inner = tensors[f"{TOWER}encoder.layers.0.mlp.fc1.weight"]
    except KeyError as error:
        raise CheckpointError(f"the weights hold no vision tower: {error.args[0]} is missing") from error
    grid = round(len(places) ** 0.5)
    layers = {int(m[1]) for n in tensors if (m := re.match(re.escape(TOWER) + r"encoder\.layers\.(\d+)\.", n))}
    text = {name: values[name] for name in TEXT_FIELDS if values.get(name) is not None}
    tied = "lm_head.weight" not in tensors
    return {
        "text_config": {"model_type": "qwen2", **text, "tie_word_embeddings": tied},
        "tie_word_embeddings": tied,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": patch.shape[0],
            "intermediate_size": inner.shape[0],
            "num_hidden_layers": len(layers),
            "num_attention_heads": vision_heads,
            "image_size": grid * patch.shape[-1],
            "patch_size": patch.shape[-1],
            "vision_use_head": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
    }


def _renamed(tensors: Mapping[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """Tensors under transformers' names; those of the block and of the deleted tower parts stay out."""
    tower = {re.sub(r"^model\.vision_tower\.(vision_model\.)?", "", n): n for n in own if "vision_tower" in n}
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(TOWER):
            target = tower.get(name.removeprefix(TOWER))
        elif name.startswith("model.mm_projector."):
            layer, _, rest = name.removeprefix("model.mm_projector.").partition(".")
            target = f"model.multi_modal_projector.linear_{1 if layer == '0' else 2}.{rest}"
        elif name in ("model.image_newline", "lm_head.weight"):
            target = name
        elif name.startswith(("model.embed_tokens.", "model.layers.", "model.norm.")):
            target = f"model.language_model.{name.removeprefix('model.')}"
        else:
            target = None
        if target is not None:
            out[target] = tensor
    if "lm_head.weight" not in out and "model.language_model.embed_tokens.weight" in out:
        out["lm_head.weight"] = out["model.language_model.embed_tokens.weight"]
    return out


def _tokenizer_files(folder: Path) -> dict[str, bytes]:
    found = {f"tokenizer/{name}": (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}
    if "tokenizer/tokenizer.json" not in found and not {"tokenizer/vocab.json", "tokenizer/merges.txt"} <= set(found):
        raise CheckpointError(f"{folder} holds no tokenizer: fetch tokenizer.json, or vocab.json and merges.txt")
    return found


def _settings(config: dict[str, Any], cells: int, licence: str, origin: Mapping[str, str]) -> dict[str, Any]:
    with_block = "with the published attention block" if cells else "without the attention block"
    block = BlockConfig(kind="official", heads=HEADS, cells=cells, codebook_scale="unit") if cells else PLAIN
    return {
        "system": "vqtoken",
        "kind": "llava",
        "llava": config,
        "frames": 32,
        "block": asdict(block),
        "runs_block": False,
        "tokens": stored_budget(RELEASED),
        "licence": licence,
        "description": f"official VQToken on LLaVA-OneVision: free questions about videos, {with_block}",
        "origin": dict(origin),
    }


def _card(settings: Mapping[str, Any]) -> dict[str, bytes]:
    sources = (
        "\n".join(f"- {repo} at {commit}" for repo, commit in settings["origin"].items()) or "- files of the user's"
    )
    text = f"""---
license: "{settings["licence"] or "not stated"}"
description: "{settings["description"]}"
---
# Converted VQToken checkpoint

{settings["description"]}. Made by `genmm convert` from:
{sources}

Method: VQToken (arXiv 2503.16980). Weights and vocabulary are the authors'; their licence applies.
"""
    return {"README.md": text.encode()}
