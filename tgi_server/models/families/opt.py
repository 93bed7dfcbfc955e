"""OPT (arXiv:2205.01068) and Galactica: learned positions, of which the first two rows are no positions."""

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
)

model_types = ("opt",)
_EPS = 1e-5


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    hidden = config.whole("hidden_size")
    for name in ("do_layer_norm_before", "layer_norm_elementwise_affine"):
        if not config.flag(name, True):
            raise ValueError(f"{name}=false (only true is served)")
    if (width := config.whole("word_embed_proj_dim", default=hidden)) != hidden:
        raise ValueError(f"word_embed_proj_dim={width} (only hidden_size, {hidden}, is served)")
    last = NormSpec("final_layer_norm", "layer", _EPS, bias=True)
    return ModelSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=hidden,
        blocks=tuple(_block(config, f"layers.{number}") for number in range(config.layers())),
        embedding=EmbeddingSpec("embed_tokens", positions="embed_positions", first_position=2),
        norm=NormSpec(kind="identity") if config.flag("_remove_final_layer_norm") else last,
        head=HeadSpec(None if config.flag("tie_word_embeddings", True) else "lm_head"),
        max_positions=config.whole("max_position_embeddings"),
        prefixes=("model.decoder.", "decoder.", ""),
    )


def _block(config: ModelConfig, name: str) -> BlockSpec:
    heads, inner = config.whole("num_attention_heads"), config.whole("ffn_dim")
    width, bias = config.head_width(config.whole("hidden_size"), heads), config.flag("enable_bias", True)
    attention = AttentionSpec(
        query=Source(f"{name}.self_attn.q_proj", heads, width, bias),
        key=Source(f"{name}.self_attn.k_proj", heads, width, bias),
        value=Source(f"{name}.self_attn.v_proj", heads, width, bias),
        output=Source(f"{name}.self_attn.out_proj", heads, width, bias),
        scale=width**-0.5,
    )
    mlp = MlpSpec(
        up=Source(f"{name}.fc1", inner, bias=bias),
        down=Source(f"{name}.fc2", inner, bias=bias),
        activation=config.activation("activation_function", default="relu"),
    )
    first = NormSpec(f"{name}.self_attn_layer_norm", "layer", _EPS, bias=True)
    return BlockSpec(attention, mlp, first, NormSpec(f"{name}.final_layer_norm", "layer", _EPS, bias=True))
