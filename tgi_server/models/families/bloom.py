"""BLOOM (arXiv:2211.05100): linear biases in the place of positions, queries, keys and values head by head."""

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
    interleaved,
)

model_types = ("bloom",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`. Nothing limits the length of a text."""
    if config.flag("apply_residual_connection_post_layernorm"):
        raise ValueError("apply_residual_connection_post_layernorm=true (only false is served)")
    hidden = config.whole("hidden_size", "n_embed")
    eps = config.number("layer_norm_epsilon", 1e-5)
    layers = config.layers("n_layer", "num_hidden_layers")
    return ModelSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=hidden,
        blocks=tuple(_block(config, f"h.{number}", hidden, eps) for number in range(layers)),
        embedding=EmbeddingSpec("word_embeddings", norm=NormSpec("word_embeddings_layernorm", "layer", eps, bias=True)),
        norm=NormSpec("ln_f", "layer", eps, bias=True),
        head=HeadSpec(None if config.flag("tie_word_embeddings", True) else "lm_head"),
        max_positions=None,
        prefixes=("transformer.", ""),
    )


def _block(config: ModelConfig, name: str, hidden: int, eps: float) -> BlockSpec:
    heads = config.whole("n_head", "num_attention_heads")
    width = config.head_width(hidden, heads)
    query, key, value = interleaved(f"{name}.self_attention.query_key_value", heads, [(1, width)] * 3, bias=True)
    attention = AttentionSpec(
        query, key, value, Source(f"{name}.self_attention.dense", heads, width, bias=True),
        scale=width**-0.5, slopes=alibi_slopes(heads),
    )  # fmt: skip
    mlp = MlpSpec(
        up=Source(f"{name}.mlp.dense_h_to_4h", 4 * hidden, bias=True),
        down=Source(f"{name}.mlp.dense_4h_to_h", 4 * hidden, bias=True),
        activation="GELU_TANH",
    )
    first, second = (
        NormSpec(f"{name}.input_layernorm", "layer", eps, bias=True),
        NormSpec(f"{name}.post_attention_layernorm", "layer", eps, bias=True),
    )
    return BlockSpec(attention, mlp, first, second)
