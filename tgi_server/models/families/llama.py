"""Llama 1 to 3 (arXiv:2302.13971, 2407.21783), and what is made of it."""

from __future__ import annotations

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import ModelSpec

model_types = ("llama",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    attention_bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    return gated.model(config, gated.Style(attention_bias, attention_bias, mlp_bias))
