"""docs/models.md, made of what the families' tests run with: `python -m tests.families.table`.

A new family appears by its tests alone. What a description says that no word is known for here is left out.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import tests.families as package
from tgi_server.models.config import read_json
from tgi_server.models.families import families, read_spec

ROOT = Path(__file__).parents[2]
HEAD = """\
# Models

Written by `scripts/write-models` out of what the tests of the families run with (`tests/families`), and compared with
it by a test.

Each row is a file of `tgi_server/models/families`, which serves checkpoints of these `model_type`s. The features are
those of the tested checkpoints: small random ones, whose logits are within 1e-4 (of the largest, in float32) of the
reference's for prompts of different lengths at once, and whose greedy text is the same: with recorded kernels, kernel
by kernel, in plain torch, with the prompts in chunks, and on each of these numbers of shards.
The reference is that float32 module of transformers {version}, without a cache; where there is none, a few lines of
torch in the test. [adding-a-model.md](adding-a-model.md) adds a row.

| family | `model_type` | features | shards tested | checked against |
|---|---|---|---|---|
"""
WORDS = {
    ("AttentionSpec", "window"): "sliding windows",
    ("AttentionSpec", "softcap"): "capped scores",
    ("AttentionSpec", "slopes"): "ALiBi",
    ("AttentionSpec", "relative"): "biases of distances",
    ("AttentionSpec", "sinks"): "attention sinks",
    ("AttentionSpec", "query_norm"): "norms of queries and keys",
    ("EmbeddingSpec", "positions"): "learned positions",
    ("ExpertsSpec", "experts"): "mixture of experts",
    ("ExpertsSpec", "shared"): "shared expert",
    ("MlpSpec", "gate"): "gated MLP",
    ("BlockSpec", "parallel"): "MLP beside attention",
    ("BlockSpec", "attention_post"): "norms of what is added",
    ("LayerSpec", "cross"): "encoder and decoder",
    ("HeadSpec", "softcap"): "capped logits",
    ("HeadSpec", "by_direction"): "head of directions",
    ("Source", "transposed"): "transposed matrices",
}
"""Of fields that are set, in this order in the table."""


@dataclass
class Row:
    """A family: everything that any of its tests says."""

    types: set[str] = field(default_factory=set)
    features: set[str] = field(default_factory=set)
    shards: set[int] = field(default_factory=lambda: {1})
    references: set[str] = field(default_factory=set)


def markdown() -> str:
    """The whole page."""
    found = re.search(r"^transformers==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert found
    return HEAD.replace("{version}", found[1]) + "".join(
        f"| `{name}` | {_listed(f'`{kind}`' for kind in row.types)} | {', '.join(_ordered(row.features))} "
        f"| {', '.join(map(str, sorted(row.shards)))} | {_listed(row.references)} |\n"
        for name, row in sorted(rows().items())
    )


@cache
def rows() -> dict[str, Row]:
    """By the name of the family's file; of `Row()` where no test has it."""
    found: dict[str, Row] = {}
    for kind, describe in families().items():
        found.setdefault(_family(describe), Row()).types.add(kind)
    for module in _test_modules():
        for test in _classes(module):
            _add(found, test, module)
    return found


def _test_modules() -> Iterator[ModuleType]:
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("test_"):
            yield importlib.import_module(f"{package.__name__}.{module.name}")


def _classes(module: ModuleType) -> Iterator[Any]:
    """Those that pytest collects and that make a checkpoint of a family; what has none is not shared by shards."""
    for name, thing in vars(module).items():
        if name.startswith("Test") and hasattr(thing, "shards") and thing.__module__ == module.__name__:
            yield thing


def _add(found: dict[str, Row], test: Any, module: ModuleType) -> None:
    class Once(test):  # type: ignore[misc]
        @classmethod
        @cache
        def make(cls) -> Any:
            return super().make()

    with tempfile.TemporaryDirectory() as directory:
        Once.save(Path(directory))
        kind = read_json(Path(directory, "config.json"))["model_type"]
        row = found[_family(families()[kind])]
        row.features |= set(_features(read_spec(Path(directory))))
    row.shards |= set(test.shards)
    reference = type(Once.make())
    file = module.__name__.rpartition(".")[2]
    foreign = reference.__module__.startswith("transformers.")
    own = f"[torch](../tests/families/{file}.py)"
    row.references.add(f"`{reference.__name__}`" if foreign else own)


def _family(describe: Any) -> str:
    return str(describe.__module__.rpartition(".")[2])


def _features(spec: Any) -> Iterator[str]:
    for thing in _parts(spec):
        kind = type(thing).__name__
        yield from (WORDS[kind, one.name] for one in fields(thing) if _told(thing, one.name))
        if kind == "AttentionSpec":
            yield from _attention(thing)
        if kind == "MlpSpec" and thing.gate is not None and thing.gate.name == thing.up.name:
            yield "fused gates"
    if getattr(spec, "head", None) is not None and getattr(spec.head, "name", None) is None:
        yield "tied head"
    if any(past.states for past in spec.pasts if hasattr(past, "states")):
        yield "states"


def _told(thing: Any, name: str) -> bool:
    """Whether there is a word for this field, and it is set."""
    value = getattr(thing, name)
    return (type(thing).__name__, name) in WORDS and value is not None and value is not False


def _attention(attention: Any) -> Iterator[str]:
    heads, shared = attention.query.units, attention.key.units
    if shared < heads:
        yield "one key/value head" if shared == 1 else "grouped queries"
    if attention.query.name == attention.key.name:
        yield "fused queries, keys and values"
    if attention.rope is not None:
        kind = attention.rope.names[0]
        yield "rotary positions" if kind == "default" else f"rotary positions ({kind})"
        if attention.rope.turned < attention.query.width:
            yield "partly turned heads"


def _parts(thing: Any) -> Iterator[Any]:
    """A description and all that it is made of."""
    if is_dataclass(thing):
        yield thing
        for one in fields(thing):
            yield from _parts(getattr(thing, one.name))
    elif isinstance(thing, tuple):
        for item in thing:
            yield from _parts(item)


def _ordered(features: set[str]) -> list[str]:
    known = list(WORDS.values())
    return sorted(features, key=lambda word: (word in known and known.index(word) + 1, word))


def _listed(items: Any) -> str:
    return ", ".join(sorted(items))


if __name__ == "__main__":
    print(markdown(), end="")
