"""Qwen 3 with experts (arXiv:2505.09388): in all layers, in every second or third one, or in all but some."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, ModelSpec, NormSpec

model_types = ("qwen3_moe",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    bias, eps = config.flag("attention_bias"), config.number("rms_norm_eps", 1e-6)
    window = config.whole("sliding_window", default=4096) if config.flag("use_sliding_window") else None

    def changed(block: BlockSpec, name: str) -> BlockSpec:
        attention = replace(
            block.attention,
            query_norm=NormSpec(f"{name}.self_attn.q_norm", eps=eps),
            key_norm=NormSpec(f"{name}.self_attn.k_norm", eps=eps),
        )
        return gated.with_experts(config, replace(block, attention=attention), name)

    return gated.model(config, gated.Style(bias, bias, windows=(window,) * config.layers()), changed)
