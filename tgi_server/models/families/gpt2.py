"""GPT-2 (Radford et al. 2019): learned positions, layer norms, fused matrices stored the other way round."""

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
    side_by_side,
)

model_types = ("gpt2",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    hidden = config.whole("n_embd", "hidden_size")
    eps = config.number("layer_norm_epsilon", 1e-5)
    return ModelSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=hidden,
        blocks=tuple(
            _block(config, number, hidden, eps) for number in range(config.layers("n_layer", "num_hidden_layers"))
        ),
        embedding=EmbeddingSpec("wte", positions="wpe"),
        norm=NormSpec("ln_f", "layer", eps, bias=True),
        head=HeadSpec(None if config.flag("tie_word_embeddings", True) else "lm_head"),
        max_positions=config.whole("n_positions", "max_position_embeddings"),
        prefixes=("transformer.", ""),
    )


def _block(config: ModelConfig, number: int, hidden: int, eps: float) -> BlockSpec:
    name = f"h.{number}"
    heads = config.whole("n_head", "num_attention_heads")
    width, inner = config.head_width(hidden, heads), config.whole("n_inner", default=4 * hidden)
    query, key, value = side_by_side(f"{name}.attn.c_attn", [(heads, width)] * 3, bias=True, transposed=True)
    scale = width**-0.5 if config.flag("scale_attn_weights", True) else 1.0
    if config.flag("scale_attn_by_inverse_layer_idx"):
        scale /= number + 1
    attention = AttentionSpec(
        query, key, value, Source(f"{name}.attn.c_proj", heads, width, bias=True, transposed=True), scale
    )
    mlp = MlpSpec(
        up=Source(f"{name}.mlp.c_fc", inner, bias=True, transposed=True),
        down=Source(f"{name}.mlp.c_proj", inner, bias=True, transposed=True),
        activation=config.activation("activation_function", default="gelu_new"),
    )
    first, second = NormSpec(f"{name}.ln_1", "layer", eps, bias=True), NormSpec(f"{name}.ln_2", "layer", eps, bias=True)
    return BlockSpec(attention, mlp, first, second)
