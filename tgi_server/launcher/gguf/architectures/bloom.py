"""BLOOM, whose checkpoints have queries, keys and values head by head."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated
from tgi_server.launcher.gguf.architecture import Model, Weight, grouped
from tgi_server.launcher.gguf.reader import GgufFile

names = ("bloom",)
_OTHERS = (
    "input_layernorm", "post_attention_layernorm", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h",
)  # fmt: skip


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    count, _, width = gated.heads(file)
    config = {
        "model_type": "bloom",
        "hidden_size": file.whole(Keys.LLM.EMBEDDING_LENGTH),
        "n_layer": gated.layers(file),
        "n_head": count,
        "seq_length": file.whole(Keys.LLM.CONTEXT_LENGTH),
        "layer_norm_epsilon": file.decimal(Keys.Attention.LAYERNORM_EPS, 1e-5),
        **gated.common(file),
    }
    file.whole(Keys.LLM.FEED_FORWARD_LENGTH, 1)  # four times the other, always
    weights = (
        *(Weight(name) for name in ("word_embeddings", "word_embeddings_layernorm", "ln_f", "lm_head")),
        Weight("h.{bid}.self_attention.query_key_value", rows=grouped(count, 1, width)),
        *(Weight(f"h.{{bid}}.{name}") for name in _OTHERS),
    )
    return Model("BloomForCausalLM", config, weights)
