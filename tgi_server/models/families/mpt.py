"""MPT (MosaicML 2023): linear biases in the place of positions, norms without bias, fused matrices."""

from __future__ import annotations

from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import (
    AttentionSpec,
    BlockSpec,
    EmbeddingSpec,
    HeadSpec,
    MlpSpec,
    ModelSpec,
    NormSpec,
    Source,
    alibi_slopes,
    side_by_side,
)

model_types = ("mpt",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`. Nothing limits the length of a text."""
    attention = ModelConfig(config.get("attn_config", {}))
    for entry, name, off in ((attention, "clip_qkv", None), (attention, "qk_ln", False), (config, "logit_scale", None)):
        if entry.get(name) not in (None, off):
            raise ValueError(f"{name}={entry.get(name)} (only {off} is served)")
    if not config.flag("no_bias", True):
        raise ValueError("no_bias=false (only true is served)")
    eps, layers = config.number("layer_norm_epsilon", 1e-5), config.layers("n_layers")
    return ModelSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=config.whole("d_model"),
        blocks=tuple(_block(config, attention, f"blocks.{number}", eps) for number in range(layers)),
        embedding=EmbeddingSpec("wte"),
        norm=NormSpec("norm_f", "layer", eps),
        head=HeadSpec(None if config.flag("tie_word_embeddings", True) else "lm_head"),
        max_positions=None,
        prefixes=("transformer.", ""),
    )


def _block(config: ModelConfig, entry: ModelConfig, name: str, eps: float) -> BlockSpec:
    hidden, heads = config.whole("d_model"), config.whole("n_heads")
    width, inner = config.head_width(hidden, heads), config.whole("expansion_ratio", default=4) * hidden
    query, key, value = side_by_side(f"{name}.attn.Wqkv", [(heads, width)] * 3, bias=False)
    attention = AttentionSpec(
        query, key, value, Source(f"{name}.attn.out_proj", heads, width),
        scale=entry.number("softmax_scale", width**-0.5), slopes=alibi_slopes(heads, entry.number("alibi_bias_max", 8)),
    )  # fmt: skip
    mlp = MlpSpec(Source(f"{name}.ffn.up_proj", inner), Source(f"{name}.ffn.down_proj", inner), "GELU")
    return BlockSpec(attention, mlp, NormSpec(f"{name}.norm_1", "layer", eps), NormSpec(f"{name}.norm_2", "layer", eps))
