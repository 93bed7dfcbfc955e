"""Granite 3: Llama with four multipliers."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, ModelSpec

model_types = ("granite",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")

    def scaled(block: BlockSpec, name: str) -> BlockSpec:
        attention = replace(block.attention, scale=config.number("attention_multiplier", 1.0))
        return replace(block, attention=attention, scale=config.number("residual_multiplier", 1.0))

    spec = gated.model(config, gated.Style(bias, bias, mlp_bias), scaled)
    return replace(
        spec,
        embedding=replace(spec.embedding, scale=config.number("embedding_multiplier", 1.0)),
        head=replace(spec.head, scale=1.0 / config.number("logits_scaling", 1.0)),
    )
