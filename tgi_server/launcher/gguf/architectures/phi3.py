"""Phi 3 and 4: fused matrices, LongRoPE."""

from __future__ import annotations

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model, Weight
from tgi_server.launcher.gguf.reader import GgufFile

names = ("phi3",)
_FUSED = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    config = {"model_type": "phi3", **gated.config(file), **gated.with_window(file)}
    parameters = config["rope_parameters"]
    config["partial_rotary_factor"] = parameters.get("partial_rotary_factor", 1.0)
    if original := parameters.get("original_max_position_embeddings"):
        config["original_max_position_embeddings"] = original
    weights = (*gated.outside(), *(Weight(f"model.layers.{{bid}}.{name}") for name in _FUSED))
    return Model("Phi3ForCausalLM", config, weights, rope.READ)
