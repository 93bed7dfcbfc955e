"""What launcher and runner know of a model that transformers' own module computes. Stdlib only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tgi_server.cache.kinds import CacheGroup, CacheKind
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import ConfigError, ModelError
from tgi_server.models.config import (
    MOST,
    MOST_LAYERS,
    end_of_sequence,
    how_to_generate,
    more_than_text,
    read_json,
    shown,
)
from tgi_server.models.description import Description, Past, Shape
from tgi_server.models.files import headers
from tgi_server.rope.kinds import overruled

Ask = Callable[[Path], str]
"""Gives the text of `FallbackSpec.text` for a model directory; raises ModelError. Slow, as it has transformers look."""

_HOW = "model_type {kind!r} is computed by transformers' own module"


@dataclass(frozen=True, slots=True)
class Layer:
    """What the attention of one layer was seen to keep. `number` is the layer's own; `window` as in `Features`."""

    number: int
    kv_heads: int
    key_width: int
    value_width: int
    window: int | None


@dataclass(frozen=True, kw_only=True)
class FallbackSpec(Description):
    """See `Description`.

    Attributes:
        directory: where its config.json, and code of its own, are.
        layers_seen: those that keep keys and values, in the order of their numbers.
        remote: whether its code comes with the checkpoint.
        head_of: the token vectors that are its head, too, under the module's own name; None where the head is its own.
    """

    builder: ClassVar[str] = "tgi_server.models.fallback.model:FallbackModel"

    directory: str
    layers_seen: tuple[Layer, ...]
    remote: bool = False
    head_of: str | None = None

    @cached_property
    def pasts(self) -> tuple[Past, ...]:
        """One for each layer that was seen."""
        return tuple(Past(_group(a), a.kv_heads, a.key_width, a.value_width) for a in self.layers_seen)

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """See `Description`: those of the checkpoint as they are, once it is there."""
        with suppress(ModelError, OSError):
            yield from ((name, info.shape) for name, info in headers(Path(self.directory)).items())

    @property
    def inseparable(self) -> str | None:
        """See `Description`."""
        return ".".join(self.head_of.split(".")[-2:]) if self.head_of else None  # whatever prefix the file leaves out

    def shards_that_work(self) -> list[int]:
        """See `Description`."""
        return [1]

    def unsplit(self) -> str:
        """See `Description`."""
        return "module, which is transformers' own,"

    @property
    def text(self) -> str:
        """It as JSON, for `parsed`."""
        return json.dumps(asdict(self))


def parsed(text: str, directory: Path) -> FallbackSpec:
    """What `FallbackSpec.text` was made of, for the same model in `directory`; its end tokens are read from there."""
    entries = json.loads(text)
    layers = tuple(Layer(**layer) for layer in entries.pop("layers_seen"))
    config = read_json(directory / "config.json")
    found = end_of_sequence(how_to_generate(directory, config)["eos_token_id"])
    lists = {name: tuple(value) for name, value in entries.items() if isinstance(value, list)}
    spec = FallbackSpec(**{**entries, **lists, "layers_seen": layers})
    return replace(spec, directory=str(directory), eos_token_ids=found)


def read(directory: Path, options: ServerConfig, num_shard: int, ask: Ask) -> FallbackSpec:
    """Describe the model in `directory` by what `ask` finds out, after what config.json alone tells.

    Raises ModelError or ConfigError for what is not served.
    """
    path = directory / "config.json"
    entries = read_json(path)
    if reason := _unread(entries):
        raise ModelError(f"{path}: {reason}")
    if problems := [*_options(entries, options, num_shard)]:
        raise ConfigError("; ".join(problems))
    try:
        return parsed(ask(directory), directory)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: bad entry {error}") from error


def _unread(entries: Mapping[str, Any]) -> str | None:
    if not isinstance(kind := entries.get("model_type"), str):
        return f"model_type={shown(kind)} is no name"
    for name, value in entries.items():  # before anything is made of them
        if "layer" in name and isinstance(value, int) and value > MOST_LAYERS:
            return f"{name}={value} (at most {MOST_LAYERS})"
        if name.endswith("_size") and isinstance(value, int) and value > MOST:
            return f"{name}={value} (at most {MOST})"
    if reason := more_than_text(entries):
        return reason
    if stored := entries.get("quantization_config"):
        how = stored.get("quant_method") if isinstance(stored, Mapping) else stored
        return f"its weights are quantised already (quantization_config, {how}), which only families of our own can be"
    return None


def _options(entries: Mapping[str, Any], options: ServerConfig, num_shard: int) -> list[str]:
    how, problems = _HOW.format(kind=entries.get("model_type")), []
    if num_shard != 1:
        problems.append(f"num_shard={num_shard}: {how}, which cannot be split; num_shard=1 works")
    if overruled(options):
        problems.append(
            f"rope_scaling, rope_factor: {how}, whose positions are those of its config.json; leave them out"
        )
    return problems


def _group(layer: Layer) -> CacheGroup:
    return CacheGroup(CacheKind.FULL) if layer.window is None else CacheGroup(CacheKind.WINDOW, layer.window)
