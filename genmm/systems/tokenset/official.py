"""Names and sizes of the released weights, and what they are called here."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from genmm.core.errors import CheckpointError
from genmm.systems.tokenset.config import CountNetworkConfig, SetTokenizerConfig

CLASS_TABLE = ("y_embedder.embedding_table.weight", "label_embedders.class.weight")
"""The class table's name: theirs, ours. All other tensors keep their names."""
HEAD_WIDTH = 64
"""Width of an attention head in every released network."""


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a released network under the names of `CountNetwork`."""
    theirs, ours = CLASS_TABLE
    return {ours if name == theirs else name: tensor for name, tensor in tensors.items()}


def network_config_of(tensors: Mapping[str, Tensor], heads: int | None = None) -> CountNetworkConfig:
    """Sizes of a released generator, read from its tensors.

    Raises: CheckpointError when a tensor that tells them is missing.
    """
    try:
        codes, width = tensors["pos_embed"].shape[1:]
        values = tensors["final_layer.linear.weight"].shape[0]
        classes = tensors[CLASS_TABLE[0]].shape[0] - 1
        rows = tensors["x_embedder.embedding_table.weight"].shape[0]
        inner = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"this is no released TokenSet generator: {error} is missing") from error
    depth = _count(tensors, "blocks.")
    return CountNetworkConfig(
        codes=codes,
        tokens=values - 1,
        width=width,
        depth=depth,
        heads=heads or max(1, width // HEAD_WIDTH),
        mlp_ratio=inner / width,
        labels={"class": tuple(str(number) for number in range(classes))},
        count_rows=rows,
    )


def tokenizer_config_of(tensors: Mapping[str, Tensor], heads: int | None = None) -> SetTokenizerConfig:
    """Sizes of a released tokenizer, read from its tensors. Raises: as `network_config_of`."""
    try:
        tokens, width = tensors["latent_tokens"].shape
        patch = tensors["encoder.patch_embed.weight"].shape[-1]
        grid = round((tensors["encoder.positional_embedding"].shape[0] - 1) ** 0.5)
        codes, code_width = tensors["quantize.embedding.weight"].shape
        inner = tensors["encoder.transformer.0.mlp.c_fc.weight"].shape[0]
        features = tensors["decoder.ffn.2.weight"].shape[0]
        finest = tensors["pixel_decoder.norm_out.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"this is no released TokenSet tokenizer: {error} is missing") from error
    levels = _count(tensors, "pixel_decoder.up.")
    channels = [tensors[f"pixel_decoder.up.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    return SetTokenizerConfig(
        image_size=grid * patch,
        patch_size=patch,
        tokens=tokens,
        codes=codes,
        code_width=code_width,
        width=width,
        depth=_count(tensors, "encoder.transformer."),
        heads=heads or max(1, width // HEAD_WIDTH),
        mlp_ratio=inner / width,
        features=features,
        pixel_channels=finest,
        channel_mult=tuple(channel // finest for channel in channels),
        res_blocks=_count(tensors, "pixel_decoder.mid."),
    )


def _count(tensors: Mapping[str, Tensor], start: str) -> int:
    """How many numbered parts there are behind a start of names."""
    numbers = {name[len(start) :].split(".")[0] for name in tensors if name.startswith(start)}
    if not numbers:
        raise CheckpointError(f"this is no released TokenSet checkpoint: nothing starts with {start}")
    return len(numbers)
