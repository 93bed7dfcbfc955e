"""Qwen 1.5 and 2 with experts, one of which all tokens share."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model, Weight
from tgi_server.launcher.gguf.reader import GgufFile

names = ("qwen2moe",)


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    inner = file.whole(Keys.LLM.FEED_FORWARD_LENGTH)
    config = {
        "model_type": "qwen2_moe",
        **gated.config(file),
        **gated.routing(file),
        "moe_intermediate_size": file.whole(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH),
        "shared_expert_intermediate_size": file.whole(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, inner),
        "norm_topk_prob": False,
        "use_sliding_window": False,
    }
    mlp = "model.layers.{bid}.mlp"
    weights = (
        *gated.outside(),
        *gated.attention(file),
        Weight(f"{mlp}.gate"),
        *gated.experts("mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}),
        Weight(f"{mlp}.shared_expert_gate", lifted=True),
        *(Weight(f"{mlp}.shared_expert.{name}") for name in ("gate_proj", "up_proj", "down_proj")),
    )
    return Model("Qwen2MoeForCausalLM", config, weights, rope.READ)
