"""SmolLM 3: llama.cpp leaves every fourth layer without positions, as the model does."""

from __future__ import annotations

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model
from tgi_server.launcher.gguf.reader import GgufFile

names = ("smollm3",)
_EACH = 4


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    config = {"model_type": "smollm3", **gated.config(file), "no_rope_layer_interval": _EACH}
    config["no_rope_layers"] = [int((number + 1) % _EACH != 0) for number in range(config["num_hidden_layers"])]
    config["use_sliding_window"] = False
    return Model("SmolLM3ForCausalLM", config, gated.weights(file, permuted=True), rope.READ)
