"""Checkpoints of any family with random numbers, of what the family's description wants; made without transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tgi_server.models.families import read_spec
from tgi_server.models.spec import ModelSpec

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "eos_token_id": 0,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SIZES | {"num_key_value_heads": 2, "rms_norm_eps": 1e-5},
    "gemma": SIZES | {"num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-5},
    "qwen2": SIZES | {"num_key_value_heads": 2, "rms_norm_eps": 1e-5},
    "phi": SIZES,
    "gpt_neox": SIZES,
    "opt": {
        "vocab_size": 50, "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "word_embed_proj_dim": 64, "max_position_embeddings": 64, "eos_token_id": 0,
    },
    "gpt2": {"vocab_size": 50, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "eos_token_id": 0},
}  # fmt: skip


def write(directory: Path, family: str, dtype: torch.dtype = torch.float32) -> ModelSpec:
    """config.json and model.safetensors."""
    torch.manual_seed(0)
    (directory / "config.json").write_text(json.dumps({"model_type": family, **CONFIGS[family]}))
    spec = read_spec(directory)
    assert isinstance(spec, ModelSpec)
    tensors = {spec.prefixes[0] + name: torch.randn(shape) / 4 for name, shape in spec.tensors()}
    for name, tensor in tensors.items():
        if "norm" in name or ".ln_" in name:
            tensor += 1
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, directory / "model.safetensors")
    return spec
