"""Gemma (arXiv:2403.08295): Llama with scaled token vectors, norms around 1 and a GELU."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import ModelSpec

model_types = ("gemma",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`. Old configurations call the activation gelu where its approximation is meant."""
    if config.flag("use_bidirectional_attention"):
        raise ValueError("use_bidirectional_attention (only causal attention is served)")
    bias = config.flag("attention_bias")
    changed = config.changed(hidden_act="gelu_pytorch_tanh") if config.get("hidden_act") == "gelu" else config
    style = gated.Style(
        attention_bias=bias, output_bias=bias, activation="gelu_pytorch_tanh", head_width=256, norm_offset=1.0,
        tied=True,
    )  # fmt: skip
    spec = gated.model(changed, style)
    return replace(spec, embedding=replace(spec.embedding, scale=spec.hidden_size**0.5), float16=False)
