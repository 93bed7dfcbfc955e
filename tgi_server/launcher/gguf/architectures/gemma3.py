"""Gemma 3, its text model: five layers with a window, turned by another base, to one without."""

from __future__ import annotations

from typing import Any

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model
from tgi_server.launcher.gguf.reader import GgufFile

names = ("gemma3",)
_LAYERS_OF_27B, _EACH = 62, 6


def describe(file: GgufFile) -> Model:
    """See `architectures`. As with Gemma 2, the number of layers tells the scale of the scores."""
    _, _, width = gated.heads(file)
    whole = rope.parameters(file, width, theta=1e6)
    local = {"rope_type": "default", "rope_theta": file.decimal(Keys.Rope.FREQ_BASE_SWA, 1e4)}
    config: dict[str, Any] = {"model_type": "gemma3_text", **gated.config(file, whole), **gated.with_window(file)}
    of_27b = config["num_hidden_layers"] == _LAYERS_OF_27B
    config |= {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"] if of_27b else width,
        "layer_types": gated.layer_types(file, _EACH),
        "rope_parameters": {"full_attention": whole, "sliding_attention": local},
        "rope_local_base_freq": local["rope_theta"],
        "attn_logit_softcapping": file.decimal(Keys.LLM.ATTN_LOGIT_SOFTCAPPING, 0.0) or None,
        "final_logit_softcapping": file.decimal(Keys.LLM.FINAL_LOGIT_SOFTCAPPING, 0.0) or None,
    }
    return Model("Gemma3ForCausalLM", config, gated.weights(file, offset=1.0), rope.READ)
