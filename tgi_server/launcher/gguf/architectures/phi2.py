"""Phi 1 and 2; old files have queries, keys and values in one tensor."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model, Weight, part
from tgi_server.launcher.gguf.reader import GgufFile

names = ("phi2",)
_LAYER = "model.layers.{bid}"


def describe(file: GgufFile) -> Model:
    """See `architectures`."""
    config = {
        "model_type": "phi",
        **gated.config(file),
        "hidden_act": "gelu_new",
        "layer_norm_eps": file.decimal(Keys.Attention.LAYERNORM_EPS, 1e-5),
    }
    parameters = config["rope_parameters"]
    config["partial_rotary_factor"] = parameters.setdefault("partial_rotary_factor", 1.0)
    weights = (
        gated.EMBEDDING, gated.HEAD, Weight("model.final_layernorm"), Weight(f"{_LAYER}.input_layernorm"),
        *_heads(file),
        *(Weight(f"{_LAYER}.{name}") for name in ("self_attn.dense", "mlp.fc1", "mlp.fc2")),
    )  # fmt: skip
    return Model("PhiForCausalLM", config, weights, rope.READ)


def _heads(file: GgufFile) -> list[Weight]:
    names, count, start = ("q_proj", "k_proj", "v_proj"), gated.heads(file), 0
    if not file.has("blk.0.attn_qkv.weight"):
        return [Weight(f"{_LAYER}.self_attn.{name}") for name in names]
    weights = []
    for name, number in zip(names, (count[0], count[1], count[1]), strict=True):
        rows = part(start, start + number * count[2])
        weights.append(Weight(f"{_LAYER}.self_attn.{name}", ("blk.{bid}.attn_qkv",), rows))
        start += number * count[2]
    return weights
