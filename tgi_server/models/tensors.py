"""The tensors that a description wants of a checkpoint, and whether a checkpoint has them. Stdlib only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from tgi_server.errors import ModelError
from tgi_server.models import mxfp4
from tgi_server.models.description import Description, LayerShape, Shape
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
from tgi_server.quantize.base import FLOATS, PLAIN, Stored, marks

BYTES = ("U8",)
_PACKED = (".qweight", ".weight_packed")
"""The ends of names of tensors that are never plain weights."""
_HARMLESS = re.compile(
    r"(.*\.)?(inv_freq|masked_bias|rotary_emb\.[a-z_]+|(attn|attention)\.bias|position_ids|num_batches_tracked"
    r"|lm_head\.weight|(encoder|decoder)\.embed_tokens\.weight|final_logits_bias|gptq_(bits|groupsize|checkpoint_format)"
    r"|.*\.(weight_shape|weight_format))"
)
"""Tensors that are not missed where they are not read: what older versions of the usual libraries saved although it
follows from config.json, and copies of the token vectors."""


def check(spec: Description, tensors: Mapping[str, TensorInfo], stored: Mapping[str, Stored] = PLAIN) -> None:
    """Raise ModelError, naming all that is wrong, unless a checkpoint is as described; `stored` by a method's reader.

    Wrong is what is missing or has another shape or type, layers beyond those of config.json, and a tensor that belongs
    to a module of which others are read, such as the bias of a layer that is described without: leaving it out would
    change every text. What else is there that nothing reads is only worth a warning (`unread`).
    """
    if (looked_for := not_quantised(spec, tensors, stored)) is not None:
        raise ModelError(f"the checkpoint has no quantised layer; it would have tensors such as {looked_for}")
    if (packed := next((name for name in tensors if name.endswith(_PACKED)), None)) and not marks(stored):
        raise ModelError(
            f"the checkpoint is quantised, as the tensor {packed} shows, but no file of it says how; name the method "
            "(quantize) and its bits and group_size"
        )
    problems = [*_wrong(spec, tensors, stored), *_more_layers(spec, tensors), *_siblings(spec, tensors, stored)]
    if problems:
        raise ModelError(f"the checkpoint is not as its config.json says: {listed(problems)}")


def not_quantised(spec: Description, tensors: Container[str], stored: Mapping[str, Stored]) -> str | None:
    """What a first quantised layer would have, for people, where none of the model is and one should be."""
    layers = [name.removesuffix("weight") for name, shape in spec.tensors() if isinstance(shape, LayerShape)]
    if not marks(stored) or not layers or any(is_quantised(layer, spec.prefixes, tensors, stored) for layer in layers):
        return None
    return ", ".join(f"{spec.prefixes[0]}{layers[0]}{suffix}" for suffix, one in stored.items() if not one.optional)


def is_quantised(layer: str, prefixes: Sequence[str], tensors: Container[str], stored: Mapping[str, Stored]) -> bool:
    """Whether the checkpoint has a layer in a method's own tensors; `layer` is its name with a dot."""
    return any(found(layer + suffix, prefixes, tensors) is not None for suffix in marks(stored))


def unread(spec: Description, tensors: Mapping[str, TensorInfo], stored: Mapping[str, Stored] = PLAIN) -> list[str]:
    """The tensors of a checkpoint that the model does not use and that it may miss: not those known to be harmless."""
    used = set(read_by(spec, tensors, stored))
    return condensed(name for name in tensors if name not in used and not _HARMLESS.fullmatch(name))


def listed(problems: Iterable[str]) -> str:
    """All of them in one line."""
    return "; ".join(condensed(problems))


def condensed(texts: Iterable[str]) -> list[str]:
    """Texts with names of tensors in them; those that differ in one number of a name only, as one: `h.{0..3,7}.mlp`."""
    found = [text.split(".") for text in texts]
    for slot in range(max(map(len, found), default=0)):
        groups: dict[tuple[str, ...], list[str]] = {}
        for words in found:
            varies = slot < len(words) and words[slot].isdecimal() and 0 < slot < len(words) - 1
            key = (*words[:slot], "*", *words[slot + 1 :]) if varies else tuple(words)
            groups.setdefault(key, []).append(words[slot] if varies else "")
        found = [[*key[:slot], _numbers(own), *key[slot + 1 :]] if own[0] else list(key) for key, own in groups.items()]
    return [".".join(words) for words in found]


