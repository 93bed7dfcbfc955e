"""A small random Llama, made without transformers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tgi_server.attention.base import Attention
from tgi_server.layers.ops import Ops
from tgi_server.layers.parallel import Group
from tgi_server.models.decoder import Decoder
from tgi_server.models.spec import Names, read_spec
from tgi_server.models.weights import Checkpoint, WeightLoader
from tgi_server.quantize.none import NoQuantize

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, LAYERS, VOCABULARY = 64, 96, 4, 2, 32, 2, 50
CONFIG = {
    "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "eos_token_id": 0,
}  # fmt: skip


def write_llama(directory: Path) -> None:
    """Write config.json and float32 model.safetensors."""
    torch.manual_seed(0)
    names = Names()
    shapes = {names.embedding: (VOCABULARY, HIDDEN), names.norm: (HIDDEN,)}
    for layer in range(LAYERS):
        of_layer = {
            names.attention_norm: (HIDDEN,), names.mlp_norm: (HIDDEN,),
            names.query: (HEADS * HEAD_DIM, HIDDEN), names.output: (HIDDEN, HEADS * HEAD_DIM),
            names.key: (KV_HEADS * HEAD_DIM, HIDDEN), names.value: (KV_HEADS * HEAD_DIM, HIDDEN),
            names.gate: (INNER, HIDDEN), names.up: (INNER, HIDDEN), names.down: (HIDDEN, INNER),
        }  # fmt: skip
        shapes |= {name.format(layer=layer): shape for name, shape in of_layer.items()}
    save_file({f"{n}.weight": torch.randn(shape) / 4 for n, shape in shapes.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG))


def loaded(directory: Path, attention: Attention, ops: Ops, longest: int, device: str = "cpu") -> Decoder:
    """The model in float32."""
    loader = WeightLoader(Checkpoint(directory), NoQuantize(), Group(), torch.float32, torch.device(device))
    return Decoder(read_spec(directory), loader, attention, ops, longest)
