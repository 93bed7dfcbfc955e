"""Phi 3 and 4 (arXiv:2404.14219): Llama with fused matrices, LongRoPE, and a window in some models."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, ModelSpec, side_by_side

model_types = ("phi3",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    window = None if config.get("sliding_window") is None else config.whole("sliding_window")
    style = gated.Style(windows=(window,) * config.layers())
    changed = config if config.get("rms_norm_eps") else config.changed(rms_norm_eps=1e-5)
    return gated.model(changed, style, lambda block, name: _fused(config, block, name))


def _fused(config: ModelConfig, block: BlockSpec, name: str) -> BlockSpec:
    attention, inner = block.attention, config.whole("intermediate_size")
    mlp = gated.mlp(f"{name}.mlp", inner, config.activation("hidden_act", default="silu"))
    sizes = [(source.units, source.width) for source in (attention.query, attention.key, attention.value)]
    query, key, value = side_by_side(f"{name}.self_attn.qkv_proj", sizes, bias=False)
    gate, up = side_by_side(f"{name}.mlp.gate_up_proj", [(inner, 1)] * 2, bias=False)
    return replace(
        block,
        attention=replace(attention, query=query, key=key, value=value),
        mlp=replace(mlp, gate=gate, up=up),
    )
