"""OLMo 3 (Ai2 2025): OLMo 2 with a window in three of four layers; positions are stretched in the others only."""

from __future__ import annotations

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import ModelSpec

model_types = ("olmo3",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    bias, window = config.flag("attention_bias"), config.whole("sliding_window", default=4096)
    theta = config.number("rope_theta", 5e5)
    config = config.rope_by_layer_type(theta, theta).changed(rms_norm_eps=config.number("rms_norm_eps", 1e-5))
    windows = tuple(window if (number + 1) % 4 else None for number in range(config.layers()))
    return gated.model(config, gated.Style(bias, bias, windows=windows), gated.normed_behind)
