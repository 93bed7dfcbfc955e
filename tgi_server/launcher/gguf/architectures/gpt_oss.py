"""gpt-oss: the converter takes gate and up apart and turns the experts' matrices round."""

from __future__ import annotations

from gguf import Keys

from tgi_server.launcher.gguf import gated, rope
from tgi_server.launcher.gguf.architecture import Model, Weight, alternating
from tgi_server.launcher.gguf.reader import GgufFile

names = ("gpt-oss",)
_MLP = "model.layers.{bid}.mlp"
_JOINED = {".weight": "", ".bias": "_bias"}
_EACH = 2


def describe(file: GgufFile) -> Model:
    """See `architectures`. What the metadata leave out is the same in all models: see transformers' GptOssConfig."""
    config = {"model_type": "gpt_oss", **gated.config(file), **gated.with_window(file)}
    inner = file.whole(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, config["intermediate_size"])
    config |= {
        "intermediate_size": inner,
        **gated.routing(file, "num_local_experts", gating=3),
        "layer_types": gated.layer_types(file, _EACH),
        "swiglu_limit": 7.0,
        "attention_bias": True,
    }
    config["rope_parameters"]["truncate"] = False
    gate_up = ("blk.{bid}.ffn_gate_exps", "blk.{bid}.ffn_up_exps")
    weights = (
        *gated.outside(),
        *gated.attention(file),
        Weight("model.layers.{bid}.self_attn.sinks", suffixes={".weight": ""}),
        Weight(f"{_MLP}.router"),
        Weight(f"{_MLP}.experts.gate_up_proj", gate_up, alternating, transposed=True, suffixes=_JOINED),
        Weight(f"{_MLP}.experts.down_proj", ("blk.{bid}.ffn_down_exps",), transposed=True, suffixes=_JOINED),
    )
    return Model("GptOssForCausalLM", config, weights, rope.READ)
