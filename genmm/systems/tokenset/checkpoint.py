"""Tokenizer folders: config.json and model.safetensors of a set tokenizer alone, inside or outside a model folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genmm.core.checkpoint import load_into, load_tensors, read_config, save_checkpoint
from genmm.core.errors import CheckpointError
from genmm.systems.tokenset.config import SetTokenizerConfig
from genmm.systems.tokenset.tokenizer import SetTokenizer

TOKENIZER = "tokenizer"
"""Name of the tokenizer's folder inside a model folder."""


def load_tokenizer(folder: str | os.PathLike[str]) -> SetTokenizer:
    """The tokenizer of a tokenizer folder, or of the model folder it lies in; on the CPU, not in training.

    Raises: CheckpointError, ConfigError when something does not fit.
    """
    folder = Path(folder)
    if not (folder / TOKENIZER / "config.json").is_file():
        config = read_config(folder)
    else:
        folder = folder / TOKENIZER
        config = read_config(folder)
    if config["system"] != "tokenset" or "tokenizer" not in config:
        raise CheckpointError(f"{folder} is no set tokenizer; its config.json has no entry tokenizer")
    with torch.device("meta"):
        tokenizer = SetTokenizer(SetTokenizerConfig.from_dict(config["tokenizer"]))
    tokenizer = tokenizer.to_empty(device="cpu").eval().requires_grad_(False)
    load_into(tokenizer, load_tensors(folder))
    tokenizer.quantize.restart_averages()
    return tokenizer


def save_tokenizer(
    tokenizer: SetTokenizer,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a tokenizer folder; gives it back."""
    config = {"system": "tokenset", "tokenizer": tokenizer.config.to_dict(), **(about or {})}
    return save_checkpoint(folder, config, tokenizer.state_dict(), dtype=dtype)
