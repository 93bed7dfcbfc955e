"""The tensors that a description wants of a checkpoint, and whether a checkpoint has them. Stdlib only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from tgi_server.errors import ModelError
from tgi_server.models import mxfp4
from tgi_server.models.description import Description, Shape
from tgi_server.models.files import TensorInfo
from tgi_server.models.spec import BlockSpec, ExpertsSpec, MlpSpec, ModelSpec, NormSpec, Source

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
    before, count = spec.layers()
    prefixes = "|".join(map(re.escape, spec.prefixes))
    layer = re.compile(rf"(?:{prefixes}){re.escape(before)}\.(\d+)\.")
    numbers = {int(match[1]) for name in tensors if (match := layer.match(name))}
    if beyond := sorted(n for n in numbers if n >= count):
        yield f"it has a layer {beyond[0]}, and config.json counts {count}"


def _block(block: BlockSpec, hidden: int) -> Iterator[tuple[str, Shape]]:
    attention, mlp = block.attention, block.mlp
    yield from _columns((attention.query, attention.key, attention.value), hidden)
    yield from _linear(attention.output, (hidden, attention.output.size))
    yield from _mlp(mlp, hidden) if isinstance(mlp, MlpSpec) else _experts(mlp, hidden)
    for norm in (block.attention_norm, block.mlp_norm, block.attention_post, block.mlp_post):
        yield from _norm(norm, hidden)
    for norm, heads in ((attention.query_norm, attention.query), (attention.key_norm, attention.key)):
        yield from _norm(norm, heads.size if attention.normed_together else heads.width)
    if attention.sinks:
        yield attention.sinks, (attention.query.units,)


def _mlp(mlp: MlpSpec, hidden: int, experts: int = 0) -> Iterator[tuple[str, Shape]]:
    yield from _columns([source for source in (mlp.gate, mlp.up) if source is not None], hidden, experts)
    yield from _linear(mlp.down, (hidden, mlp.down.size), experts)


def _experts(spec: ExpertsSpec, hidden: int) -> Iterator[tuple[str, Shape]]:
    """Experts that share tensors want the same ones."""
    for source in (spec.router, spec.shared_gate):
        if source is not None:
            yield from _linear(source, (source.size, hidden))
    if spec.shared is not None:
        yield from _mlp(spec.shared, hidden)
    count = len(spec.experts)
    yield from dict.fromkeys(tensor for expert in spec.experts for tensor in _mlp(expert, hidden, count))


def _columns(sources: Iterable[Source], hidden: int, experts: int = 0) -> Iterator[tuple[str, Shape]]:
    """Layers that read the stream, some of them in one tensor."""
    fused: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        fused[source.name].append(source)
    for own in fused.values():
        yield from _linear(own[0], (sum(source.size for source in own), hidden), experts)


def _linear(source: Source, shape: tuple[int, int], experts: int = 0) -> Iterator[tuple[str, Shape]]:
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


def _norm(norm: NormSpec | None, size: int) -> Iterator[tuple[str, Shape]]:
    if norm is not None and norm.kind != "identity" and norm.weighted:
        yield f"{norm.name}.weight", (size,)
        if norm.bias:
            yield f"{norm.name}.bias", (size,)
