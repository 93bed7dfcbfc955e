"""The block that most families share: RMS norms, rotary positions, grouped queries, a gated MLP. Stdlib only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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


def model(
    config: ModelConfig, attention_bias: bool = False, output_bias: bool | None = None, mlp_bias: bool = False,
    activation: str = "silu", norm_offset: float = 0.0, tied: bool = False,
    windows: list[int | None] | None = None, change: Callable[[BlockSpec, str], BlockSpec] | None = None,
) -> ModelSpec:  # fmt: skip
    """A decoder of such blocks, under the names of the Llama checkpoints.

    Args:
        config: config.json.
        attention_bias, output_bias, mlp_bias: which layers have one; the output like the rest unless it is said.
        activation: of the gate, where the configuration names none.
        norm_offset: see `NormSpec`.
        tied: whether the head is the embedding, where the configuration does not say.
        windows: of each layer, where the configuration has no `layer_types`.
        change: what a family does otherwise: takes a block and the start of its names, gives another one.
    """
    heads = config.whole("num_attention_heads")
    width = config.whole("head_dim", default=config.whole("hidden_size") // heads)
    layers = config.whole("num_hidden_layers")
    eps = config.number("rms_norm_eps", 1e-6)
    biases = attention_bias, attention_bias if output_bias is None else output_bias
    blocks = []
    for number, window in enumerate(config.windows(layers, windows)):
        name = f"model.layers.{number}"
        layer_type = "full_attention" if window is None else "sliding_attention"
        attention = _attention(config, name, heads, width, *biases)
        attention = replace(attention, window=window, rope=config.rope(width, layer_type))
        block = BlockSpec(
            attention,
            _mlp(config, name, activation, mlp_bias),
            attention_norm=NormSpec(f"{name}.input_layernorm", eps=eps, offset=norm_offset),
            mlp_norm=NormSpec(f"{name}.post_attention_layernorm", eps=eps, offset=norm_offset),
        )
        blocks.append(change(block, name) if change else block)
    return ModelSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=config.whole("hidden_size"),
        blocks=tuple(blocks),
        embedding=EmbeddingSpec("model.embed_tokens"),
        norm=NormSpec("model.norm", eps=eps, offset=norm_offset),
        head=HeadSpec(None if config.get("tie_word_embeddings", tied) else "lm_head"),
        max_positions=config.max_positions(),
    )


def _attention(config: ModelConfig, name: str, heads: int, width: int, bias: bool, output_bias: bool) -> AttentionSpec:
    kv_heads = config.whole("num_key_value_heads", default=heads)
    return AttentionSpec(
        query=Source(f"{name}.self_attn.q_proj", heads, width, bias),
        key=Source(f"{name}.self_attn.k_proj", kv_heads, width, bias),
        value=Source(f"{name}.self_attn.v_proj", kv_heads, width, bias),
        output=Source(f"{name}.self_attn.o_proj", heads, width, output_bias),
        scale=width**-0.5,
    )


def _mlp(config: ModelConfig, name: str, activation: str, bias: bool) -> MlpSpec:
    inner = config.whole("intermediate_size")
    return MlpSpec(
        gate=Source(f"{name}.mlp.gate_proj", inner, bias=bias),
        up=Source(f"{name}.mlp.up_proj", inner, bias=bias),
        down=Source(f"{name}.mlp.down_proj", inner, bias=bias),
        activation=config.activation("hidden_act", "hidden_activation", default=activation),
    )
