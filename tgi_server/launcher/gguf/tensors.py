"""The tensors of the checkpoint that a GGUF file becomes: which they are, and their values a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    TensorNameMap,
    get_tensor_name_map,
)
from gguf.quants import dequantize
from numpy.typing import NDArray

from tgi_server.errors import ModelError
from tgi_server.launcher.gguf import gated
from tgi_server.launcher.gguf.architecture import Model, Rows, Weight
from tgi_server.launcher.gguf.reader import GgufFile, StoredTensor

_CHUNK = 1 << 22
"""Values converted at a time: 16 MiB of float32, a few times that with what dequantisation needs."""
_MOST_TOLD = 5
_IGNORED = ".attn_rot_embd.weight"
"""What follows from the configuration, in every block of old files."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor of the checkpoint, made of the rows (of vectors: the values) of stored ones, one after the other.

    Attributes:
        order: which rows are wanted, of `total`; None for all as they are.
        first, last: the part of these that this tensor is.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[StoredTensor, ...]
    order: Rows | None
    total: int
    first: int
    last: int
    vector: bool
    transposed: bool
    offset: float

    def rows(self) -> NDArray[np.intp]:
        """The numbers of the rows; made when they are needed, for large models have many."""
        if self.order is None:
            return np.arange(self.first, self.last)
        return self.order(self.total)[self.first : self.last]

    def pieces(self) -> Iterator[Floats]:
        """All values in order, in pieces of any length."""
        if self.vector:
            whole = np.concatenate([widened(source.data, source.kind).reshape(-1) for source in self.sources])
            yield whole[self.rows()] - np.float32(self.offset)
        elif self.transposed:
            yield from self._turned()
        else:
            step, rows = max(1, _CHUNK // self.shape[-1]), self.rows()
            for first in range(0, len(rows), step):
                yield self._gather(rows[first : first + step], 0, None)

    def _turned(self) -> Iterator[Floats]:
        """As many columns at a time, of one matrix after the other, as their blocks and memory allow."""
        *_, columns, count = self.shape
        block = math.lcm(*(GGML_QUANT_SIZES[source.kind][0] for source in self.sources))
        step = max(1, _CHUNK // count // block) * block
        for rows in self.rows().reshape(-1, count):
            for first in range(0, columns, step):
                yield np.ascontiguousarray(self._gather(rows, first, min(first + step, columns)).T)

    def _gather(self, rows: NDArray[np.intp], first: int, last: int | None) -> Floats:
        """Some columns of some rows."""
        if len(self.sources) == 1:
            return _cut(self.sources[0], rows, first, last)
        columns = (self.sources[0].shape[-1] if last is None else last) - first
        found, start = np.empty((len(rows), columns), np.float32), 0
        for source in self.sources:
            count = len(source.data)
            inside = (rows >= start) & (rows < start + count)
            found[inside] = _cut(source, rows[inside] - start, first, last)
            start += count
        return found


def _cut(source: StoredTensor, rows: NDArray[np.intp], first: int, last: int | None) -> Floats:
    data = source.data
    if last is not None:
        values, size = GGML_QUANT_SIZES[source.kind]
        items = size // data.itemsize
        data = data[:, first // values * items : last // values * items]
    return widened(data[rows], source.kind)


def widened(data: NDArray[np.generic], kind: GGMLQuantizationType) -> Floats:
    """Stored numbers as float32; those that cannot be are not finite.

    Raises:
        NotImplementedError: the `gguf` package does not decode this type.
    """
    with np.errstate(all="ignore"):  # no warnings about damaged values: who writes them refuses what is not finite
        if kind == GGMLQuantizationType.F64:
            return data.astype(np.float32)
        values: Floats = dequantize(data, kind)
    return values


def targets(file: GgufFile, model: Model) -> list[Target]:
    """Every tensor that the file holds of a model, in the order of its description.

    Raises:
        ModelError: tensors are missing, unknown, of another shape than belongs to their use, or of a type that cannot
            be widened; it names them all.
    """
    _check_types(file)
    layers = gated.layers(file)
    names, found, seen = _names(file, layers), list[Target](), set[str]()
    for weight in model.weights:
        for block in range(layers) if "{bid}" in weight.name else (0,):
            for suffix in weight.suffixes:
                if sources := _sources(file, weight, block, suffix, names):
                    found += _made(file, weight, block, suffix, sources)
                    seen |= {source.name for source in sources}
    _check_use(file, layers, seen | model.read)
    return found


def _names(file: GgufFile, layers: int) -> TensorNameMap:
    architecture = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == file.architecture)
    return get_tensor_name_map(architecture, layers)


def _sources(file: GgufFile, weight: Weight, block: int, suffix: str, names: TensorNameMap) -> tuple[StoredTensor, ...]:
    """The stored tensors that a weight is made of; none where the architecture or the file has none."""
    stems = [name.format(bid=block) for name in weight.stored] or [names.get_name(weight.name.format(bid=block))]
    found = tuple(file.tensors[f"{stem}{suffix}"] for stem in stems if f"{stem}{suffix}" in file.tensors)
    if found and len(found) < len(stems):
        raise ModelError(f"{file.path}: of {', '.join(map(str, stems))} there have to be all or none")
    return found


def _made(
    file: GgufFile, weight: Weight, block: int, suffix: str, sources: tuple[StoredTensor, ...]
) -> Iterator[Target]:
    """The tensor, or those of all experts, that stored ones become."""
    shape = sources[0].shape
    vector = suffix != ".weight" or len(shape) == 1
    total = sum(math.prod(source.shape if vector else source.shape[:-1]) for source in sources)
    if len({source.shape[-1] for source in sources if not vector}) > 1:
        raise ModelError(f"{file.path}: {sources[0].name} has another width than what it belongs to")
    try:
        wanted = total if weight.rows is None else len(weight.rows(total))
    except ValueError as error:
        raise ModelError(f"{file.path}: the tensor {sources[0].name} is {list(shape)}: {error}") from None
    many = shape[:-1] if vector else shape[:-2]
    each = wanted // math.prod(many)
    own = (each,) if vector else (shape[-1], each) if weight.transposed else (each, shape[-1])
    own = (1, *own) if weight.lifted else own
    name = f"{weight.name.replace('{bid}', str(block))}{weight.suffixes[suffix]}"
    turned = weight.transposed and not vector
    if "{xid}" not in name:
        yield Target(name, (*many, *own), sources, weight.rows, total, 0, wanted, vector, turned, weight.offset)
        return
    for expert, first in enumerate(range(0, wanted, each)):
        one = name.replace("{xid}", str(expert))
        yield Target(one, own, sources, weight.rows, total, first, first + each, vector, turned, weight.offset)


def _check_types(file: GgufFile) -> None:
    """Every type is tried on one block of zeros."""
    wrong = []
    for kind in {tensor.kind for tensor in file.tensors.values()}:
        try:
            widened(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            wrong.append(kind)
    if wrong:
        names = [tensor.name for tensor in file.tensors.values() if tensor.kind in wrong]
        raise ModelError(
            f"{file.path}: tensors of the type {', '.join(sorted(kind.name for kind in wrong))} cannot be converted: "
            f"{_listed(names)}"
        )


def _check_use(file: GgufFile, layers: int, used: set[str] | frozenset[str]) -> None:
    """All tensors are used, and every block has what another has."""
    unknown = [name for name in file.tensors if name not in used and not name.endswith(_IGNORED)]
    if unknown:
        raise ModelError(f"{file.path}: tensors that {file.architecture} does not have here: {_listed(unknown)}")
    inside = {name.partition(".")[2].partition(".")[2] for name in used if name.startswith("blk.")}
    missing = [
        name
        for block in range(layers)
        for name in (f"blk.{block}.{rest}" for rest in sorted(inside))
        if name not in file.tensors
    ]
    if missing:
        raise ModelError(f"{file.path}: tensors are missing: {_listed(missing)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_TOLD} more" if len(names) > _MOST_TOLD else ""
    return ", ".join(f"{name!r:.80}" for name in names[:_MOST_TOLD]) + more
