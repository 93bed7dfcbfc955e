"""The families of decoders, one file each: `model_types` that config.json may name, and `describe(config)`.

Stdlib only. A family is found by being here; nothing else names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from tgi_server.config.schema import RopeOptions
from tgi_server.errors import ModelError
from tgi_server.models.config import ModelConfig, end_of_sequence, how_to_generate, read_json
from tgi_server.models.description import Description

SENSES = ("vision_config", "audio_config", "image_config", "speech_config")
"""Entries of models that read more than text, whatever their type."""
Describe = Callable[[ModelConfig], Description]


@cache
def families() -> Mapping[str, Describe]:
    """`model_type` of config.json -> what describes such models."""
    found: dict[str, Describe] = {}
    for module in pkgutil.iter_modules(__path__):
        family = importlib.import_module(f"{__name__}.{module.name}")
        found |= dict.fromkeys(family.model_types, family.describe)
    return found


def read_spec(directory: Path, rope: RopeOptions | None = None) -> Description:
    """Describe the model in `directory` by its config.json (and generation_config.json); `rope` overrules it.

    Raises ModelError when a file is unreadable or describes something that is not served.
    """
    path = directory / "config.json"
    config = read_json(path)
    kind = config.get("model_type")
    if senses := [name for name in SENSES if config.get(name)]:
        raise ModelError(f"{path}: model_type {kind!r} reads more than text ({', '.join(senses)}), which is not served")
    if not isinstance(kind, str) or kind not in families():
        raise ModelError(f"{path}: {_unserved(kind, config)}")
    try:
        config |= how_to_generate(directory, config)
        spec = families()[kind](ModelConfig(config, rope))
        return replace(spec, eos_token_ids=end_of_sequence(config["eos_token_id"]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ModelError(f"{path}: missing or bad entry {error}") from error


def _unserved(kind: object, config: Mapping[str, Any]) -> str:
    """Why such a model cannot be served; code that comes with it would be the only way."""
    served = f"model_type {kind!r} is not served; these are: {', '.join(sorted(families()))}"
    if not config.get("auto_map"):
        return served
    return (
        f"{served}. It brings code of its own (auto_map), which this server never runs, with trust_remote_code neither"
    )
