"""Baichuan 1 and 2 (arXiv:2309.10305): Llama's block with one matrix for queries, keys and values.

The 13B models have linear biases in the place of rotary positions, and the second version a head of directions. Nothing
in config.json says so: the published code of each model is another.
"""

from __future__ import annotations

from dataclasses import replace

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import AttentionSpec, BlockSpec, HeadSpec, ModelSpec, alibi_slopes, side_by_side

model_types = ("baichuan",)

HIDDEN_13B = 5120
VOCABULARY_2 = 125696
"""Of the second version; the first one's has 64000 tokens."""


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`. With linear biases nothing limits the length of a text."""
    biased = config.get("max_position_embeddings") is None or config.whole("hidden_size") == HIDDEN_13B
    if biased:
        config = config.changed(max_position_embeddings=config.get("model_max_length", 4096))

    def changed(block: BlockSpec, name: str) -> BlockSpec:
        return replace(block, attention=_attention(block.attention, name, biased))

    spec = gated.model(config, gated.Style(), changed)
    return replace(
        spec,
        head=HeadSpec(spec.head.name, by_direction=spec.vocab_size >= VOCABULARY_2),
        max_positions=None if biased else spec.max_positions,
    )


def _attention(attention: AttentionSpec, name: str, biased: bool) -> AttentionSpec:
    sizes = [(source.units, source.width) for source in (attention.query, attention.key, attention.value)]
    query, key, value = side_by_side(f"{name}.self_attn.W_pack", sizes, bias=False)
    attention = replace(attention, query=query, key=key, value=value)
    return replace(attention, rope=None, slopes=alibi_slopes(query.units)) if biased else attention
