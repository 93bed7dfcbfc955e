"""A model's config.json, read with errors that name the file and the entry. Stdlib only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tgi_server.config.schema import RopeOptions
from tgi_server.errors import ModelError
from tgi_server.rope import kinds
from tgi_server.rope.base import Rope

MOST_LAYERS = 10_000


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
        try:
            value = self.first(*names)
        except KeyError:
            if default is None:
                raise
            return default
        if isinstance(value, bool) or int(value) != value or value <= 0:
            raise ValueError(f"{names[0]}={value!r} (a whole number above 0 is expected)")
        return int(value)

    def layers(self, *names: str) -> int:
        """How many layers there are; no model has as many as would take long to describe."""
        count = self.whole(*(names or ("num_hidden_layers",)))
        if count > MOST_LAYERS:
            raise ValueError(f"{(names or ('num_hidden_layers',))[0]}={count} (at most {MOST_LAYERS})")
        return count

    def number(self, name: str, default: float | None = None) -> float:
        """An entry as a number."""
        value = self.get(name, default)
        if value is None:
            raise KeyError(name)
        return float(value)

    def one_of(self, name: str, choices: Mapping[Any, Any], default: Any = None) -> Any:
        """What an entry stands for. Raises ValueError for one that is not among `choices`."""
        value = self.get(name, default)
        if value not in choices:
            raise ValueError(f"{name}={value!r} (served: {', '.join(map(str, choices))})")
        return choices[value]

    def activation(self, *names: str, default: str) -> str:
        """An activation, by its name in `kernels.operations`."""
        name = next((name for name in names if self.entries.get(name) is not None), names[0])
        chosen: str = self.one_of(name, _ACTIVATIONS, default)
        return chosen

    def windows(self, layers: int, default: Sequence[int | None] | None = None) -> Sequence[int | None]:
        """The window of each layer: of those that `layer_types` calls sliding, or as `default` has it."""
        types = self.get("layer_types")
        if types is None:
            return default if default is not None else [None] * layers
        if len(types) != layers:
            raise ValueError(f"layer_types has {len(types)} entries for {layers} layers")
        if strange := set(types) - {"full_attention", "sliding_attention"}:
            raise ValueError(f"layer_types has {min(strange)!r} (served: full_attention, sliding_attention)")
        return [self.whole("sliding_window") if kind == "sliding_attention" else None for kind in types]

    def rope(
        self, head_width: int, layer_type: str | None = None, theta: float | None = None, partial: float | None = None
    ) -> Rope:
        """The rotary positions; see `rope.kinds.read`."""
        return kinds.read(self.entries, head_width, self._rope_options, layer_type, theta, partial)

    def max_positions(self, rope: Rope) -> int:
        """The longest text, as the rotary positions stretch it; where they differ between layers, they do not."""
        written = self.whole("max_position_embeddings")
        by_layer = any(isinstance(entry, Mapping) for entry in self.get("rope_parameters", {}).values())
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


def end_of_sequence(directory: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """All end-of-sequence ids: those of generation_config.json when it has any, else those of config.json (D11)."""
    path = directory / "generation_config.json"
    entry = read_json(path).get("eos_token_id") if path.exists() else None
    if entry is None:
        entry = config.get("eos_token_id")
    if entry is None:
        return ()
    return tuple(int(i) for i in (entry if isinstance(entry, list) else [entry]))
