"""Qwen 2 and 2.5 (arXiv:2407.10671): biases on queries, keys and values; later layers may have a window."""

from __future__ import annotations

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import ModelSpec

model_types = ("qwen2",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    return gated.model(config, attention_bias=True, output_bias=False, windows=windows(config))


def windows(config: ModelConfig) -> list[int | None]:
    """Of each layer, where the configuration has no `layer_types`."""
    layers = config.whole("num_hidden_layers")
    first = int(config.get("max_window_layers", 28))
    window = config.whole("sliding_window", default=4096) if config.get("use_sliding_window") else None
    return [window if number >= first else None for number in range(layers)]
