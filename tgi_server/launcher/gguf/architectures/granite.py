"""Granite 3: Llama with four multipliers."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model
from tgi_server.launcher.gguf.reader import GgufFile

names = ("granite",)


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    config = {"model_type": "granite", **gated.config(file)}
    config |= {
        "attention_multiplier": file.decimal(Keys.Attention.SCALE, config["head_dim"] ** -0.5),
        "embedding_multiplier": file.decimal(Keys.LLM.EMBEDDING_SCALE, 1.0),
        "residual_multiplier": file.decimal(Keys.LLM.RESIDUAL_SCALE, 1.0),
        "logits_scaling": file.decimal(Keys.LLM.LOGIT_SCALE, 1.0),
    }
    return Model("GraniteForCausalLM", config, gated.weights(file, permuted=True), rope.READ)
