"""GPT-NeoX (arXiv:2204.06745) and Pythia: attention and MLP side by side, a quarter of each head turns."""

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
)
from tgi_server.rope.base import Rope

model_types = ("gpt_neox",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    eps = config.number("layer_norm_eps", 1e-5)
    layers = config.layers()
    width = config.head_width(config.whole("hidden_size"), config.whole("num_attention_heads"))
    rope = config.rope(width, theta=config.get("rotary_emb_base"), partial=config.get("rotary_pct", 0.25))
    return ModelSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=config.whole("hidden_size"),
        blocks=tuple(_block(config, f"layers.{number}", eps, rope) for number in range(layers)),
        embedding=EmbeddingSpec("embed_in"),
        norm=NormSpec("final_layer_norm", "layer", eps, bias=True),
        head=HeadSpec(None if config.flag("tie_word_embeddings") else "embed_out"),
        max_positions=config.max_positions(rope),
        prefixes=("gpt_neox.", ""),
    )


def _block(config: ModelConfig, name: str, eps: float, rope: Rope) -> BlockSpec:
    heads, inner = config.whole("num_attention_heads"), config.whole("intermediate_size")
    width, bias = config.head_width(config.whole("hidden_size"), heads), config.flag("attention_bias", True)
    query, key, value = interleaved(f"{name}.attention.query_key_value", heads, [(1, width)] * 3, bias)
    attention = AttentionSpec(
        query, key, value, Source(f"{name}.attention.dense", heads, width, bias),
        scale=width**-0.5,
        rope=rope,
    )  # fmt: skip
    mlp = MlpSpec(
        up=Source(f"{name}.mlp.dense_h_to_4h", inner, bias=True),
        down=Source(f"{name}.mlp.dense_4h_to_h", inner, bias=True),
        activation=config.activation("hidden_act", default="gelu"),
    )
    first, second = (
        NormSpec(f"{name}.input_layernorm", "layer", eps, bias=True),
        NormSpec(f"{name}.post_attention_layernorm", "layer", eps, bias=True),
    )
    return BlockSpec(attention, mlp, first, second, parallel=config.flag("use_parallel_residual", True))
