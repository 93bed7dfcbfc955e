"""adapter_config.json of PEFT's LoRA adapters: what is added to which modules, and what cannot be. Stdlib only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tgi_server.errors import ModelError
from tgi_server.models.files import json_object

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

_N = TypeVar("_N", int, float)
_TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM", None)
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config",
    "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "trainable_token_indices", "use_dora",
    "use_rslora",
}  # fmt: skip
"""Entries that are read here, or that the tensors of the adapter tell by themselves, or that matter in training only.
With any other the product of two matrices may not be all that is to be added."""
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin the training that change the model's own weights."""


@dataclass(frozen=True)
class Config:
    """adapter_config.json.

    Attributes:
        base, revision: the model that it changes.
        rank, alpha: of all modules but those of which `ranks` and `alphas` have a pattern that the name's end matches.
        rank_stabilized: whether sums are scaled by the root of the rank (arXiv:2312.03732).
        tokens: those with vectors of their own, by the end of a module's name.
        magnitudes: whether the outputs of a matrix are scaled after the sum (DoRA, arXiv:2402.09353).
        transposed: whether it was said to be for matrices `[in, out]`, which a family's description knows better.
    """

    base: str
    revision: str | None
    rank: int
    alpha: float
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilized: bool = False
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    magnitudes: bool = False
    transposed: bool = False

    def rank_of(self, module: str) -> int:
        """Of the two matrices of a module."""
        return _matching(self.ranks, module, self.rank)

    def tokens_of(self, module: str) -> tuple[int, ...] | None:
        """Of a module that has token vectors; None where nothing is said of it."""
        return next((ids for name, ids in self.tokens.items() if not name or f".{module}".endswith(f".{name}")), None)

    def scale(self, module: str) -> float:
        """Of their product."""
        rank, alpha = self.rank_of(module), _matching(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter instead of a model."""
    return (directory / CONFIG).is_file()


def base(directory: Path) -> tuple[str, str | None]:
    """The model that an adapter changes and its revision; raises ModelError as `read_config` does."""
    config = read_config(directory)
    return config.base, config.revision


def read_config(directory: Path) -> Config:
    """What adapter_config.json says; raises ModelError for an adapter that cannot be merged into weights."""
    path = directory / CONFIG
    entries = json_object(path)
    if problems := list(_unserved(entries)):
        raise ModelError(f"{path}: {'; '.join(problems)}")
    try:
        config = Config(
            _text(entries, "base_model_name_or_path"),
            _text(entries, "revision") if entries.get("revision") is not None else None,
            _number("r", entries.get("r", 8), whole=True),
            _number("lora_alpha", entries.get("lora_alpha", 8)),
            _patterns(entries, "rank_pattern", whole=True),
            _patterns(entries, "alpha_pattern"),
            bool(entries.get("use_rslora")),
            _tokens(entries.get("trainable_token_indices")),
            bool(entries.get("use_dora")),
            bool(entries.get("fan_in_fan_out")),
        )
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None
    return config


def _unserved(entries: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be merged."""
    if (kind := entries.get("peft_type")) != "LORA":
        yield f"peft_type={kind} is not served; LORA is"
        return
    if entries.get("task_type") not in _TASKS:
        yield f"task_type={entries['task_type']} is not served; CAUSAL_LM and SEQ_2_SEQ_LM are"
    for name, value in entries.items():
        if name not in _HARMLESS and value not in (None, False, 0, "", [], {}):
            yield f"{name}={json.dumps(value)[:60]} is not served: such an adapter is no plain sum with the weights"
    begun = entries.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(_OTHER_BASE):
        yield (
            f"init_lora_weights={begun} has changed the weights of the base model, too; save the adapter converted "
            "to plain LoRA (path_initial_model_for_weight_conversion)"
        )


def _matching(patterns: Mapping[str, _N], module: str, default: _N) -> _N:
    """The value of the first pattern that the module's name, or its end after a dot, matches."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _text(entries: Mapping[str, Any], name: str) -> str:
    value = entries.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}={json.dumps(value)[:60]} (text is expected)")
    return value


def _number(name: str, value: Any, whole: bool = False) -> Any:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={json.dumps(value)[:60]} (a number is expected)")
    if whole and value < 1:
        raise ValueError(f"{name}={value} (at least 1 is expected)")
    return value


def _tokens(entry: Any) -> dict[str, tuple[int, ...]]:
    """By module; without one those of the token vectors, whatever they are called."""
    by_module = entry if isinstance(entry, dict) else {"": entry or []}
    for ids in by_module.values():
        if not isinstance(ids, list) or any(type(id) is not int or id < 0 for id in ids):
            raise ValueError(f"trainable_token_indices={json.dumps(entry)[:60]} (token ids are expected)")
    return {name: tuple(ids) for name, ids in by_module.items()}


def _patterns(entries: Mapping[str, Any], name: str, whole: bool = False) -> dict[str, Any]:
    patterns = entries.get(name) or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"{name}={json.dumps(patterns)[:60]} (an object is expected)")
    for key, value in patterns.items():
        _number(f"{name}[{key!r}]", value, whole)
        try:
            re.compile(key)
        except re.error:
            raise ValueError(f"{name} has {key!r}, which is no pattern") from None
    return patterns
