"""The llama architecture in GGUF: its configuration, and the names and shapes of its tensors on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgi_server.errors import ModelError
from tgi_server.launcher.gguf.reader import GgufFile

NAME = "llama"


@dataclass(frozen=True, slots=True)
class Config:
    """What a Llama is made of, in the words of transformers."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor under its Hugging Face name. `rotary_heads` is set for projections whose rows have to be reordered."""

    name: str
    shape: tuple[int, ...]
    rotary_heads: int = 0

    def row_order(self) -> NDArray[np.intp]:
        """The stored rows in the order they are wanted, [rows].

        llama.cpp rotates neighbouring rows of a head (0 with 1, 2 with 3), transformers the row i with i + half.
        """
        order = np.arange(self.shape[0] if len(self.shape) > 1 else 1)
        if self.rotary_heads:
            order = order.reshape(self.rotary_heads, -1, 2).swapaxes(1, 2).reshape(-1)
        return order


def read_config(file: GgufFile) -> Config:
    """The configuration that the metadata describes.

    Raises:
        ModelError: a value is missing, impossible, or asks for something that is not supported.
    """
    hidden, heads = _positive(file, "embedding_length"), _positive(file, "attention.head_count")
    head_dim = file.optional("llama.attention.key_length", int) or hidden // heads
    _refuse_variants(file, head_dim)
    return Config(
        hidden_size=hidden,
        intermediate_size=_positive(file, "feed_forward_length"),
        num_hidden_layers=_positive(file, "block_count"),
        num_attention_heads=heads,
        num_key_value_heads=file.optional("llama.attention.head_count_kv", int) or heads,
        head_dim=head_dim,
        vocab_size=len(file.strings("tokenizer.ggml.tokens")),
        max_position_embeddings=_positive(file, "context_length"),
        rms_norm_eps=_decimal(file.required("llama.attention.layer_norm_rms_epsilon", float)),
        rope_theta=_decimal(file.optional("llama.rope.freq_base", float) or 10000.0),
        tie_word_embeddings="output.weight" not in file.tensors,
    )


def _positive(file: GgufFile, key: str) -> int:
    value = file.required(f"llama.{key}", int)
    if value <= 0:
        raise ModelError(f"{file.path}: the metadata llama.{key} is {value}")
    return value


def _decimal(value: float) -> float:
    """The shortest decimal number that is the same float32: 1e-05 and not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _refuse_variants(file: GgufFile, head_dim: int) -> None:
    scaling = file.optional("llama.rope.scaling.type", str)
    if scaling not in (None, "none"):
        raise ModelError(f"{file.path}: rope scaling {scaling!r} is not supported in GGUF files")
    rotary = file.optional("llama.rope.dimension_count", int)
    if rotary not in (None, head_dim) or head_dim < 2 or head_dim % 2:
        raise ModelError(f"{file.path}: rotary embedding of {rotary} of {head_dim} values a head is not supported")


def targets(file: GgufFile, config: Config) -> dict[str, Target]:
    """Every tensor of the file, in the order of the model.

    Raises:
        ModelError: a tensor is missing, unknown, or of another shape than the metadata says.
    """
    if config.num_hidden_layers > len(file.tensors):
        raise ModelError(f"{file.path}: {config.num_hidden_layers} layers, but {len(file.tensors)} tensors")
    table = {"token_embd": Target("model.embed_tokens", (config.vocab_size, config.hidden_size))}
    for layer in range(config.num_hidden_layers):
        for ours, target in _layer(config, f"model.layers.{layer}.").items():
            table[f"blk.{layer}.{ours}"] = target
    table["output_norm"] = Target("model.norm", (config.hidden_size,))
    if not config.tie_word_embeddings:
        table["output"] = Target("lm_head", (config.vocab_size, config.hidden_size))
    table = {f"{ours}.weight": Target(f"{t.name}.weight", t.shape, t.rotary_heads) for ours, t in table.items()}
    _compare(file, table)
    return table


def _layer(config: Config, prefix: str) -> dict[str, Target]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return {
        "attn_norm": Target(f"{prefix}input_layernorm", (hidden,)),
        "attn_q": Target(f"{prefix}self_attn.q_proj", (queries, hidden), config.num_attention_heads),
        "attn_k": Target(f"{prefix}self_attn.k_proj", (keys, hidden), config.num_key_value_heads),
        "attn_v": Target(f"{prefix}self_attn.v_proj", (keys, hidden)),
        "attn_output": Target(f"{prefix}self_attn.o_proj", (hidden, queries)),
        "ffn_norm": Target(f"{prefix}post_attention_layernorm", (hidden,)),
        "ffn_gate": Target(f"{prefix}mlp.gate_proj", (inner, hidden)),
        "ffn_up": Target(f"{prefix}mlp.up_proj", (inner, hidden)),
        "ffn_down": Target(f"{prefix}mlp.down_proj", (hidden, inner)),
    }


def _compare(file: GgufFile, table: dict[str, Target]) -> None:
    for name, target in table.items():
        stored = file.tensors.get(name)
        if stored is None:
            raise ModelError(f"{file.path}: the tensor {name} is missing")
        if stored.shape != target.shape:
            raise ModelError(f"{file.path}: the tensor {name} is {stored.shape}, {target.shape} expected")
    for name in file.tensors:
        if name not in table:
            raise ModelError(f"{file.path}: the tensor {name!r} is not supported in a llama GGUF file")


def hf_config(config: Config) -> dict[str, Any]:
    """The architecture part of config.json."""
    shape = {name: getattr(config, name) for name in Config.__slots__}
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    fixed = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    return {"architectures": ["LlamaForCausalLM"], "model_type": NAME, **shape, "rope_parameters": rope, **fixed}
