"""GPT-NeoX and Pythia, whose checkpoints have queries, keys and values head by head."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model, Weight, grouped
from tgi_server.launcher.gguf.reader import GgufFile

names = ("gptneox",)
_LAYER = "gpt_neox.layers.{bid}"
_OTHERS = (
    "input_layernorm", "post_attention_layernorm", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h",
)  # fmt: skip


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    count, _, width = gated.heads(file)
    parameters = rope.parameters(file, width)
    part = parameters.setdefault("partial_rotary_factor", 1.0)
    config = {
        "model_type": "gpt_neox",
        "hidden_size": file.whole(Keys.LLM.EMBEDDING_LENGTH),
        "intermediate_size": file.whole(Keys.LLM.FEED_FORWARD_LENGTH),
        "num_hidden_layers": gated.layers(file),
        "num_attention_heads": count,
        "max_position_embeddings": file.whole(Keys.LLM.CONTEXT_LENGTH),
        "layer_norm_eps": file.decimal(Keys.Attention.LAYERNORM_EPS, 1e-5),
        "use_parallel_residual": file.optional(Keys.LLM.USE_PARALLEL_RESIDUAL, bool) is not False,
        "attention_bias": file.has("blk.0.attn_qkv.bias"),
        "hidden_act": "gelu",
        "rotary_pct": part,
        "rotary_emb_base": parameters["rope_theta"],
        **gated.common(file),
        **rope.entries(parameters),
    }
    weights = (
        *(Weight(name) for name in ("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out")),
        Weight(f"{_LAYER}.attention.query_key_value", rows=grouped(count, 1, width)),
        *(Weight(f"{_LAYER}.{name}") for name in _OTHERS),
    )
    return Model("GPTNeoXForCausalLM", config, weights, rope.READ)
