"""The tensors that a description wants of a checkpoint, and whether a checkpoint has them. Stdlib only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence

from tgi_server.errors import ModelError
from tgi_server.models import mxfp4
from tgi_server.models.description import Description, Shape
from tgi_server.models.files import TensorInfo
from tgi_server.models.spec import (
    AttentionSpec,
    BlockSpec,
    EmbeddingSpec,
    ExpertsSpec,
    HeadSpec,
    MlpSpec,
    ModelSpec,
    NormSpec,
    Source,
)

FLOATS = ("F16", "BF16", "F32", "F64")
BYTES = ("U8",)
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
    yield from embedding(spec, spec.embedding)
    yield from norm(spec.norm, spec.hidden_size)
    yield from head(spec, spec.head)
    for block in spec.blocks:
        yield from _block(block, spec.hidden_size)


def embedding(spec: Description, own: EmbeddingSpec) -> Iterator[tuple[str, Shape]]:
    """Token vectors, learned positions and their norm."""
    yield f"{own.name}.weight", (spec.vocab_size, spec.hidden_size)
    if own.positions:
        yield f"{own.positions}.weight", (own.first_position + (spec.max_positions or 1), spec.hidden_size)
    yield from norm(own.norm, spec.hidden_size)


def head(spec: Description, own: HeadSpec) -> Iterator[tuple[str, Shape]]:
    """What a head has of its own for sure."""
    if own.name and not own.or_tied:
        yield f"{own.name}.weight", (spec.vocab_size, spec.hidden_size)
    if own.name and own.bias:
        yield f"{own.name}.bias", (spec.vocab_size,)


def packed(spec: ModelSpec) -> dict[str, int]:
    """The tensors of `expected` that hold bytes, and how many numbers of the model each byte stands for."""
    mixtures = (block.mlp for block in spec.blocks if isinstance(block.mlp, ExpertsSpec))
    experts = (expert for mixture in mixtures for expert in mixture.experts)
    sources = {source for e in experts for source in (e.gate, e.up, e.down) if source is not None and source.mxfp4}
    return {source.tensor(kind): numbers for source in sources for kind, numbers in (("blocks", 2), ("scales", 0))}


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
    packed = spec.packed()
    for name, shape in spec.tensors():
        types = BYTES if name in packed else FLOATS
        full = found(name, spec.prefixes, tensors)
        if full is None:
            yield f"tensor {spec.prefixes[0]}{name} is missing"
            continue
        has = tensors[full]
        if not fits(has.shape, name, shape, spec):
            yield f"tensor {full} has the shape {list(has.shape)}, {list(shape)} was expected"
        elif has.dtype not in types:
            yield f"tensor {full} is of the type {has.dtype}; {', '.join(types)} are served"


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
    yield from branch(block.attention, hidden)
    yield from branch(block.mlp, hidden) if isinstance(block.mlp, MlpSpec) else _experts(block.mlp, hidden)
    for own in (block.attention_norm, block.mlp_norm, block.attention_post, block.mlp_post):
        yield from norm(own, hidden)


def branch(spec: AttentionSpec | MlpSpec, hidden: int, experts: int = 0) -> Iterator[tuple[str, Shape]]:
    """What attention or an MLP has, but for the norm before it; `experts` as in `linear`."""
    if isinstance(spec, MlpSpec):
        yield from columns((spec.gate, spec.up), hidden, experts)
        yield from linear(spec.down, (hidden, spec.down.size), experts)
        return
    yield from columns((spec.query, spec.key, spec.value), hidden)
    yield from linear(spec.output, (hidden, spec.output.size))
    for own, heads in ((spec.query_norm, spec.query), (spec.key_norm, spec.key)):
        yield from norm(own, heads.size if spec.normed_together else heads.width)
    if spec.sinks:
        yield spec.sinks, (spec.query.units,)
    if spec.relative:
        yield f"{spec.relative.name}.weight", (spec.relative.buckets, spec.query.units)


def _experts(spec: ExpertsSpec, hidden: int) -> Iterator[tuple[str, Shape]]:
    """Experts that share tensors want the same ones."""
    for source in (spec.router, spec.shared_gate):
        if source is not None:
            yield from linear(source, (source.size, hidden))
    if spec.shared is not None:
        yield from branch(spec.shared, hidden)
    count = len(spec.experts)
    yield from dict.fromkeys(tensor for expert in spec.experts for tensor in branch(expert, hidden, count))


def columns(sources: Iterable[Source | None], hidden: int, experts: int = 0) -> Iterator[tuple[str, Shape]]:
    """Layers that read the stream, some of them in one tensor."""
    fused: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        if source is not None:
            fused[source.name].append(source)
    for own in fused.values():
        yield from linear(own[0], (sum(source.size for source in own), hidden), experts)


def linear(source: Source, shape: tuple[int, int], experts: int = 0) -> Iterator[tuple[str, Shape]]:
    """Of `[out, in]`; with `experts`, of as many such in one tensor where the source says so."""
    all_of = () if source.expert is None else (experts,)
    if source.mxfp4:
        blocks = (*all_of, shape[0], -(-shape[1] // mxfp4.BLOCK))
        yield source.tensor("blocks"), (*blocks, mxfp4.BYTES)
        yield source.tensor("scales"), blocks
    else:
        yield source.tensor("weight"), (*all_of, *(shape[::-1] if source.transposed else shape))
    if source.bias:
        yield source.tensor("bias"), (*all_of, shape[0])


def norm(spec: NormSpec | None, size: int) -> Iterator[tuple[str, Shape]]:
    """The weights of a norm of rows of `size`."""
    if spec is not None and spec.kind != "identity" and spec.weighted:
        yield f"{spec.name}.weight", (size,)
        if spec.bias:
            yield f"{spec.name}.bias", (size,)
