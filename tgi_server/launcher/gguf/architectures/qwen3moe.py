"""Qwen 3 with experts; llama.cpp norms the weights of a token's experts."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model, Weight
from tgi_server.launcher.gguf.reader import GgufFile

names = ("qwen3moe",)


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    file.optional(Keys.LLM.EXPERT_WEIGHTS_NORM, bool)  # llama.cpp does it whatever this says
    config = {
        "model_type": "qwen3_moe",
        **gated.config(file),
        **gated.routing(file),
        "moe_intermediate_size": file.whole(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH),
        "norm_topk_prob": True,
        "use_sliding_window": False,
    }
    weights = (
        *gated.outside(),
        *gated.attention(file),
        Weight("model.layers.{bid}.mlp.gate"),
        *gated.experts("mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}),
    )
    return Model("Qwen3MoeForCausalLM", config, weights, rope.READ)
