"""StarCoder and SantaCoder (GPT-BigCode): all heads share one key and value."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated
from tgi_server.launcher.gguf.architecture import Model, Weight
from tgi_server.launcher.gguf.reader import GgufFile

names = ("starcoder",)
_MATRICES = ("ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    count, kv_count, _ = gated.heads(file)
    config = {
        "model_type": "gpt_bigcode",
        "n_embd": file.whole(Keys.LLM.EMBEDDING_LENGTH),
        "n_layer": gated.layers(file),
        "n_head": count,
        "n_inner": file.whole(Keys.LLM.FEED_FORWARD_LENGTH),
        "n_positions": file.whole(Keys.LLM.CONTEXT_LENGTH),
        "layer_norm_epsilon": file.decimal(Keys.Attention.LAYERNORM_EPS, 1e-5),
        "multi_query": kv_count == 1,
        "activation_function": "gelu_pytorch_tanh",
        **gated.common(file),
    }
    weights = (
        *(Weight(name) for name in ("transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head")),
        *(Weight(f"transformer.h.{{bid}}.{name}") for name in _MATRICES),
    )
    return Model("GPTBigCodeForCausalLM", config, weights)
