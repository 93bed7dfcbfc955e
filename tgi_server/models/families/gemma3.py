"""Gemma 3, text only (arXiv:2503.19786): five layers with a window to one without, each with a base of its own."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, HeadSpec, ModelSpec, NormSpec

model_types = ("gemma3_text",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    if config.flag("use_bidirectional_attention"):
        raise ValueError("use_bidirectional_attention (only causal attention is served)")
    config = config.rope_by_layer_type(1e6, 1e4)
    window, layers = config.whole("sliding_window", default=4096), config.layers()
    each, bias = config.whole("sliding_window_pattern", default=6), config.flag("attention_bias")
    style = gated.Style(
        attention_bias=bias, output_bias=bias, activation_entry="hidden_activation", activation="gelu_pytorch_tanh",
        head_width=256, norm_offset=1.0, tied=True,
        windows=tuple(window if (number + 1) % each else None for number in range(layers)),
    )  # fmt: skip
    spec = gated.model(config, style, lambda block, name: _changed(config, block, name))
    return replace(
        spec,
        embedding=replace(spec.embedding, scale=spec.hidden_size**0.5),
        float16=False,
        head=HeadSpec(spec.head.name, softcap=config.bound("final_logit_softcapping")),
    )


def _changed(config: ModelConfig, block: BlockSpec, name: str) -> BlockSpec:
    norm = NormSpec(f"{name}.self_attn.q_norm", eps=block.mlp_norm.eps, offset=1.0)
    attention = replace(
        block.attention,
        scale=config.number("query_pre_attn_scalar", 256) ** -0.5,
        softcap=config.bound("attn_logit_softcapping"),
        query_norm=norm,
        key_norm=replace(norm, name=f"{name}.self_attn.k_norm"),
    )
    return gated.sandwiched(replace(block, attention=attention), name)
