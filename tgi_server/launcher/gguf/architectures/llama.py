"""Llama, Mistral and Mixtral: one architecture, told apart by experts and a window."""

from __future__ import annotations

from typing import Any

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model, Weight
from tgi_server.launcher.gguf.reader import GgufFile

names = ("llama",)


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    if file.optional(Keys.LLM.EXPERT_COUNT, int):
        return _mixtral(file)
    config: dict[str, Any] = {"model_type": "llama", **gated.config(file)}
    name = "LlamaForCausalLM"
    if window := gated.with_window(file)["sliding_window"]:
        name, config = "MistralForCausalLM", {**config, "model_type": "mistral", "sliding_window": window}
    return Model(name, config, gated.weights(file, permuted=True), rope.READ)


def _mixtral(file: GgufFile) -> Model:
    entries = {**gated.routing(file, "num_local_experts"), **gated.with_window(file)}
    weights = (
        *gated.outside(),
        *gated.attention(file, permuted=True),
        Weight("model.layers.{bid}.block_sparse_moe.gate"),
        *_experts(file, entries["num_local_experts"]),
    )
    return Model("MixtralForCausalLM", {"model_type": "mixtral", **gated.config(file), **entries}, weights, rope.READ)


def _experts(file: GgufFile, count: int) -> tuple[Weight, ...]:
    """Side by side in one tensor; the first files had a tensor an expert."""
    names = {"gate": "w1", "up": "w3", "down": "w2"}
    if not file.has("blk.0.ffn_gate.0.weight"):
        return gated.experts("block_sparse_moe", names)
    return tuple(
        Weight(f"model.layers.{{bid}}.block_sparse_moe.experts.{number}.{name}", (f"blk.{{bid}}.ffn_{which}.{number}",))
        for number in range(count)
        for which, name in names.items()
    )
