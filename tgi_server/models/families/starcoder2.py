"""StarCoder 2 (arXiv:2402.19173): layer norms and a plain MLP around grouped queries, with a window."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, MlpSpec, ModelSpec, NormSpec, Source

model_types = ("starcoder2",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    bias, eps = config.flag("use_bias", True), config.number("norm_epsilon", 1e-5)
    window = None if config.get("sliding_window") is None else config.whole("sliding_window")
    style = gated.Style(bias, bias, activation="gelu_pytorch_tanh", tied=True, windows=(window,) * config.layers())

    def norm(name: str) -> NormSpec:
        return NormSpec(name, "layer", eps, bias=True)

    def changed(block: BlockSpec, name: str) -> BlockSpec:
        inner = config.whole("intermediate_size")
        mlp = MlpSpec(
            up=Source(f"{name}.mlp.c_fc", inner, bias=bias),
            down=Source(f"{name}.mlp.c_proj", inner, bias=bias),
            activation=config.activation("hidden_act", default="gelu_pytorch_tanh"),
        )
        return replace(
            block, mlp=mlp, attention_norm=norm(block.attention_norm.name), mlp_norm=norm(block.mlp_norm.name)
        )

    return replace(gated.model(config, style, changed), norm=norm("model.norm"))
