"""OLMoE."""

from __future__ import annotations

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model, Weight
from tgi_server.launcher.gguf.reader import GgufFile

names = ("olmoe",)


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    config = {"model_type": "olmoe", **gated.config(file), **gated.routing(file), "norm_topk_prob": False}
    weights = (
        *gated.outside(),
        *gated.attention(file),
        Weight("model.layers.{bid}.mlp.gate"),
        *gated.experts("mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}),
    )
    return Model("OlmoeForCausalLM", config, weights, rope.READ)
