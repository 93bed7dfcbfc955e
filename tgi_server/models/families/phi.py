"""Phi 1 and 2 (arXiv:2309.05463): attention and MLP side by side behind one norm, biases everywhere."""

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
from tgi_server.rope.base import Rope

model_types = ("phi",)


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`."""
    if config.flag("qk_layernorm"):
        raise ValueError("qk_layernorm=true (only false is served)")
    width = config.head_width(config.whole("hidden_size"), config.whole("num_attention_heads"))
    rope, eps = config.rope(width, partial=0.5), config.number("layer_norm_eps", 1e-5)
    layers = config.layers()
    return ModelSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=config.whole("hidden_size"),
        blocks=tuple(_block(config, f"layers.{number}", rope, eps) for number in range(layers)),
        embedding=EmbeddingSpec("embed_tokens"),
        norm=NormSpec("final_layernorm", "layer", eps, bias=True),
        head=HeadSpec("lm_head", bias=True),
        max_positions=config.max_positions(rope),
        prefixes=("model.", ""),
        float16=False,
    )


def _block(config: ModelConfig, name: str, rope: Rope, eps: float) -> BlockSpec:
    heads, inner = config.whole("num_attention_heads"), config.whole("intermediate_size")
    kv_heads = config.whole("num_key_value_heads", default=heads)
    width = config.head_width(config.whole("hidden_size"), heads)
    attention = AttentionSpec(
        query=Source(f"{name}.self_attn.q_proj", heads, width, bias=True),
        key=Source(f"{name}.self_attn.k_proj", kv_heads, width, bias=True),
        value=Source(f"{name}.self_attn.v_proj", kv_heads, width, bias=True),
        output=Source(f"{name}.self_attn.dense", heads, width, bias=True),
        scale=width**-0.5,
        rope=rope,
    )
    mlp = MlpSpec(
        up=Source(f"{name}.mlp.fc1", inner, bias=True),
        down=Source(f"{name}.mlp.fc2", inner, bias=True),
        activation=config.activation("hidden_act", default="gelu_new"),
    )
    norm = NormSpec(f"{name}.input_layernorm", "layer", eps, bias=True)
    return BlockSpec(attention, mlp, norm, norm, parallel=True)
