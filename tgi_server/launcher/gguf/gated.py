"""The entries and tensors that the architectures around Llama share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import Keys

from tgi_server.errors import ModelError
from tgi_server.launcher.gguf import rope
from tgi_server.launcher.gguf.architecture import Rows, Weight, unturned
from tgi_server.launcher.gguf.reader import GgufFile

_LAYER = "model.layers.{bid}"
EMBEDDING, NORM, HEAD = Weight("model.embed_tokens"), Weight("model.norm"), Weight("lm_head")
NORMS = tuple(
    f"{_LAYER}.{name}"
    for name in (
        "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
        "self_attn.q_norm", "self_attn.k_norm",
    )
)  # fmt: skip
_MLP = tuple(Weight(f"{_LAYER}.mlp.{name}") for name in ("gate_proj", "up_proj", "down_proj"))


def vocabulary(file: GgufFile) -> int:
    """How many tokens have vectors."""
    tensor = file.tensors.get("token_embd.weight")
    if tensor is None or len(tensor.shape) != 2:
        raise ModelError(f"{file.path}: the tensor token_embd.weight is missing, or no matrix")
    return tensor.shape[0]


def common(file: GgufFile) -> dict[str, Any]:
    """What every configuration has."""
    if file.optional(Keys.Attention.CAUSAL, bool) is False:
        raise ModelError(f"{file.path}: the metadata {file.key(Keys.Attention.CAUSAL)} is false: it generates no text")
    size = file.optional(Keys.LLM.VOCAB_SIZE, int)
    if size not in (None, vocabulary(file)):
        raise ModelError(f"{file.path}: it counts {size} tokens, and has {vocabulary(file)} token vectors")
    return {"vocab_size": vocabulary(file), "tie_word_embeddings": not file.has("output.weight")}


def layers(file: GgufFile) -> int:
    """How many layers there are; no more than tensors, for lists are made of that length."""
    count = file.whole(Keys.LLM.BLOCK_COUNT)
    if count > len(file.tensors):
        raise ModelError(f"{file.path}: {count} layers, but {len(file.tensors)} tensors")
    return count


def heads(file: GgufFile) -> tuple[int, int, int]:
    """How many heads there are, how many key/value heads, and how wide they are."""
    count, kv_count = file.whole(Keys.Attention.HEAD_COUNT), _kv_heads(file)
    width = file.whole(Keys.Attention.KEY_LENGTH, file.whole(Keys.LLM.EMBEDDING_LENGTH) // count or 1)
    if file.whole(Keys.Attention.VALUE_LENGTH, width) != width:
        raise ModelError(f"{file.path}: values of another width than keys are not supported")
    if count % kv_count:
        raise ModelError(f"{file.path}: {count} attention heads cannot share {kv_count} key/value heads")
    return count, kv_count, width


def _kv_heads(file: GgufFile) -> int:
    return file.whole(Keys.Attention.HEAD_COUNT_KV, file.whole(Keys.Attention.HEAD_COUNT))


def config(file: GgufFile, rotary: rope.Parameters | None = None) -> dict[str, Any]:
    """The entries that Llama has. `rotary` takes the place of what the metadata says of rotary positions."""
    count, kv_count, width = heads(file)
    biased = "blk.0.attn_q.bias" in file.tensors
    return {
        "hidden_size": file.whole(Keys.LLM.EMBEDDING_LENGTH),
        "intermediate_size": file.whole(Keys.LLM.FEED_FORWARD_LENGTH),
        "num_hidden_layers": layers(file),
        "num_attention_heads": count,
        "num_key_value_heads": kv_count,
        "head_dim": width,
        "max_position_embeddings": file.whole(Keys.LLM.CONTEXT_LENGTH),
        "rms_norm_eps": file.decimal(Keys.Attention.LAYERNORM_RMS_EPS, 1e-5),
        "hidden_act": "silu",
        "attention_bias": biased,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        **common(file),
        **rope.entries(rotary or rope.parameters(file, width)),
    }


def attention(file: GgufFile, permuted: bool = False) -> tuple[Weight, ...]:
    """Queries, keys, values and output; `permuted` where the converter reordered the rows of rotary heads."""
    count, kv_count, _ = heads(file)

    def rows(number: int) -> Rows | None:
        return unturned(number) if permuted else None

    return (
        Weight(f"{_LAYER}.self_attn.q_proj", rows=rows(count)),
        Weight(f"{_LAYER}.self_attn.k_proj", rows=rows(kv_count)),
        Weight(f"{_LAYER}.self_attn.v_proj"),
        Weight(f"{_LAYER}.self_attn.o_proj"),
    )


def outside(offset: float = 0.0) -> tuple[Weight, ...]:
    """Token vectors, head, and all norms; `offset` is what the converter added to these."""
    return EMBEDDING, HEAD, *(Weight(name, offset=offset) for name in (NORM.name, *NORMS))


def weights(file: GgufFile, permuted: bool = False, offset: float = 0.0) -> tuple[Weight, ...]:
    """The tensors that Llama has, and the further norms of some; see `attention` and `outside`."""
    return (*outside(offset), *attention(file, permuted), *_MLP)


def experts(place: str, names: Mapping[str, str]) -> tuple[Weight, ...]:
    """The experts' layers, one tensor an expert: `names` gives their names for gate, up and down."""
    stored = {"gate": "ffn_gate_exps", "up": "ffn_up_exps", "down": "ffn_down_exps"}
    return tuple(
        Weight(f"{_LAYER}.{place}.experts.{{xid}}.{name}", (f"blk.{{bid}}.{stored[which]}",))
        for which, name in names.items()
    )


