"""transformers' module for a checkpoint: its configuration, its class, and attention that is ours to compute."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from tgi_server.errors import ModelError
from tgi_server.models.config import read_json
from tgi_server.models.families import families

AUTO = "AutoModelForCausalLM"

Attention = Callable[..., tuple[Any, None]]
"""What transformers' attention layers call: the layer, then query, key, value `[1, heads, tokens, width]`, a mask."""

PREFIX = "tgi-"
"""Of the names under which attention is registered."""
_numbers = count()


class Source:
    """Where a model's configuration and class come from.

    Args:
        directory: of the model.
        trust: whether code in it may run. It does so only where transformers itself does not know the model.

    Attributes:
        config: transformers' configuration.
        remote: whether the class is the checkpoint's own.

    Raises ModelError for a model that has no class that may be used.
    """

    def __init__(self, directory: Path, trust: bool) -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._directory = directory
        self._path = directory / "config.json"
        entries = read_json(self._path)
        kind = entries.get("model_type")
        self.remote = kind not in transformers.CONFIG_MAPPING
        if self.remote:
            self._check_code(kind, entries.get("auto_map"), trust)
        self.config = self._configuration()
        self.model_class = self._remote(entries["auto_map"]) if self.remote else self._own(kind, entries)

    def make(self, attention: Attention, **options: Any) -> nn.Module:
        """The module without weights, wherever `torch.device` says."""
        return self.model_class._from_config(self.config, attn_implementation=registered(attention), **options).eval()  # type: ignore[no-any-return]

    def _configuration(self) -> Any:
        try:
            return transformers.AutoConfig.from_pretrained(self._directory, trust_remote_code=self.remote)
        except Exception as error:  # whatever a class, or code that came with it, makes of its entries
            raise ModelError(f"{self._path}: {self._who} cannot read it: {told(error)}") from error

    @property
    def _who(self) -> str:
        return "its own code" if self.remote else "transformers"

    def _check_code(self, kind: object, code: object, trust: bool) -> None:
        unknown = (
            f"{self._path}: model_type {kind!r} is known neither here nor to transformers {transformers.__version__}"
        )
        if not isinstance(code, Mapping) or not code:
            raise ModelError(f"{unknown}; served are {', '.join(sorted(families()))} and most decoders of transformers")
        if not trust:
            raise ModelError(
                f"{unknown}; it brings code of its own (auto_map), which runs with trust_remote_code=true only"
            )
        for name in ("AutoConfig", AUTO):
            if not isinstance(code.get(name), str):
                raise ModelError(f"{self._path}: auto_map has no {name}, which a model that writes text needs")
            if "--" in code[name]:
                raise ModelError(
                    f"{self._path}: auto_map takes {name} from another repository, {code[name].partition('--')[0]}, "
                    "of which no revision is pinned; put its files beside config.json"
                )

    def _remote(self, code: Mapping[str, str]) -> Any:
        try:
            return get_class_from_dynamic_module(code[AUTO], str(self._directory))
        except Exception as error:
            raise ModelError(f"{self._directory}: its code for {AUTO} cannot be used: {told(error)}") from error

    def _own(self, kind: object, entries: Mapping[str, Any]) -> Any:
        known = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        if type(self.config) not in known:
            raise ModelError(f"{self._path}: model_type {kind!r} has no model in transformers that continues text")
        names = entries.get("architectures") or []
        found = known[type(self.config)]
        written = [name for name in names if isinstance(name, str)]
        if written and not any(name == found.__name__ or name.endswith("LMHeadModel") for name in written):
            raise ModelError(
                f"{self._path}: architectures has {written[0]}, which does not continue text; {found.__name__} does"
            )
        return found


def registered(attention: Attention) -> str:
    """The name under which transformers' layers find `attention`. It has no masks: what is seen is ours to know."""
    name = f"{PREFIX}{next(_numbers)}"
    transformers.AttentionInterface.register(name, attention)
    return name


def inner(module: Any) -> Any:
    """The part of a causal language model that gives hidden states. Raises ModelError where it cannot be used."""
    names = module.base_model_prefix, "model"  # the latter where the prefix is that of a larger model
    own = next((part for name in names if name and isinstance(part := getattr(module, name, None), nn.Module)), None)
    if own is None:
        raise ModelError(f"{type(module).__name__} has no part of its own that gives hidden states")
    if "position_ids" not in inspect.signature(own.forward).parameters:
        raise ModelError(f"{type(own).__name__} takes no positions (position_ids), which tokens of many texts need")
    return own


def told(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
