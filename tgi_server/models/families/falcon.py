"""Falcon (arXiv:2311.16867): attention and MLP side by side, in three styles of heads and norms."""

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
    side_by_side,
)
from tgi_server.rope.base import Rope

model_types = ("falcon", "RefinedWeb", "RefinedWebModel")


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`. With linear biases nothing limits the length of a text."""
    hidden, heads = config.whole("hidden_size"), config.whole("num_attention_heads", "n_head")
    width = config.head_width(hidden, heads)
    rope = None if config.flag("alibi") else config.rope(width)
    eps, layers = config.number("layer_norm_epsilon", 1e-5), config.layers("num_hidden_layers", "n_layer")
    longest = config.changed(max_position_embeddings=config.get("max_position_embeddings", 2048))
    return ModelSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=hidden,
        blocks=tuple(_block(config, f"h.{number}", width, rope, eps) for number in range(layers)),
        embedding=EmbeddingSpec("word_embeddings"),
        norm=NormSpec("ln_f", "layer", eps, bias=True),
        head=HeadSpec(None if config.flag("tie_word_embeddings", True) else "lm_head"),
        max_positions=None if rope is None else longest.max_positions(rope),
        prefixes=("transformer.", ""),
    )


def _block(config: ModelConfig, name: str, width: int, rope: Rope | None, eps: float) -> BlockSpec:
    bias, hidden = config.flag("bias"), config.whole("hidden_size")
    heads = hidden // width
    query, key, value = _heads(config, f"{name}.self_attention.query_key_value", heads, width)
    attention = AttentionSpec(
        query, key, value, Source(f"{name}.self_attention.dense", heads, width, bias), scale=width**-0.5, rope=rope,
        slopes=None if rope else tuple(slope * width**-0.5 for slope in alibi_slopes(heads)),
    )  # fmt: skip
    inner = config.whole("ffn_hidden_size", default=4 * hidden)
    mlp = MlpSpec(
        up=Source(f"{name}.mlp.dense_h_to_4h", inner, bias=bias),
        down=Source(f"{name}.mlp.dense_4h_to_h", inner, bias=bias),
        activation=config.activation("activation", default="gelu"),
    )
    parallel = config.flag("parallel_attn", True) or config.flag("new_decoder_architecture")
    first, second = (NormSpec(f"{name}.{which}", "layer", eps, bias=True) for which in _norms(config))
    return BlockSpec(attention, mlp, first, second, parallel=parallel)


def _heads(config: ModelConfig, name: str, heads: int, width: int) -> list[Source]:
    """Groups of heads with their key and value (40B), all queries and then one key and value (7B), or head by head."""
    bias = config.flag("bias")
    if config.flag("new_decoder_architecture"):
        kv_heads = config.whole("num_kv_heads", "n_head_kv", default=heads)
        return interleaved(name, kv_heads, [(heads // kv_heads, width), (1, width), (1, width)], bias)
    if config.flag("multi_query", True):
        return side_by_side(name, [(heads, width), (1, width), (1, width)], bias)
    return interleaved(name, heads, [(1, width)] * 3, bias)


def _norms(config: ModelConfig) -> tuple[str, str]:
    """The names of the norms before attention and before the MLP."""
    new = config.flag("new_decoder_architecture")
    if new and config.whole("num_ln_in_parallel_attn", default=2) == 2:
        return "ln_attn", "ln_mlp"
    if config.flag("parallel_attn", True):
        return "input_layernorm", "input_layernorm"
    return "input_layernorm", "post_attention_layernorm"
