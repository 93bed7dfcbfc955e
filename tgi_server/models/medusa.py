"""Medusa heads (arXiv:2401.10774): which tensors of a checkpoint guess tokens ahead. Stdlib only.

Heads come in a checkpoint of their own, whose config.json says little but which model they are for, or with that
model's weights. How many there are is counted: configurations in the wild say 2 and hold 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tgi_server.errors import ConfigError, FitError, ModelError
from tgi_server.models.description import Description
from tgi_server.models.files import TensorInfo, headers, json_object, tensors
from tgi_server.models.tensors import listed
from tgi_server.quantize.base import FLOATS

CONFIG, WEIGHTS, PICKLE = "config.json", "medusa_lm_head.safetensors", "medusa_lm_head.pt"
_COUNT, _BASE = "medusa_num_heads", "base_model_name_or_path"
_TENSOR = re.compile(
    r"(?P<prefix>(?:[^.]+\.)*?)(?P<head>[0-9]{1,4})\.(?P<layer>[0-9]{1,4})\.(?:(?P<linear>linear)\.(?:weight|bias)|weight)"
)
_INSIDE = "medusa"
"""Part of the names of modules that hold heads among a model's own weights."""
_WITHOUT = "speculate=0 serves the model without them"
_NO_MODEL = (None, "", "medusa")
"""What model_type is in the config.json of heads alone."""


@dataclass(frozen=True)
class Heads:
    """Heads that fit a model. Head `n` guesses the token `n + 2` places behind the last one that the model has read.

    Each has some layers `x + SiLU(linear(x))`, then a projection to scores over the vocabulary.

    Attributes:
        tensors: theirs, by name.
        prefix: of all these names.
        count: heads.
        layers: of each head.
        shared: whether the model's own head is their projection.
    """

    tensors: Mapping[str, TensorInfo]
    prefix: str
    count: int
    layers: int
    shared: bool

    def bytes(self, item: int, most: int | None) -> int:
        """What the first `most` of them take in memory, in a serving dtype of `item` bytes; projections have 8 bits."""
        count = self.count if most is None else most
        layers = [self.tensors[f"{self.layer(0, layer)}.weight"] for layer in range(self.layers)]
        own = [] if self.shared else [self.tensors[f"{self.projection(0)}.weight"]]
        return count * (item * sum(prod(one.shape) for one in layers) + sum(prod(one.shape) for one in own))

    def layer(self, head: int, layer: int) -> str:
        """The name of a layer, without `.weight`."""
        return f"{self.prefix}{head}.{layer}.linear"

    def projection(self, head: int) -> str:
        """The same of a projection; only where they are not shared."""
        return f"{self.prefix}{head}.{self.layers}"


def announced(directory: Path) -> bool:
    """Whether config.json says that there are heads."""
    return _COUNT in _config(directory)


def is_alone(directory: Path) -> bool:
    """Whether a directory holds heads and no model."""
    config = _config(directory)
    return _COUNT in config and _BASE in config and config.get("model_type") in _NO_MODEL


def base(directory: Path) -> tuple[str, None]:
    """The model that heads are for, by its name; raises ModelError."""
    named = json_object(directory / CONFIG).get(_BASE)
    if not isinstance(named, str) or not named:
        raise ModelError(f"{directory / CONFIG}: {_BASE}={named!r} (text is expected)")
    return named, None


def names(directory: Path) -> list[str]:
    """The tensors among a model's weights that belong to heads; none unless config.json announces them."""
    return [name for name in headers(directory) if _INSIDE in name] if announced(directory) else []


def read(directory: Path, spec: Description) -> Heads:
    """The heads in a directory, for a model.

    Raises:
        ModelError: a file is damaged.
        FitError: they are not for this model; names the tensors that do not fit.
    """
    heads = counted(directory)
    if problems := listed(_wrong(heads, spec)):
        raise FitError(f"the Medusa heads in {directory} do not fit their base model: {problems}; {_WITHOUT}")
    return heads


def counted(directory: Path) -> Heads:
    """The heads in a directory, in a file of their own or among the model's weights, whatever their shapes."""
    file = directory / WEIGHTS
    own = tensors(file) if file.is_file() else {n: t for n, t in headers(directory).items() if _INSIDE in n}
    found = [match for name in own if (match := _TENSOR.fullmatch(name))]
    if not found:
        raise FitError(f"{directory} has no Medusa heads, that is tensors such as 0.0.linear.weight; {_WITHOUT}")
    return _counted(own, found)


def check(heads: Heads, speculate: int | None) -> None:
    """Raise ConfigError where more guesses are wanted than there are heads."""
    if speculate is not None and speculate > heads.count:
        raise ConfigError(
            f"speculate={speculate}: the checkpoint has {heads.count} Medusa heads; speculate={heads.count} works, and "
            "is what is done when it is left out"
        )


def _counted(own: Mapping[str, TensorInfo], found: Sequence[re.Match[str]]) -> Heads:
    """What there is by the first prefix; numbers that are left out show as tensors that are missing."""
    count = len({match["head"] for match in found})
    layers = len({match["layer"] for match in found if match["linear"]})
    return Heads(own, found[0]["prefix"], count, layers, all(match["linear"] for match in found))


def _wrong(heads: Heads, spec: Description) -> Iterator[str]:
    wanted = dict(_wanted(heads, spec))
    for name, shape in wanted.items():
        has = heads.tensors.get(name)
        if has is None:
            yield f"tensor {name} is missing"
        elif has.shape != shape:
            yield f"tensor {name} has the shape {list(has.shape)}, {list(shape)} was expected"
        elif has.dtype not in FLOATS:
            yield f"tensor {name} is of the type {has.dtype}; {', '.join(FLOATS)} are served"
    yield from (f"tensor {name} is part of no head as known here" for name in heads.tensors if name not in wanted)


def _wanted(heads: Heads, spec: Description) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = spec.hidden_size
    for head in range(heads.count):
        for layer in range(heads.layers):
            yield f"{heads.layer(head, layer)}.weight", (width, width)
            yield f"{heads.layer(head, layer)}.bias", (width,)
        if not heads.shared:
            yield f"{heads.projection(head)}.weight", (spec.vocab_size, width)


def _config(directory: Path) -> dict[str, Any]:
    """config.json; nothing where it is missing or damaged, which others tell."""
    try:
        return json_object(directory / CONFIG)
    except (ModelError, OSError):
        return {}
