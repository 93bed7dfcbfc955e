"""OLMoE (arXiv:2409.02060): experts in every layer, and one norm of all queries and one of all keys."""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import BlockSpec, ModelSpec, NormSpec

model_types = ("olmoe",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    if config.get("clip_qkv") is not None:
        raise ValueError(f"clip_qkv={config.get('clip_qkv')!r:.60} (served: null)")
    eps, bias = config.number("rms_norm_eps", 1e-5), config.flag("attention_bias")
    config = config.changed(rms_norm_eps=eps, moe_intermediate_size=config.whole("intermediate_size"))

    def changed(block: BlockSpec, name: str) -> BlockSpec:
        attention = replace(
            block.attention,
            query_norm=NormSpec(f"{name}.self_attn.q_norm", eps=eps),
            key_norm=NormSpec(f"{name}.self_attn.k_norm", eps=eps),
            normed_together=True,
        )
        return gated.with_experts(config, replace(block, attention=attention), name)

    return gated.model(config, gated.Style(bias, bias), changed)
