"""Falcon 7B, 40B and 11B, whose checkpoints have queries, keys and values group by group."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model, Weight, grouped
from tgi_server.launcher.gguf.reader import GgufFile

names = ("falcon",)
_LAYER = "transformer.h.{bid}"


def describe(file: GgufFile) -> Model:
    """See `architectures`. One key and value for all heads mean 7B, two norms 40B."""
    count, groups, width = gated.heads(file)
    two_norms = file.has("blk.0.attn_norm_2.weight")
    file.optional(Keys.LLM.TENSOR_DATA_LAYOUT, str)
    config = {
        "model_type": "falcon",
        "hidden_size": file.whole(Keys.LLM.EMBEDDING_LENGTH),
        "num_hidden_layers": gated.layers(file),
        "num_attention_heads": count,
        "num_kv_heads": groups,
        "ffn_hidden_size": file.whole(Keys.LLM.FEED_FORWARD_LENGTH),
        "max_position_embeddings": file.whole(Keys.LLM.CONTEXT_LENGTH),
        "layer_norm_epsilon": file.decimal(Keys.Attention.LAYERNORM_EPS, 1e-5),
        "new_decoder_architecture": groups > 1 or two_norms,
        "num_ln_in_parallel_attn": 2 if two_norms else 1,
        "multi_query": True,
        "parallel_attn": True,
        "alibi": False,
        "bias": file.has("blk.0.attn_qkv.bias"),
        "activation": "gelu",
        **gated.common(file),
        **rope.entries(rope.parameters(file, width)),
    }
    norms = ("ln_mlp", "ln_attn") if two_norms else ("input_layernorm",)
    weights = (
        *(Weight(name) for name in ("transformer.word_embeddings", "transformer.ln_f", "lm_head")),
        Weight(f"{_LAYER}.self_attention.query_key_value", rows=grouped(groups, count // groups, width)),
        *(Weight(f"{_LAYER}.{name}") for name in norms),
        *(Weight(f"{_LAYER}.{name}") for name in ("self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")),
    )
    return Model("FalconForCausalLM", config, weights, rope.READ)
