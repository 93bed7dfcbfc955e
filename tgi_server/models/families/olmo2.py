"""OLMo 2 (arXiv:2501.00656): norms behind attention and MLP, and one of all queries and one of all keys."""

from __future__ import annotations

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import ModelSpec

model_types = ("olmo2",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    bias = config.flag("attention_bias")
    config = config.changed(rms_norm_eps=config.number("rms_norm_eps", 1e-5))
    return gated.model(config, gated.Style(bias, bias), gated.normed_behind)
