"""The tensors that a description wants of a checkpoint, and whether a checkpoint has them. Stdlib only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Container, Iterator, Mapping, Sequence

from tgi_server.errors import ModelError
from tgi_server.models.description import Description, Shape
from tgi_server.models.files import TensorInfo
from tgi_server.models.spec import BlockSpec, ModelSpec, NormSpec, Source

FLOATS = ("F16", "BF16", "F32", "F64")
MOST_TOLD = 5
"""Tensors at fault that a message names."""


def check(spec: Description, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise ModelError, naming what is wrong, unless a checkpoint that is not quantised is as the description says."""
    problems = [*_wrong(spec, tensors), *_more_layers(spec, tensors)]
    if problems:
        raise ModelError(f"the checkpoint is not as its config.json says: {listed(problems)}")


def listed(problems: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f"; and {len(problems) - MOST_TOLD} more" if len(problems) > MOST_TOLD else ""
    return "; ".join(problems[:MOST_TOLD]) + more


def expected(spec: ModelSpec) -> Iterator[tuple[str, Shape]]:
    """Each tensor, without prefix, and its shape. Of learned positions the rows are the fewest that will do."""
    hidden, own, head = spec.hidden_size, spec.embedding, spec.head
    yield f"{own.name}.weight", (spec.vocab_size, hidden)
    if own.positions:
        yield f"{own.positions}.weight", (own.first_position + (spec.max_positions or 1), hidden)
    yield from _norm(own.norm, hidden)
    yield from _norm(spec.norm, hidden)
    if head.name:
        yield f"{head.name}.weight", (spec.vocab_size, hidden)
        if head.bias:
            yield f"{head.name}.bias", (spec.vocab_size,)
    for block in spec.blocks:
        yield from _block(block, hidden)


def found(name: str, prefixes: Sequence[str], tensors: Container[str]) -> str | None:
    """The name under which a checkpoint has a tensor; None when it has none."""
    return next((full for full in (*(prefix + name for prefix in prefixes), name) if full in tensors), None)


def fits(shape: Shape, name: str, wanted: Shape, spec: Description) -> bool:
    """Whether a tensor may have this shape."""
    return shape == wanted or (name == spec.longer and shape[1:] == wanted[1:] and shape >= wanted)


def read_by(spec: Description, tensors: Collection[str]) -> Iterator[str]:
    """The tensors of a checkpoint that are read, by their names there; all where the description has no names."""
    known = [found(name, spec.prefixes, tensors) for name, _ in spec.tensors()]
    yield from (name for name in known if name is not None) if known else tensors


def _wrong(spec: Description, tensors: Mapping[str, TensorInfo]) -> Iterator[str]:
    for name, shape in spec.tensors():
        full = found(name, spec.prefixes, tensors)
        if full is None:
            yield f"tensor {spec.prefixes[0]}{name} is missing"
            continue
        has = tensors[full]
        if not fits(has.shape, name, shape, spec):
            yield f"tensor {full} has the shape {list(has.shape)}, {list(shape)} was expected"
        elif has.dtype not in FLOATS:
            yield f"tensor {full} is of the type {has.dtype}; {', '.join(FLOATS)} are served"


def _more_layers(spec: Description, tensors: Mapping[str, TensorInfo]) -> Iterator[str]:
    """Layers beyond those of the description, which would be left out."""
    layers = spec.layers()
    if layers is None:
        return
    before, count = layers
    prefixes = "|".join(map(re.escape, spec.prefixes))
    layer = re.compile(rf"(?:{prefixes}){re.escape(before)}\.(\d+)\.")
    numbers = {int(match[1]) for name in tensors if (match := layer.match(name))}
    if beyond := sorted(n for n in numbers if n >= count):
        yield f"it has a layer {beyond[0]}, and config.json counts {count}"


def _block(block: BlockSpec, hidden: int) -> Iterator[tuple[str, Shape]]:
    attention, mlp = block.attention, block.mlp
    fused: dict[str, list[Source]] = defaultdict(list)
    for source in (attention.query, attention.key, attention.value, mlp.gate, mlp.up):
        if source is not None:
            fused[source.name].append(source)
    for sources in fused.values():
        yield from _linear(sources[0], (sum(source.size for source in sources), hidden))
    for source in (attention.output, mlp.down):
        yield from _linear(source, (hidden, source.size))
    for norm in (block.attention_norm, block.mlp_norm, block.attention_post, block.mlp_post):
        yield from _norm(norm, hidden)
    for norm, heads in ((attention.query_norm, attention.query), (attention.key_norm, attention.key)):
        yield from _norm(norm, heads.size if attention.normed_together else heads.width)
    if attention.sinks:
        yield attention.sinks, (attention.query.units,)


def _linear(source: Source, shape: tuple[int, int]) -> Iterator[tuple[str, Shape]]:
    """Of `[out, in]`."""
    yield f"{source.name}.weight", shape[::-1] if source.transposed else shape
    if source.bias:
        yield f"{source.name}.bias", shape[:1]


def _norm(norm: NormSpec | None, size: int) -> Iterator[tuple[str, Shape]]:
    if norm is not None and norm.kind != "identity" and norm.weighted:
        yield f"{norm.name}.weight", (size,)
        if norm.bias:
            yield f"{norm.name}.bias", (size,)
