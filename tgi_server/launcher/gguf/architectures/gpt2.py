"""GPT-2, whose checkpoints have matrices the other way round."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated
from tgi_server.launcher.gguf.architecture import Model, Weight
from tgi_server.launcher.gguf.reader import GgufFile

names = ("gpt2",)
_LAYER = "transformer.h.{bid}"


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    count, _, _ = gated.heads(file)
    config = {
        "model_type": "gpt2",
        "n_embd": file.whole(Keys.LLM.EMBEDDING_LENGTH),
        "n_layer": gated.layers(file),
        "n_head": count,
        "n_inner": file.whole(Keys.LLM.FEED_FORWARD_LENGTH),
        "n_positions": file.whole(Keys.LLM.CONTEXT_LENGTH),
        "layer_norm_epsilon": file.decimal(Keys.Attention.LAYERNORM_EPS, 1e-5),
        "activation_function": "gelu_new",
        **gated.common(file),
    }
    weights = (
        *(Weight(name) for name in ("transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head")),
        *(Weight(f"{_LAYER}.{name}") for name in ("ln_1", "ln_2")),
        *(
            Weight(f"{_LAYER}.{name}", transposed=True)
            for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        ),
    )
    return Model("GPT2LMHeadModel", config, weights)
