"""Qwen 3 (arXiv:2505.09388): queries and keys are normed head by head."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, ModelSpec, NormSpec

model_types = ("qwen3",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    eps = config.number("rms_norm_eps", 1e-6)

    def with_norms(block: BlockSpec, name: str) -> BlockSpec:
        attention = replace(
            block.attention,
            query_norm=NormSpec(f"{name}.self_attn.q_norm", eps=eps),
            key_norm=NormSpec(f"{name}.self_attn.k_norm", eps=eps),
        )
        return replace(block, attention=attention)

    bias = config.flag("attention_bias")
    return gated.model(config, gated.Style(bias, bias, windows=gated.later_windows(config)), with_norms)
