"""Small GGUF files of random weights, written with the `gguf` package as llama.cpp's converter would write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.quants import quantize
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 64, 96, 2, 4, 2, 16
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]
TOKENS = [*SPECIALS, *sorted(ByteLevel.alphabet()), "Ġt", "he", "Ġthe", "12"]
MERGES = ["Ġ t", "h e", "Ġt he", "1 2"]
TYPES = [3, 3, 3, 4] + [1] * (len(TOKENS) - 4)
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"

Weights = dict[str, NDArray[np.float32]]


def random_weights(seed: int = 0, tied: bool = True) -> Weights:
    """A tiny Llama under the names and in the row order of transformers."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return random.normal(0, 0.1, (rows, columns)).astype(np.float32)

    weights = {"model.embed_tokens.weight": matrix(len(TOKENS), HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights |= {
            f"{prefix}input_layernorm.weight": matrix(1, HIDDEN)[0] + 1,
            f"{prefix}self_attn.q_proj.weight": matrix(HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.k_proj.weight": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.v_proj.weight": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.o_proj.weight": matrix(HIDDEN, HEADS * HEAD_DIM),
            f"{prefix}post_attention_layernorm.weight": matrix(1, HIDDEN)[0] + 1,
            f"{prefix}mlp.gate_proj.weight": matrix(INNER, HIDDEN),
            f"{prefix}mlp.up_proj.weight": matrix(INNER, HIDDEN),
            f"{prefix}mlp.down_proj.weight": matrix(HIDDEN, INNER),
        }
    weights["model.norm.weight"] = matrix(1, HIDDEN)[0] + 1
    return weights if tied else {**weights, "lm_head.weight": matrix(len(TOKENS), HIDDEN)}


_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "model.layers.": "blk.", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _stored(name: str, values: NDArray[np.float32]) -> tuple[str, NDArray[np.float32]]:
    """Name and values as llama.cpp has them: the two halves of a head are interleaved in q and k."""
    heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0
    if heads:
        rows, columns = values.shape
        values = values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name, np.ascontiguousarray(values)


def write(
    path: Path,
    weights: Weights,
    metadata: Mapping[str, Any] | None = None,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
) -> Path:
    """Write a file. `metadata` replaces values, None removes one; `kind` is how the matrices are stored."""
    values: dict[str, Any] = {
        "llama.block_count": LAYERS, "llama.context_length": 256, "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": INNER, "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS, "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": HEAD_DIM, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": TYPES, "tokenizer.ggml.merges": MERGES, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.chat_template": TEMPLATE, **(metadata or {}),
    }  # fmt: skip
    finish(GGUFWriter(path, values.pop("general.architecture", "llama")), values, weights, kind)
    return path


def finish(
    writer: GGUFWriter,
    values: Mapping[str, Any],
    weights: Weights,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
) -> None:
    """Write metadata and tensors."""
    for key, value in values.items():
        add(writer, key, value)
    for theirs, ours in weights.items():
        name, tensor = _stored(theirs, ours)
        if tensor.ndim == 2 and kind != GGMLQuantizationType.F32:
            writer.add_tensor(name, quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add(writer: GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32,
             str: GGUFValueType.STRING, list: GGUFValueType.ARRAY}  # fmt: skip
    if value is not None:
        writer.add_key_value(key, value, kinds[type(value)])
