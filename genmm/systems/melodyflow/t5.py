"""The frozen T5 encoder that the released model reads its descriptions with; needs the optional extra `official`.

Letters: B texts, L tokens, W width of the states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from genmm.core.checkpoint import load_into, load_tensors, read_config, save_checkpoint
from genmm.core.errors import CheckpointError, MissingDependencyError
from genmm.core.files import read_json
from genmm.core.weights import read_tensors
from genmm.systems.melodyflow.network import stack_states

LONGEST_TOKENS = 512
"""Tokens of a description that are read."""


class T5Text:
    """Texts to states. The weights and the tokenizer are those published as t5-base."""

    kind = "t5"

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], tokenizer: str) -> None:
        """config: that of a transformers T5 model; tensors: those of its encoder; tokenizer: text of tokenizer.json.

        Raises: MissingDependencyError without the extra, CheckpointError when parts do not fit.
        """
        try:
            from tokenizers import Tokenizer
            from transformers import T5Config, T5EncoderModel
        except ImportError as error:
            raise MissingDependencyError(
                "this model reads text with T5, which needs more packages: pip install 'genmm[official]'"
            ) from error
        self.config, self.tokenizer_text = dict(config), tokenizer
        settings = T5Config(
            **{key: value for key, value in config.items() if key not in ("architectures", "model_type")}
        )
        with torch.device("meta"):
            encoder = T5EncoderModel(settings)
        self.encoder = encoder.to_empty(device="cpu").eval().requires_grad_(False)
        tensors = dict(tensors)
        for name in self.encoder.state_dict():  # the embedding is listed under two names
            if name not in tensors and name.endswith("embed_tokens.weight") and "shared.weight" in tensors:
                tensors[name] = tensors["shared.weight"]
        load_into(self.encoder, {name: tensors[name] for name in self.encoder.state_dict() if name in tensors})
        try:
            self.tokenizer = Tokenizer.from_str(tokenizer)
        except Exception as error:  # the library raises its own bare exceptions
            raise CheckpointError(f"tokenizer.json of the text encoder cannot be read: {error}") from error

    @property
    def width(self) -> int:
        """W."""
        return int(self.config["d_model"])

    @torch.inference_mode()
    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States [B, L, W] float32 with their mask [B, L]; an empty text has a row of zeros."""
        device, parts = self.encoder.shared.weight.device, []
        for text in texts:
            ids = self.tokenizer.encode(text).ids[:LONGEST_TOKENS] if text.strip() else []
            if ids:
                out = self.encoder(input_ids=torch.tensor([ids], device=device)).last_hidden_state[0]
                parts.append(out.float().cpu())
            else:
                parts.append(torch.zeros(0, self.width))
        return stack_states(parts, self.width)

    def to(self, device: torch.device) -> Self:
        """Move to a device; it stays float32."""
        self.encoder.to(device)
        return self

    def modules(self) -> list[nn.Module]:
        """The networks inside."""
        return [self.encoder]

    # ------------------------------------------------------------ folders

    @classmethod
    def from_official(cls, folder: Path) -> Self:
        """Read config.json, model.safetensors and tokenizer.json of a published T5. Raises: CheckpointError."""
        from genmm.systems.melodyflow.official import published_file

        config = read_json(published_file(folder, "config.json"))
        if not isinstance(config, dict) or config.get("model_type") != "t5":
            raise CheckpointError(f"{folder} is no T5 text encoder; fetch the files of t5-base")
        tensors = read_tensors(published_file(folder, "model.safetensors"))
        kept = {name: value for name, value in tensors.items() if name.startswith(("encoder.", "shared."))}
        return cls(config, kept, published_file(folder, "tokenizer.json").read_text(encoding="utf-8"))

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Load what `save` wrote. Raises: CheckpointError."""
        config = read_config(folder)
        if config["system"] != "t5-encoder":
            raise CheckpointError(f"{folder} holds no T5 encoder")
        tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
        return cls(config["t5"], load_tensors(folder, dtype=torch.float32), tokenizer)

    def save(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write the encoder alone: config.json, model.safetensors, tokenizer.json."""
        plain = json.loads(json.dumps(self.config))
        extra = {"tokenizer.json": self.tokenizer_text.encode("utf-8")}
        tensors = {name: value for name, value in self.encoder.state_dict().items() if "embed_tokens" not in name}
        save_checkpoint(folder, {"system": "t5-encoder", "t5": plain}, tensors, dtype=dtype, extra_files=extra)