def _numbers(words: Sequence[str]) -> str:
    """Numbers as ranges: {0..3,7}; a single one as it is."""
    numbers = sorted(set(map(int, words)))
    if len(numbers) == 1:
        return words[0]
    starts = [n for n in numbers if n - 1 not in numbers]
    stops = [n for n in numbers if n + 1 not in numbers]
    return "{" + ",".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, stops, strict=True)) + "}"


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


class Wanted(NamedTuple):
    """A tensor that is read, without prefix: which shapes it may have, the usual one for people, and which types."""

    name: str
    fits: Callable[[Shape], bool]
    shape: str
    types: tuple[str, ...] = FLOATS


def wanted(spec: Description, tensors: Container[str], stored: Mapping[str, Stored]) -> Iterator[Wanted]:
    """All tensors that are read of a checkpoint which stores its quantised layers so; none where `spec` has none."""
    packed = spec.packed()
    for name, shape in spec.tensors():
        layer = name.removesuffix("weight")
        if isinstance(shape, LayerShape) and is_quantised(layer, spec.prefixes, tensors, stored):
            yield from _quantised(layer, shape, spec.prefixes, tensors, stored)
        else:
            types = BYTES if name in packed else FLOATS
            yield Wanted(name, partial(fits, name=name, wanted=shape, spec=spec), str(list(shape)), types)


def _quantised(
    layer: str, shape: LayerShape, prefixes: Sequence[str], tensors: Container[str], stored: Mapping[str, Stored]
) -> Iterator[Wanted]:
    outputs, inputs = shape.size
    for suffix, one in stored.items():
        if not one.optional or found(layer + suffix, prefixes, tensors) is not None:
            fitting = partial(one.fits, outputs=outputs, inputs=inputs)
            yield Wanted(layer + suffix, fitting, one.shape(outputs, inputs), one.types)
    if found(f"{layer}bias", prefixes, tensors) is not None:  # some tools give one to all layers
        yield Wanted(f"{layer}bias", lambda shape: shape == (outputs,), f"[{outputs}]")


def read_by(spec: Description, tensors: Collection[str], stored: Mapping[str, Stored] = PLAIN) -> Iterator[str]:
    """The tensors of a checkpoint that are read, by their names there; all where the description has no names."""
    known = [found(one.name, spec.prefixes, tensors) for one in wanted(spec, tensors, stored)]
    yield from dict.fromkeys(name for name in known if name is not None) if known else tensors


def _wrong(spec: Description, tensors: Mapping[str, TensorInfo], stored: Mapping[str, Stored]) -> Iterator[str]:
    for one in wanted(spec, tensors, stored):
        full = found(one.name, spec.prefixes, tensors)
        if full is None:
            yield f"tensor {spec.prefixes[0]}{one.name} is missing"
            continue
        has = tensors[full]
        if not one.fits(has.shape):
            yield f"tensor {full} has the shape {list(has.shape)}, {one.shape} was expected"
        elif has.dtype not in one.types:
            yield f"tensor {full} is of the type {has.dtype}; {', '.join(one.types)} are served"


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


def _siblings(spec: Description, tensors: Mapping[str, TensorInfo], stored: Mapping[str, Stored]) -> Iterator[str]:
    """What is not read of modules of which other tensors are."""
    used = set(read_by(spec, tensors, stored))
    modules = {name.removesuffix(".weight") for name in used if name.endswith(".weight")}
    for name in tensors:
        module, _, kind = name.rpartition(".")
        if module in modules and name not in used:
            yield f"tensor {name} is there, but the layer is described without {kind}"


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
    elif all_of:
        yield source.tensor("weight"), (*all_of, *(shape[::-1] if source.transposed else shape))
    else:
        yield source.tensor("weight"), LayerShape(*shape, source.transposed)
    if source.bias:
        yield source.tensor("bias"), (*all_of, shape[0])


def norm(spec: NormSpec | None, size: int) -> Iterator[tuple[str, Shape]]:
    """The weights of a norm of rows of `size`."""
    if spec is not None and spec.kind != "identity" and spec.weighted:
        yield f"{spec.name}.weight", (size,)
        if spec.bias:
            yield f"{spec.name}.bias", (size,)
