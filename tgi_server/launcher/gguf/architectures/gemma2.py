"""Gemma 2: norms as Gemma has them, caps, a window in every other layer."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model
from tgi_server.launcher.gguf.reader import GgufFile

names = ("gemma2",)
_LAYERS_OF_27B = 46


def describe(file: GgufFile) -> Model:
    """See `architectures`. The scale of the scores is not stored; llama.cpp knows it by the number of layers."""
    config = {"model_type": "gemma2", **gated.config(file), **gated.with_window(file, 4096)}
    of_27b = config["num_hidden_layers"] == _LAYERS_OF_27B
    scalar = config["hidden_size"] // config["num_attention_heads"] if of_27b else config["head_dim"]
    config |= {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "attn_logit_softcapping": file.decimal(Keys.LLM.ATTN_LOGIT_SOFTCAPPING, 50.0),
        "final_logit_softcapping": file.decimal(Keys.LLM.FINAL_LOGIT_SOFTCAPPING, 30.0),
    }
    return Model("Gemma2ForCausalLM", config, gated.weights(file, offset=1.0), rope.READ)
