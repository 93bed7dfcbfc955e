"""Qwen 3."""

from __future__ import annotations

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model
from tgi_server.launcher.gguf.reader import GgufFile

names = ("qwen3",)


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    config = {"model_type": "qwen3", **gated.config(file), "use_sliding_window": False}
    return Model("Qwen3ForCausalLM", config, gated.weights(file), rope.READ)
