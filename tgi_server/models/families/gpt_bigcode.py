"""SantaCoder and StarCoder (arXiv:2305.06161): GPT-2 with one key/value head, its matrices the usual way round."""

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
    interleaved,
    side_by_side,
)

model_types = ("gpt_bigcode",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    eps, layers = config.number("layer_norm_epsilon", 1e-5), config.layers("n_layer", "num_hidden_layers")
    return ModelSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=config.whole("n_embd", "hidden_size"),
        blocks=tuple(_block(config, f"h.{number}", eps) for number in range(layers)),
        embedding=EmbeddingSpec("wte", positions="wpe"),
        norm=NormSpec("ln_f", "layer", eps, bias=True),
        head=HeadSpec(None if config.flag("tie_word_embeddings", True) else "lm_head"),
        max_positions=config.whole("n_positions", "max_position_embeddings"),
        prefixes=("transformer.", ""),
    )


def _block(config: ModelConfig, name: str, eps: float) -> BlockSpec:
    hidden, heads = config.whole("n_embd", "hidden_size"), config.whole("n_head", "num_attention_heads")
    width, inner = config.head_width(hidden, heads), config.whole("n_inner", default=4 * hidden)
    fused = f"{name}.attn.c_attn"
    if config.flag("multi_query", True):
        query, key, value = side_by_side(fused, [(heads, width), (1, width), (1, width)], bias=True)
    else:
        query, key, value = interleaved(fused, heads, [(1, width)] * 3, bias=True)
    attention = AttentionSpec(
        query, key, value, Source(f"{name}.attn.c_proj", heads, width, bias=True),
        scale=width**-0.5 if config.flag("scale_attn_weights", True) else 1.0,
    )  # fmt: skip
    mlp = MlpSpec(
        up=Source(f"{name}.mlp.c_fc", inner, bias=True),
        down=Source(f"{name}.mlp.c_proj", inner, bias=True),
        activation=config.activation("activation_function", default="gelu_pytorch_tanh"),
    )
    first, second = (NormSpec(f"{name}.{which}", "layer", eps, bias=True) for which in ("ln_1", "ln_2"))
    return BlockSpec(attention, mlp, first, second)
