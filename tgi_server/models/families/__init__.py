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

from tgi_server.config.schema import RopeOptions
from tgi_server.errors import ModelError
from tgi_server.models.config import ModelConfig, end_of_sequence, how_to_generate, more_than_text, read_json
from tgi_server.models.description import Description

Describe = Callable[[ModelConfig], Description]


@cache
def families() -> Mapping[str, Describe]:
    """`model_type` of config.json -> what describes such models."""
    found: dict[str, Describe] = {}
    for module in pkgutil.iter_modules(__path__):
        family = importlib.import_module(f"{__name__}.{module.name}")
        found |= dict.fromkeys(family.model_types, family.describe)
    return found


def serves(directory: Path) -> bool:
    """Whether a family describes the model in `directory`; raises ModelError when its config.json is unreadable."""
    kind = read_json(directory / "config.json").get("model_type")
    return isinstance(kind, str) and kind in families()


def read_spec(directory: Path, rope: RopeOptions | None = None) -> Description:
    """Describe the model in `directory` by its config.json (and generation_config.json); `rope` overrules it.

    Raises ModelError when a file is unreadable or describes something that is not served.
    """
    path = directory / "config.json"
    config = read_json(path)
    kind = config.get("model_type")
    if reason := more_than_text(config):
        raise ModelError(f"{path}: {reason}")
    if not isinstance(kind, str) or kind not in families():
        raise ModelError(f"{path}: model_type {kind!r} is not served; these are: {', '.join(sorted(families()))}")
    try:
        config |= how_to_generate(directory, config)
        spec = families()[kind](ModelConfig(config, rope))
        return replace(spec, eos_token_ids=end_of_sequence(config["eos_token_id"]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ModelError(f"{path}: missing or bad entry {error}") from error
