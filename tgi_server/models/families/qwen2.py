"""Qwen 2 and 2.5 (arXiv:2407.10671): biases on queries, keys and values; later layers may have a window."""

from __future__ import annotations

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import ModelSpec

model_types = ("qwen2",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    return gated.model(config, gated.Style(attention_bias=True, windows=gated.later_windows(config)))
