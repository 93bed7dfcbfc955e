"""T5 (arXiv:1910.10683) and what follows it: T5 1.1, Flan-T5 (arXiv:2210.11416), mT5, mT0 (arXiv:2211.01786), UMT5."""

from __future__ import annotations

from tgi_server.models.config import ModelConfig
from tgi_server.models.seq2seq_spec import LayerSpec, Seq2SeqSpec, StackSpec
from tgi_server.models.spec import AttentionSpec, EmbeddingSpec, HeadSpec, MlpSpec, NormSpec, RelativeSpec, Source

model_types = ("t5", "mt5", "umt5")
_EVERY_LAYER = "umt5"
"""Has biases of distances in every layer; in the others the first layer's are those of all."""


def describe(config: ModelConfig) -> Seq2SeqSpec:
    """See `families`."""
    hidden = config.whole("d_model")
    tied = config.flag("tie_word_embeddings", config.get("model_type") != _EVERY_LAYER)
    scaled = config.flag("scale_decoder_outputs", tied)
    encoder = config.layers("num_layers")
    decoder = encoder if config.get("num_decoder_layers") is None else config.layers("num_decoder_layers")
    return Seq2SeqSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=hidden,
        encoder=_stack(config, "encoder", encoder),
        decoder=_stack(config, "decoder", decoder),
        # what transformers 5 writes says "tied" also of models whose head is not
        head=HeadSpec(None if scaled else "lm_head", or_tied=tied, scale=hidden**-0.5 if scaled else 1.0),
        max_positions=None,
        float16=False,
        start_token_id=config.token("decoder_start_token_id", "pad_token_id", default=0),
    )


def _stack(config: ModelConfig, name: str, layers: int) -> StackSpec:
    norm = NormSpec(f"{name}.final_layer_norm", eps=config.number("layer_norm_epsilon", 1e-6))
    return StackSpec(EmbeddingSpec("shared"), tuple(_layer(config, name, n, norm.eps) for n in range(layers)), norm)


def _layer(config: ModelConfig, stack: str, number: int, eps: float) -> LayerSpec:
    decodes = stack == "decoder"
    name, last = f"{stack}.block.{number}.layer", 2 if decodes else 1
    own = number if config.get("model_type") == _EVERY_LAYER else 0
    relative = RelativeSpec(
        f"{stack}.block.{own}.layer.0.SelfAttention.relative_attention_bias",
        config.whole("relative_attention_num_buckets", default=32),
        config.whole("relative_attention_max_distance", default=128),
    )
    return LayerSpec(
        attention=_attention(config, f"{name}.0.SelfAttention", decodes, relative),
        attention_norm=NormSpec(f"{name}.0.layer_norm", eps=eps),
        mlp=_mlp(config, f"{name}.{last}.DenseReluDense"),
        mlp_norm=NormSpec(f"{name}.{last}.layer_norm", eps=eps),
        cross=_attention(config, f"{name}.1.EncDecAttention", False, None) if decodes else None,
        cross_norm=NormSpec(f"{name}.1.layer_norm", eps=eps) if decodes else None,
    )


def _attention(config: ModelConfig, name: str, causal: bool, relative: RelativeSpec | None) -> AttentionSpec:
    heads, width = config.whole("num_heads"), config.whole("d_kv", default=64)
    query, key, value, output = (Source(f"{name}.{letter}", heads, width) for letter in "qkvo")
    return AttentionSpec(query, key, value, output, scale=1.0, causal=causal, relative=relative)


def _mlp(config: ModelConfig, name: str) -> MlpSpec:
    inner, kind = config.whole("d_ff"), config.get("feed_forward_proj", "relu")
    gated = isinstance(kind, str) and kind.startswith("gated-")
    activation = "gelu_new" if kind == "gated-gelu" else str(kind).removeprefix("gated-")
    return MlpSpec(
        gate=Source(f"{name}.wi_0", inner) if gated else None,
        up=Source(f"{name}.wi_1" if gated else f"{name}.wi", inner),
        down=Source(f"{name}.wo", inner),
        activation=config.changed(feed_forward_proj=activation).activation("feed_forward_proj", default="relu"),
    )
