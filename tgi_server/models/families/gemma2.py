"""Gemma 2 (arXiv:2408.00118): capped scores, a window in every other layer, four norms, scaled token vectors."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, HeadSpec, ModelSpec

model_types = ("gemma2",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    if config.flag("use_bidirectional_attention"):
        raise ValueError("use_bidirectional_attention (only causal attention is served)")
    layers, window = config.layers(), config.whole("sliding_window", default=4096)
    bias = config.flag("attention_bias")
    style = gated.Style(
        attention_bias=bias, output_bias=bias, activation_entry="hidden_activation", activation="gelu_pytorch_tanh",
        head_width=256, norm_offset=1.0, tied=True,
        windows=tuple(None if number % 2 else window for number in range(layers)),
    )  # fmt: skip
    spec = gated.model(config, style, lambda block, name: _changed(config, block, name))
    return replace(
        spec,
        embedding=replace(spec.embedding, scale=spec.hidden_size**0.5),
        float16=False,
        head=HeadSpec(spec.head.name, softcap=config.bound("final_logit_softcapping", 30.0)),
    )


def _changed(config: ModelConfig, block: BlockSpec, name: str) -> BlockSpec:
    attention = replace(
        block.attention,
        scale=config.number("query_pre_attn_scalar", 256) ** -0.5,
        softcap=config.bound("attn_logit_softcapping", 50.0),
    )
    return gated.sandwiched(replace(block, attention=attention), name)
