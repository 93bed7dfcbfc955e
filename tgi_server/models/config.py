"""A model's config.json, read with errors that name the file and the entry. Stdlib only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tgi_server.config.schema import RopeOptions
from tgi_server.errors import ModelError
from tgi_server.rope import kinds
from tgi_server.rope.base import Rope

_SENSES = ("vision_config", "audio_config", "image_config", "speech_config")
"""Entries of models that read more than text, whatever their type."""
MOST_LAYERS = 10_000
MOST = 100_000_000
"""Greatest size of anything."""


class ModelConfig:
    """Entries of config.json, for a family to describe a model by.

    All readers raise KeyError for a missing entry and ValueError for one that cannot be; `families.read_spec` makes
    errors for people of them.
    """

    def __init__(self, entries: Mapping[str, Any], rope_options: RopeOptions | None = None) -> None:
        self.entries = entries
        self._rope_options = rope_options

    def changed(self, **entries: Any) -> ModelConfig:
        """The same with other entries."""
        return ModelConfig({**self.entries, **entries}, self._rope_options)

    def get(self, name: str, default: Any = None) -> Any:
        """An entry as it is; the default where it is missing or null."""
        value = self.entries.get(name)
        return default if value is None else value

    def first(self, *names: str) -> Any:
        """The first of these entries that is there."""
        for name in names:
            if self.entries.get(name) is not None:
                return self.entries[name]
        raise KeyError(names[0])

    def whole(self, *names: str, default: int | None = None) -> int:
        """The first of these entries that is there, as a whole number above 0."""
        name = next((name for name in names if self.entries.get(name) is not None), names[0])
        value = self.entries.get(name, default)
        if value is None and default is None:
            raise KeyError(names[0])
        value = default if value is None else value
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value <= MOST
            or int(value) != value
        ):
            raise ValueError(f"{name}={shown(value)} (a whole number from 1 to {MOST} is expected)")
        return int(value)

    def token(self, *names: str, default: int) -> int:
        """The first of these entries that is there, as a token id."""
        name = next((name for name in names if self.entries.get(name) is not None), names[0])
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MOST:
            raise ValueError(f"{name}={shown(value)} (a token id is expected)")
        return value

    def head_width(self, hidden: int, heads: int) -> int:
        """Of heads that share the hidden size."""
        if hidden % heads:
            raise ValueError(f"a hidden size of {hidden} does not divide into {heads} attention heads")
        return hidden // heads

    def layers(self, *names: str) -> int:
        """How many layers there are; no model has as many as would take long to describe."""
        count = self.whole(*(names or ("num_hidden_layers",)))
        if count > MOST_LAYERS:
            raise ValueError(f"{(names or ('num_hidden_layers',))[0]}={count} (at most {MOST_LAYERS})")
        return count

    def number(self, name: str, default: float | None = None, least: float = 0.0) -> float:
        """An entry as a number that is not below `least`."""
        value = self.get(name, default)
        if value is None:
            raise KeyError(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise ValueError(f"{name}={shown(value)} (a number of at least {least:g} is expected)")
        return float(value)

    def bound(self, name: str, default: float | None = None) -> float | None:
        """An entry as a number above 0, or none where it is null; the default where it is missing."""
        if self.entries.get(name, default) is None:
            return None
        return self.number(name, default, least=1e-30)

    def flag(self, name: str, default: bool = False) -> bool:
        """An entry that is true or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{name}={shown(value)} (true or false is expected)")
        return value

    def one_of(self, name: str, choices: Mapping[str, str], default: str) -> str:
        """What an entry stands for. Raises ValueError for one that is not among `choices`."""
        value = self.get(name, default)
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name}={shown(value)} (served: {', '.join(choices)})")
        return choices[value]

    def activation(self, *names: str, default: str) -> str:
        """An activation, by its name in `kernels.operations`."""
        name = next((name for name in names if self.entries.get(name) is not None), names[0])
        return self.one_of(name, _ACTIVATIONS, default)

    def windows(self, layers: int, default: Sequence[int | None] | None = None) -> Sequence[int | None]:
        """The window of each layer: of those that `layer_types` calls sliding, or as `default` has it."""
        types = self.get("layer_types")
        if types is None:
            return default if default is not None else [None] * layers
        if not isinstance(types, list) or len(types) != layers:
            raise ValueError(f"layer_types={shown(types)} (one entry for each of {layers} layers is expected)")
        if strange := [kind for kind in types if kind not in ("full_attention", "sliding_attention")]:
            raise ValueError(f"layer_types has {shown(strange[0])} (served: full_attention, sliding_attention)")
        return [self.whole("sliding_window") if kind == "sliding_attention" else None for kind in types]

    def rope(
        self, head_width: int, layer_type: str | None = None, theta: float | None = None, partial: float | None = None
    ) -> Rope:
        """The rotary positions; see `rope.kinds.read`."""
        return kinds.read(self.entries, head_width, self._rope_options, layer_type, theta, partial)

    def rope_by_layer_type(self, theta: float, local_theta: float) -> ModelConfig:
        """With the entries that say it before transformers 5 in the form of later ones: a scaling is that of layers
        without a window. Both bases are those where nothing is said."""
        if self.get("rope_parameters"):
            return self
        whole = {**kinds.table(self.entries, "rope_scaling"), "rope_theta": self.number("rope_theta", theta)}
        local = {"rope_type": "default", "rope_theta": self.number("rope_local_base_freq", local_theta)}
        return self.changed(rope_parameters={"full_attention": whole, "sliding_attention": local})

    def max_positions(self, rope: Rope) -> int:
        """The longest text, as the rotary positions stretch it; where they differ between layers, they do not."""
        written = self.whole("max_position_embeddings")
        by_layer = any(isinstance(entry, Mapping) for entry in kinds.table(self.entries, "rope_parameters").values())
        return written if by_layer else rope.longest(written)


_ACTIVATIONS = {
    "silu": "SILU", "swish": "SILU", "gelu": "GELU", "gelu_python": "GELU", "gelu_new": "GELU_TANH",
    "gelu_fast": "GELU_TANH", "gelu_pytorch_tanh": "GELU_TANH", "relu": "RELU",
}  # fmt: skip
"""How configurations spell the activations."""


def read_json(path: Path) -> dict[str, Any]:
    """The object a file holds; raises ModelError for a file that holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"cannot read {path}: it holds no JSON object")
    return content


def how_to_generate(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Entries about the ends of a text: those of generation_config.json when it has any, else of config.json (D11)."""
    path = directory / "generation_config.json"
    written = read_json(path) if path.exists() else {}
    names = ("eos_token_id", "decoder_start_token_id")
    return {name: config.get(name) if written.get(name) is None else written[name] for name in names}


def more_than_text(config: Mapping[str, Any]) -> str | None:
    """Why a model that reads more than text is not served; None for others."""
    senses = [name for name in _SENSES if config.get(name)]
    kind = config.get("model_type")
    return f"model_type {kind!r} reads more than text ({', '.join(senses)}), which is not served" if senses else None


def end_of_sequence(entry: object) -> tuple[int, ...]:
    """The end-of-sequence ids of an entry."""
    if entry is None:
        return ()
    ids = entry if isinstance(entry, list) else [entry]
    if strange := [id for id in ids if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < MOST]:
        raise ValueError(f"eos_token_id={shown(strange[0])} (token ids are expected)")
    return tuple(ids)


def shown(value: object) -> str:
    """A value in a message, which is not to be longer than a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
