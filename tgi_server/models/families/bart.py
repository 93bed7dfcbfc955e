"""BART (arXiv:1910.13461), norms after attention and MLP, and mBART (arXiv:2001.08210), norms before them."""

from __future__ import annotations

from math import sqrt

from tgi_server.models.config import ModelConfig
from tgi_server.models.seq2seq_spec import LayerSpec, Seq2SeqSpec, StackSpec
from tgi_server.models.spec import AttentionSpec, EmbeddingSpec, HeadSpec, MlpSpec, NormSpec, Source

model_types = ("bart", "mbart")
_BEFORE = "mbart"
_EPS = 1e-5
_NO_POSITIONS = 2
"""Rows before those of the learned positions."""


def describe(config: ModelConfig) -> Seq2SeqSpec:
    """See `families`. `forced_bos_token_id` and the like change what is generated, not the model: they are not read."""
    if not config.flag("tie_word_embeddings", True):
        raise ValueError("tie_word_embeddings=false (only true is served)")
    for name in ("normalize_before", "add_final_layer_norm"):
        if config.flag(name) != (config.get("model_type") == _BEFORE) and config.get(name) is not None:
            raise ValueError(f"{name}={str(config.get(name)).lower()} (not served of this model_type)")
    return Seq2SeqSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=config.whole("d_model"),
        encoder=_stack(config, "encoder"),
        decoder=_stack(config, "decoder"),
        head=HeadSpec(offsets="final_logits_bias"),
        max_positions=config.whole("max_position_embeddings"),
        prefixes=("model.", ""),
        start_token_id=config.token("decoder_start_token_id", default=2),
    )


def _stack(config: ModelConfig, name: str) -> StackSpec:
    before = config.get("model_type") == _BEFORE
    embedding = EmbeddingSpec(
        "shared",
        scale=sqrt(config.whole("d_model")) if config.flag("scale_embedding") else 1.0,
        positions=f"{name}.embed_positions",
        first_position=_NO_POSITIONS,
        norm=_norm(f"{name}.layernorm_embedding"),
    )
    layers = tuple(_layer(config, name, number) for number in range(config.layers(f"{name}_layers")))
    return StackSpec(
        embedding, layers, _norm(f"{name}.layer_norm") if before else NormSpec(kind="identity"), not before
    )


def _layer(config: ModelConfig, stack: str, number: int) -> LayerSpec:
    name, inner, decodes = f"{stack}.layers.{number}", config.whole(f"{stack}_ffn_dim"), stack == "decoder"
    mlp = MlpSpec(
        up=Source(f"{name}.fc1", inner, bias=True),
        down=Source(f"{name}.fc2", inner, bias=True),
        activation=config.activation("activation_function", default="gelu"),
    )
    return LayerSpec(
        attention=_attention(config, stack, f"{name}.self_attn", causal=decodes),
        attention_norm=_norm(f"{name}.self_attn_layer_norm"),
        mlp=mlp,
        mlp_norm=_norm(f"{name}.final_layer_norm"),
        cross=_attention(config, stack, f"{name}.encoder_attn", causal=False) if decodes else None,
        cross_norm=_norm(f"{name}.encoder_attn_layer_norm") if decodes else None,
    )


def _attention(config: ModelConfig, stack: str, name: str, causal: bool) -> AttentionSpec:
    heads = config.whole(f"{stack}_attention_heads")
    width = config.head_width(config.whole("d_model"), heads)
    query, key, value, output = (
        Source(f"{name}.{part}_proj", heads, width, bias=True) for part in ("q", "k", "v", "out")
    )
    return AttentionSpec(query, key, value, output, scale=width**-0.5, causal=causal)


def _norm(name: str) -> NormSpec:
    return NormSpec(name, "layer", _EPS, bias=True)
