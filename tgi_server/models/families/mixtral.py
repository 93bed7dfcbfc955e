"""Mixtral (arXiv:2401.04088): Mistral with a mixture of experts in every layer."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, ExpertsSpec, ModelSpec, Source

model_types = ("mixtral",)
_LAYERS = ("w1", "w3", "w2")
"""Gate, up and down."""


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    window = None if config.get("sliding_window") is None else config.whole("sliding_window")
    defaults = {"rms_norm_eps": 1e-5, "rope_theta": 1e6}
    config = config.changed(**{name: config.get(name, value) for name, value in defaults.items()})
    style = gated.Style(windows=(window,) * config.layers())
    return gated.model(config, style, lambda block, name: _changed(config, block, f"{name}.block_sparse_moe"))


def _changed(config: ModelConfig, block: BlockSpec, name: str) -> BlockSpec:
    count, inner = config.whole("num_local_experts", default=8), config.whole("intermediate_size")
    activation = config.activation("hidden_act", default="silu")
    experts = tuple(gated.mlp(f"{name}.experts.{i}", inner, activation, layers=_LAYERS) for i in range(count))
    chosen = config.whole("num_experts_per_tok", default=2)
    return replace(block, mlp=ExpertsSpec(Source(f"{name}.gate", count), experts, chosen))
