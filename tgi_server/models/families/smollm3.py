"""SmolLM 3: Llama in which every fourth layer knows no positions."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, ModelSpec

model_types = ("smollm3",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    layers, each = config.layers(), config.whole("no_rope_layer_interval", default=4)
    with_rope = config.get("no_rope_layers", [(number + 1) % each for number in range(layers)])
    if len(with_rope) != layers:
        raise ValueError(f"no_rope_layers has {len(with_rope)} entries for {layers} layers")
    without = {f"model.layers.{number}" for number, turns in enumerate(with_rope) if not turns}

    def changed(block: BlockSpec, name: str) -> BlockSpec:
        return replace(block, attention=replace(block.attention, rope=None)) if name in without else block

    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    config = config if config.get("rope_parameters") or config.get("rope_theta") else config.changed(rope_theta=2e6)
    return gated.model(config, gated.Style(bias, bias, mlp_bias, tied=True), changed)
