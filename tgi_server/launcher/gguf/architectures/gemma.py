"""Gemma: the converter adds 1 to the weights of norms."""

from __future__ import annotations

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model
from tgi_server.launcher.gguf.reader import GgufFile

names = ("gemma",)


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    changed = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
    config = {"model_type": "gemma", **gated.config(file), **changed}
    return Model("GemmaForCausalLM", config, gated.weights(file, offset=1.0), rope.READ)
