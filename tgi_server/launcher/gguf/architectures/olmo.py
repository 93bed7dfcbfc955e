"""OLMo: norms without weights."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model
from tgi_server.launcher.gguf.reader import GgufFile

names = ("olmo",)


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    file.decimal(Keys.Attention.LAYERNORM_EPS, 1e-5)  # transformers has it in its code
    config = {
        "model_type": "olmo",
        **gated.config(file),
        "clip_qkv": file.decimal(Keys.Attention.CLAMP_KQV, 0.0) or None,
    }
    return Model("OlmoForCausalLM", config, gated.weights(file, permuted=True), rope.READ)
