"""A tiny random checkpoint in the layout in which the authors publish theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

WIDTH, VISION, GRID, PATCH, VOCABULARY = 32, 32, 4, 6, 300
CONFIG = {
    "model_type": "llava_qwen",
    "architectures": ["LlavaQwenForCausalLM"],
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_projector_type": "mlp2x_gelu",
}


def published_tensors() -> dict[str, torch.Tensor]:
    """Weights under the names of the published code."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(*shape, generator=generator)

    out: dict[str, torch.Tensor] = {}

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        out[f"{name}.weight"] = draw(rows, columns)
        if bias:
            out[f"{name}.bias"] = draw(rows)

    def norm(name: str, width: int, bias: bool = True) -> None:
        out[f"{name}.weight"] = 1.0 + draw(width)
        if bias:
            out[f"{name}.bias"] = draw(width)

    tower = "model.vision_tower.vision_tower.vision_model"
    out[f"{tower}.embeddings.patch_embedding.weight"] = draw(VISION, 3, PATCH, PATCH)
    out[f"{tower}.embeddings.patch_embedding.bias"] = draw(VISION)
    out[f"{tower}.embeddings.position_embedding.weight"] = draw(GRID * GRID, VISION)
    for layer in range(2):
        place = f"{tower}.encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{place}.self_attn.{part}", VISION, VISION)
        linear(f"{place}.mlp.fc1", 40, VISION)
        linear(f"{place}.mlp.fc2", VISION, 40)
        norm(f"{place}.layer_norm1", VISION)
        norm(f"{place}.layer_norm2", VISION)
    norm(f"{tower}.post_layernorm", VISION)
    linear("model.mm_projector.0", WIDTH, VISION)
    linear("model.mm_projector.2", WIDTH, WIDTH)
    out["model.image_newline"] = draw(WIDTH)
    out["model.embed_tokens.weight"] = draw(VOCABULARY, WIDTH)
    out["lm_head.weight"] = draw(VOCABULARY, WIDTH)
    norm("model.norm", WIDTH, bias=False)
    for layer in range(2):
        place = f"model.layers.{layer}"
        linear(f"{place}.self_attn.q_proj", WIDTH, WIDTH)
        linear(f"{place}.self_attn.k_proj", 16, WIDTH)
        linear(f"{place}.self_attn.v_proj", 16, WIDTH)
        linear(f"{place}.self_attn.o_proj", WIDTH, WIDTH, bias=False)
        linear(f"{place}.mlp.gate_proj", 48, WIDTH, bias=False)
        linear(f"{place}.mlp.up_proj", 48, WIDTH, bias=False)
        linear(f"{place}.mlp.down_proj", WIDTH, 48, bias=False)
        norm(f"{place}.input_layernorm", WIDTH, bias=False)
        norm(f"{place}.post_attention_layernorm", WIDTH, bias=False)
    block = "model.cross_attention"
    linear(f"{block}.to_q_proj", WIDTH, GRID * GRID)
    decoder = f"{block}.transformer_decoder.layers.0"
    for part in ("self_attn", "multihead_attn"):
        out[f"{decoder}.{part}.in_proj_weight"] = draw(3 * WIDTH, WIDTH)
        out[f"{decoder}.{part}.in_proj_bias"] = draw(3 * WIDTH)
        linear(f"{decoder}.{part}.out_proj", WIDTH, WIDTH)
    linear(f"{decoder}.linear1", 2048, WIDTH)
    linear(f"{decoder}.linear2", WIDTH, 2048)
    for number in (1, 2, 3):
        norm(f"{decoder}.norm{number}", WIDTH)
    return out


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    wrapped.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    wrapped.save_pretrained(str(folder))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason="needs transformers: pip install genmm[official]")
    folder = tmp_path_factory.mktemp("hub") / "VQ-Token-llava-ov-0.5b"
    folder.mkdir()
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(published_tensors(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def converted(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from genmm.systems.vqtoken.convert import convert_vqtoken

    return convert_vqtoken(published, tmp_path_factory.mktemp("models") / "vqtoken-llava", licence="test")


@pytest.fixture(scope="session")
def llava(converted: Path):
    import genmm

    pipeline = genmm.load(str(converted), device="cpu", dtype="float32")
    pipeline.frames = 5
    return pipeline
