"""StarCoder 2."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model, Weight
from tgi_server.launcher.gguf.reader import GgufFile

names = ("starcoder2",)


def describe(file: GgufFile) -> Model:
    """See `architectures`. Current converters leave the window out, and llama.cpp has none."""
    config = {
        "model_type": "starcoder2",
        **gated.config(file),
        **gated.with_window(file),
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": file.decimal(Keys.Attention.LAYERNORM_EPS, 1e-5),
        "use_bias": file.has("blk.0.attn_output.bias"),
    }
    mlp = (Weight(f"model.layers.{{bid}}.mlp.{name}") for name in ("c_fc", "c_proj"))
    return Model("Starcoder2ForCausalLM", config, (*gated.outside(), *gated.attention(file), *mlp), rope.READ)
