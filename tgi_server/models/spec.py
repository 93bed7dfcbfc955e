"""What a decoder looks like, read from a model directory's config.json. Stdlib only, so it costs no torch import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi_server.config.schema import RopeOptions
from tgi_server.errors import ConfigError, ModelError
from tgi_server.rope.spec import RopeSpec, read_rope


@dataclass(frozen=True, slots=True)
class Names:
    """The checkpoint names of a family; `{layer}` stands for the layer's number, `.weight`/`.bias` are appended."""

    embedding: str = "model.embed_tokens"
    norm: str = "model.norm"
    head: str = "lm_head"
    attention_norm: str = "model.layers.{layer}.input_layernorm"
    query: str = "model.layers.{layer}.self_attn.q_proj"
    key: str = "model.layers.{layer}.self_attn.k_proj"
    value: str = "model.layers.{layer}.self_attn.v_proj"
    output: str = "model.layers.{layer}.self_attn.o_proj"
    mlp_norm: str = "model.layers.{layer}.post_attention_layernorm"
    gate: str = "model.layers.{layer}.mlp.gate_proj"
    up: str = "model.layers.{layer}.mlp.up_proj"
    down: str = "model.layers.{layer}.mlp.down_proj"


FAMILIES: dict[str, Names] = {"llama": Names()}
"""`model_type` of config.json -> checkpoint names; a family that differs only in names is one more row."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Sizes are counts of elements; `head_dim` is the width of one attention head."""

    names: Names
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float
    tied_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    rope: RopeSpec
    eos_token_ids: tuple[int, ...]

    def check_shards(self, num_shard: int) -> None:
        """Raise ConfigError unless the attention heads can be spread over `num_shard` ranks."""
        if self._divides(num_shard):
            return
        works = ", ".join(str(n) for n in range(1, self.num_heads + 1) if self._divides(n))
        raise ConfigError(
            f"num_shard={num_shard}: the model's {self.num_heads} attention heads and {self.num_kv_heads} key/value "
            f"heads cannot be split over {num_shard} shards; these numbers work: {works}"
        )

    def _divides(self, n: int) -> bool:
        return self.num_heads % n == 0 and (self.num_kv_heads % n == 0 or n % self.num_kv_heads == 0)


def read_spec(directory: Path, rope: RopeOptions | None = None) -> ModelSpec:
    """Read config.json (and the end-of-sequence ids of generation_config.json) of `directory`; `rope` overrules it.

    Raises ModelError when a file is unreadable or describes something that is not served.
    """
    config = _read_json(directory / "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ModelError(f"{directory / 'config.json'}: {_unserved(kind, config)}")
    try:
        return _build(FAMILIES[kind], config, _end_of_sequence(directory, config), _linear_factor(rope))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{directory / 'config.json'}: missing or bad entry {error}") from error


def _unserved(kind: object, config: Mapping[str, Any]) -> str:
    """Why such a model cannot be served; code that comes with it would be the only way."""
    served = f"model_type {kind!r} is not served; these are: {', '.join(sorted(FAMILIES))}"
    if not config.get("auto_map"):
        return served
    return (
        f"{served}. It brings code of its own (auto_map), which this server never runs, with trust_remote_code neither"
    )


def _linear_factor(rope: RopeOptions | None) -> float | None:
    """By how much positions are stretched; None to leave that to config.json."""
    if rope is None or (rope.rope_scaling is None and rope.rope_factor is None):
        return None
    return 1.0 if rope.rope_factor is None else rope.rope_factor


def _build(names: Names, config: Mapping[str, Any], eos: tuple[int, ...], linear_factor: float | None) -> ModelSpec:
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act={config['hidden_act']!r} (only silu is served)")
    heads = int(config["num_attention_heads"])
    return ModelSpec(
        names=names,
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        intermediate_size=int(config["intermediate_size"]),
        num_layers=int(config["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        max_positions=int(config["max_position_embeddings"] * (linear_factor or 1.0)),
        norm_eps=float(config["rms_norm_eps"]),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        rope=read_rope(config, linear_factor),
        eos_token_ids=eos,
    )


def _end_of_sequence(directory: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """All end-of-sequence ids: those of generation_config.json when it has any, else those of config.json (D11)."""
    path = directory / "generation_config.json"
    entry = _read_json(path).get("eos_token_id") if path.exists() else None
    if entry is None:
        entry = config.get("eos_token_id")
    if entry is None:
        return ()
    return tuple(int(i) for i in (entry if isinstance(entry, list) else [entry]))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"cannot read {path}: it holds no JSON object")
    return content
