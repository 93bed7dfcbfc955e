"""gpt-oss (arXiv:2508.10925): biases everywhere, sinks, a window in every second layer, experts with a clamped gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, ExpertsSpec, MlpSpec, ModelSpec, Source

model_types = ("gpt_oss",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`. Activations of these models exceed the range of float16."""
    defaults = {"rms_norm_eps": 1e-5, "rope_theta": 150000.0, "head_dim": 64}
    config = config.changed(**{name: config.get(name, value) for name, value in defaults.items()})
    bias, window = config.flag("attention_bias", True), config.whole("sliding_window", default=128)
    windows = tuple(None if number % 2 else window for number in range(config.layers()))
    mxfp4 = _mxfp4(config)
    spec = gated.model(
        config, gated.Style(bias, bias, windows=windows), lambda block, name: _changed(config, block, name, mxfp4)
    )
    return replace(spec, float16=False)


def _changed(config: ModelConfig, block: BlockSpec, name: str, mxfp4: bool) -> BlockSpec:
    count, inner = config.whole("num_local_experts", "num_experts"), config.whole("intermediate_size")
    first = _expert(config, f"{name}.mlp.experts", inner, mxfp4)
    mixture = ExpertsSpec(
        router=Source(f"{name}.mlp.router", count, bias=True),
        experts=tuple(_numbered(first, number) for number in range(count)),
        chosen=config.whole("num_experts_per_tok", "experts_per_token"),
    )
    return replace(block, attention=replace(block.attention, sinks=f"{name}.self_attn.sinks"), mlp=mixture)


def _expert(config: ModelConfig, name: str, inner: int, mxfp4: bool) -> MlpSpec:
    """Gate and up lie feature by feature in one tensor. Codes are kept `[out, in]`, other weights `[in, out]`."""
    both = Source(f"{name}.gate_up_proj", inner, bias=True, transposed=not mxfp4, run=1, stride=2, mxfp4=mxfp4)
    return MlpSpec(
        gate=both,
        up=replace(both, start=1),
        down=replace(both, name=f"{name}.down_proj", run=0, stride=0),
        activation=config.activation("hidden_act", default="silu"),
        slope=config.number("swiglu_alpha", 1.702),
        limit=config.number("swiglu_limit", 7.0),
        offset=1.0,
    )


def _numbered(expert: MlpSpec, number: int) -> MlpSpec:
    up, down = (replace(source, expert=number) for source in (expert.up, expert.down))
    return replace(expert, up=up, down=down, gate=replace(up, start=0))


def _mxfp4(config: ModelConfig) -> bool:
    """Whether the experts are kept so. Raises ValueError for anything else that they may be kept in."""
    entry = config.get("quantization_config", {})
    method = entry.get("quant_method") if isinstance(entry, Mapping) else entry
    if method not in (None, "mxfp4"):
        raise ValueError(f"quantization_config.quant_method={method!r:.60} (served: mxfp4, or none)")
    return method is not None
