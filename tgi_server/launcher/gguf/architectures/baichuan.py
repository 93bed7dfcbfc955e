"""Baichuan 1 and 2, whose checkpoints have queries, keys and values in one tensor."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model, Weight, joined, unturned
from tgi_server.launcher.gguf.reader import GgufFile

names = ("baichuan",)
_LAYERS_OF_13B = 40
_OTHERS = ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def describe(file: GgufFile) -> Model:
    """See `architectures`. llama.cpp tells 13B, which has linear biases, by its layers; config.json by an entry."""
    count, kv_count, width = gated.heads(file)
    config = {"model_type": "baichuan", **gated.config(file)}
    if config["num_hidden_layers"] == _LAYERS_OF_13B or file.decimal(Keys.Attention.MAX_ALIBI_BIAS, 0.0):
        config["model_max_length"] = config.pop("max_position_embeddings")
    fused = joined((count * width, unturned(count)), (kv_count * width, unturned(kv_count)), (kv_count * width, None))
    stored = tuple(f"blk.{{bid}}.attn_{which}" for which in "qkv")
    weights = (
        *gated.outside(),
        Weight("model.layers.{bid}.self_attn.W_pack", stored, fused),
        *(Weight(f"model.layers.{{bid}}.{name}") for name in _OTHERS),
    )
    return Model("BaichuanForCausalLM", config, weights, rope.READ)