def routing(file: GgufFile, count_entry: str = "num_experts", gating: int = 1) -> dict[str, Any]:
    """How many experts there are, and how many a token uses; `gating` is the function that weighs them: 1, a softmax
    over all, or 3, over those that were chosen."""
    written = file.optional(Keys.LLM.EXPERT_GATING_FUNC, int)
    if written not in (None, 0, gating):
        key = file.key(Keys.LLM.EXPERT_GATING_FUNC)
        raise ModelError(f"{file.path}: the metadata {key} is {written} ({gating} is served)")
    count, used = file.whole(Keys.LLM.EXPERT_COUNT), file.whole(Keys.LLM.EXPERT_USED_COUNT)
    router = file.tensors.get("blk.0.ffn_gate_inp.weight")
    if router is None or router.shape[0] != count or used > count:
        raise ModelError(f"{file.path}: its tensors do not belong to {count} experts, of which a token uses {used}")
    return {count_entry: count, "num_experts_per_tok": used}


def with_window(file: GgufFile, default: int | None = None) -> dict[str, Any]:
    """`sliding_window`; 0 in the metadata means none."""
    window = file.optional(Keys.Attention.SLIDING_WINDOW, int)
    return {"sliding_window": (default if window is None else window) or None}


def layer_types(file: GgufFile, each: int) -> list[str]:
    """`layer_types`: the last of `each` layers has no window; unless the metadata have another number, or flags."""
    count, _ = layers(file), file.whole(Keys.Attention.SLIDING_WINDOW)
    pattern = file.metadata.get(file.key(Keys.Attention.SLIDING_WINDOW_PATTERN))
    if isinstance(pattern, list):
        flags = file.required(Keys.Attention.SLIDING_WINDOW_PATTERN, list)
    else:
        each = file.whole(Keys.Attention.SLIDING_WINDOW_PATTERN, each)
        flags = [(number + 1) % each != 0 for number in range(count)]
    if len(flags) != count:
        raise ModelError(f"{file.path}: {len(flags)} flags say which of {count} layers have a window")
    return ["sliding_attention" if flag else "full_attention" for flag in flags]
