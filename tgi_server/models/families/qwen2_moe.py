"""Qwen 1.5 and 2 with experts (arXiv:2407.10671): beside those that a token chooses there is one that all share."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, ExpertsSpec, ModelSpec, Source

model_types = ("qwen2_moe",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    style = gated.Style(config.flag("qkv_bias", True), windows=_windows(config))
    return gated.model(config, style, lambda block, name: _changed(config, block, name))


def _changed(config: ModelConfig, block: BlockSpec, name: str) -> BlockSpec:
    changed = gated.with_experts(config, block, name)
    if not isinstance(changed.mlp, ExpertsSpec):
        return changed
    inner, activation = config.whole("shared_expert_intermediate_size"), config.activation("hidden_act", default="silu")
    shared = gated.mlp(f"{name}.mlp.shared_expert", inner, activation)
    return replace(
        changed, mlp=replace(changed.mlp, shared=shared, shared_gate=Source(f"{name}.mlp.shared_expert_gate", 1))
    )


def _windows(config: ModelConfig) -> tuple[int | None, ...]:
    """Of each layer, where there are no `layer_types`: in every second one of the first `max_window_layers`."""
    layers = config.layers()
    if not config.flag("use_sliding_window"):
        return (None,) * layers
    first, window = int(config.get("max_window_layers", 28)), config.whole("sliding_window", default=4096)
    return tuple(window if number < first and number % 2 == 0 else None for number in range(layers))
