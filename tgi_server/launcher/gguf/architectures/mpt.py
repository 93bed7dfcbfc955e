"""MPT."""

from __future__ import annotations

from gguf import Keys

from tgi_server.errors import ModelError
from tgi_server.launcher.gguf import gated
from tgi_server.launcher.gguf.architecture import Model, Weight
from tgi_server.launcher.gguf.reader import GgufFile

names = ("mpt",)
_LAYER = ("norm_1", "norm_2", "attn.Wqkv", "attn.out_proj", "ffn.up_proj", "ffn.down_proj")


def describe(file: GgufFile) -> Model:
    """See `architectures`. With learned positions, not linear biases, llama.cpp serves it; transformers does not."""
    most, hidden = file.decimal(Keys.Attention.MAX_ALIBI_BIAS, 0.0), file.whole(Keys.LLM.EMBEDDING_LENGTH)
    inner, (count, kv_count, _) = file.whole(Keys.LLM.FEED_FORWARD_LENGTH), gated.heads(file)
    if most <= 0 or inner % hidden or kv_count != count:
        raise ModelError(f"{file.path}: MPT is served with linear biases, as many key/value heads as heads, and an MLP")
    attention = {
        "alibi": True,
        "alibi_bias_max": int(most) if most == int(most) else most,
        "clip_qkv": file.decimal(Keys.Attention.CLAMP_KQV, 0.0) or None,
        "attn_type": "multihead_attention",
        "qk_ln": False,
    }
    config = {
        "model_type": "mpt",
        "d_model": hidden,
        "n_heads": count,
        "n_layers": gated.layers(file),
        "expansion_ratio": inner // hidden,
        "max_seq_len": file.whole(Keys.LLM.CONTEXT_LENGTH),
        "layer_norm_epsilon": file.decimal(Keys.Attention.LAYERNORM_EPS, 1e-5),
        "no_bias": not file.has("blk.0.attn_qkv.bias"),
        "attn_config": attention,
        **gated.common(file),
    }
    weights = (
        *(Weight(name) for name in ("transformer.wte", "transformer.norm_f", "lm_head")),
        *(Weight(f"transformer.blocks.{{bid}}.{name}") for name in _LAYER),
    )
    return Model("MptForCausalLM", config, weights)
