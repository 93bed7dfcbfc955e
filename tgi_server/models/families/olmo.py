"""OLMo 1 (arXiv:2402.00838): layer norms that have no weights."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import ModelSpec, NormSpec

model_types = ("olmo",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    if config.get("clip_qkv") is not None:
        raise ValueError(f"clip_qkv={config.get('clip_qkv')} (only null is served)")
    bias, norm = config.flag("attention_bias"), NormSpec(kind="layer", eps=1e-5, weighted=False)
    spec = gated.model(
        config, gated.Style(bias, bias), lambda block, name: replace(block, attention_norm=norm, mlp_norm=norm)
    )
    return replace(spec, norm=norm)
