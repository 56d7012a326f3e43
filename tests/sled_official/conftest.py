"""Tiny random checkpoints in the layout in which the authors of SLED and EnCodec publish theirs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.encodec import EncodecConfig, EncodecLatents
from genmm.systems.sled.network import SledNetwork
from genmm.systems.sled.tokenizer import train_bpe

SLED_FIELDS = {
    "model_type": "speech_llama",
    "architectures": ["SpeechLlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "vae_embed_dim": 8,
    "diffloss_d": 2,
    "diffloss_w": 32,
    "noise_channels": 8,
    "training_cfg": 0.1,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "initializer_range": 0.02,
    "use_cache": True,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0",
}
ENCODEC_FIELDS = {
    "model_type": "encodec",
    "architectures": ["EncodecModel"],
    "num_filters": 2,
    "hidden_size": 8,
    "codebook_dim": 8,
    "codebook_size": 16,
    "upsampling_ratios": [8, 5, 4, 2],
    "target_bandwidths": [1.5, 3.0, 6.0],
    "norm_type": "weight_norm",
    "use_causal_conv": True,
    "pad_mode": "reflect",
    "normalize": False,
    "chunk_length_s": None,
    "overlap": None,
    "sampling_rate": 24000,
    "audio_channels": 1,
}
TEXTS = ["Hello there, how are you today?", "The reader reads the text there.", "Hello, hello, are you there?"] * 3


def write_sled(folder: Path, *, streaming: bool) -> Path:
    """An official SLED folder with random weights; every layer, the zero-initialised ones too, does something."""
    torch.manual_seed(11 + streaming)
    folder.mkdir(parents=True)
    tensors = SledNetwork(SledConfig.from_dict(SLED_FIELDS, strict=False)).state_dict()
    tensors = {name: torch.randn_like(value) * 0.1 + (value == 1) for name, value in tensors.items()}
    save_file({**tensors, "bceloss.pos_weight": torch.tensor([100.0])}, folder / "model.safetensors", {"format": "pt"})
    fields = {**SLED_FIELDS, **({"stream_n": 5, "stream_m": 45} if streaming else {})}
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "generation_config.json").write_text("{}")
    train_bpe(TEXTS, 300).save(folder)
    side = {"padding_side": "right" if streaming else "left", "tokenizer_class": "RobertaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(side))
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "README.md").write_text("---\nlanguage:\n- en\n---\n# SLED-TTS\n")
    return folder


def write_encodec(folder: Path, *, old_names: bool = False) -> Path:
    """A transformers EnCodec folder with random weights and weight normalisation in either naming."""
    torch.manual_seed(12)
    folder.mkdir(parents=True)
    codec = EncodecLatents(EncodecConfig.from_official(ENCODEC_FIELDS), codebooks=8)
    names = ("weight_g", "weight_v") if old_names else [f"parametrizations.weight.original{n}" for n in range(2)]
    tensors = {}
    for name, value in codec.state_dict().items():
        if name.endswith(".conv.weight"):
            stem = name.removesuffix("weight")
            tensors[stem + names[0]] = value.flatten(1).norm(dim=1)[:, None, None] * 1.1
            tensors[stem + names[1]] = value * 3.0
        elif name.endswith("embed"):
            tensors[name] = torch.randn_like(value)
            tensors[name + "_avg"] = tensors[name].clone()
            tensors[name.replace("embed", "cluster_size")] = torch.ones(len(value))
            tensors[name.replace("embed", "inited")] = torch.ones(1)
        else:
            tensors[name] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(ENCODEC_FIELDS))
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def official_folders(tmp_path_factory) -> dict[str, Path]:
    """Read-only official folders under the names offline, streaming and encodec."""
    home = tmp_path_factory.mktemp("official")
    return {
        "offline": write_sled(home / "SLED-TTS-Libriheavy", streaming=False),
        "streaming": write_sled(home / "SLED-TTS-Streaming-Libriheavy", streaming=True),
        "encodec": write_encodec(home / "encodec_24khz"),
        "encodec_old": write_encodec(home / "encodec_24khz_old", old_names=True),
    }
