"""OLMo 2, and OLMo 3, which has windows."""

from __future__ import annotations

from typing import Any

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model
from tgi_server.launcher.gguf.reader import GgufFile

names = ("olmo2",)
_EACH = 4


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    config: dict[str, Any] = {"model_type": "olmo2", **gated.config(file)}
    name = "Olmo2ForCausalLM"
    if window := gated.with_window(file)["sliding_window"]:
        full = config["rope_parameters"]
        sliding = {"rope_type": "default", "rope_theta": full["rope_theta"]}
        name = "Olmo3ForCausalLM"
        config |= {
            "model_type": "olmo3",
            "sliding_window": window,
            "layer_types": gated.layer_types(file, _EACH),
            "rope_parameters": {"full_attention": full, "sliding_attention": sliding},
        }
    return Model(name, config, gated.weights(file), rope.READ)
