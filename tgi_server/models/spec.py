"""A decoder described by values: what its blocks compute, and where each weight is in the checkpoint. Stdlib only.

A family (`families/NAME.py`) makes such a description of a config.json; `decoder.py` builds a model from it; the
launcher reads it too, without torch, to refuse what cannot be served before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import inf, lcm
from typing import ClassVar

from tgi_server.cache.kinds import CacheGroup, CacheKind
from tgi_server.layers import spread
from tgi_server.models.description import Description, Past, Shape
from tgi_server.rope.base import Rope


@dataclass(frozen=True, slots=True)
class Source:
    """Where the outputs (or inputs) of a linear layer are in the checkpoint, unit by unit: a unit is a head, or one
    feature of an MLP.

    Attributes:
        name: of the tensor, without `.weight` and `.bias`.
        units: how many the layer has.
        width: outputs (or inputs) of one unit.
        bias: whether it has one.
        transposed: whether the matrix is stored `[in, out]`.
        start: row of the tensor where the first unit begins, in a tensor that holds other layers too.
        run: units that lie side by side; 0 for all of them.
        stride: rows from the start of one run to the next.
        expert: which one's, in the tensors `NAME [experts, ...]` and `NAME_bias` that hold those of all experts of a
            layer; None where the layer has tensors of its own.
        mxfp4: whether the weights are `NAME_blocks` and `NAME_scales`; see `models.mxfp4`.
    """

    name: str
    units: int
    width: int = 1
    bias: bool = False
    transposed: bool = False
    start: int = 0
    run: int = 0
    stride: int = 0
    expert: int | None = None
    mxfp4: bool = False

    def tensor(self, suffix: str) -> str:
        """The name of what a layer keeps under `suffix`: `weight`, `bias`, or what a quantisation method stores."""
        if self.expert is None:
            return f"{self.name}.{suffix}"
        return self.name if suffix == "weight" else f"{self.name}_{suffix}"

    @property
    def size(self) -> int:
        """Outputs (or inputs) of the whole layer."""
        return self.units * self.width

    def pieces(self, first: int, last: int) -> list[tuple[int, int]]:
        """The rows [begin, end) of the tensor that hold the units [first, last), in their order."""
        run = self.run or self.units
        pieces: list[tuple[int, int]] = []
        unit = first
        while unit < last:
            number, within = divmod(unit, run)
            count = min(run - within, last - unit)
            begin = self.start + number * self.stride + within * self.width
            pieces.append((begin, begin + count * self.width))
            unit += count
        return pieces


@dataclass(frozen=True, slots=True)
class NormSpec:
    """`kind` is `rms`, `layer` or `identity`; `offset` is added to the stored weight (Gemma stores weight - 1).

    Without `weighted` nothing is stored (OLMo 1).
    """

    name: str = ""
    kind: str = "rms"
    eps: float = 1e-5
    offset: float = 0.0
    bias: bool = False
    weighted: bool = True


@dataclass(frozen=True, slots=True)
class RelativeSpec:
    """Biases of the distance between query and key, in buckets (T5, arXiv:1910.10683): `name.weight [buckets, heads]`.

    Half of the buckets of a direction have one distance each, the others ranges that grow up to `reach`; the last one
    has all that lie beyond too. Attention that is not causal has half of them for keys after the query.
    """

    name: str
    buckets: int
    reach: int


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """One layer's attention. See `kernels.attention.Features` for scale, window, softcap, slopes and sinks.

    Attributes:
        query, key, value: what computes them; the units of key and value are the key/value heads.
        output: what reads the attended heads; its units are the query heads.
        rope: None where positions do not turn heads.
        slopes: one a query head.
        sinks: name of the tensor `[heads]`.
        query_norm, key_norm: of each head, or with `normed_together` RMS norms of all heads as one row (OLMo 2).
        relative: None for none.
    """

    query: Source
    key: Source
    value: Source
    output: Source
    scale: float
    rope: Rope | None = None
    window: int | None = None
    softcap: float | None = None
    slopes: tuple[float, ...] | None = None
    sinks: str | None = None
    causal: bool = True
    query_norm: NormSpec | None = None
    key_norm: NormSpec | None = None
    normed_together: bool = False
    relative: RelativeSpec | None = None

    def __post_init__(self) -> None:
        """ValueError for query heads that do not share the key/value heads evenly."""
        if self.query.units % self.key.units:
            raise ValueError(f"{self.query.units} attention heads cannot share {self.key.units} key/value heads evenly")


@dataclass(frozen=True, slots=True)
class MlpSpec:
    """`up` alone, or `gate` and `up` (arXiv:2002.05202), then `down`; `activation` is a name of `operations`.

    See `kernels.operations.Clamp` for slope, limit and offset.
    """

    up: Source
    down: Source
    activation: str
    gate: Source | None = None
    slope: float = 1.0
    limit: float = inf
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class ExpertsSpec:
    """Several MLPs of one shape of which each token takes a few (arXiv:1701.06538).

    Attributes:
        router: what scores them; a unit an expert.
        experts: one each.
        chosen: how many a token takes, those with the best scores.
        over_all: whether their weights are parts of a softmax over all scores, which do not add up to 1; else of one
            over the scores of the chosen.
        shared: what every token takes as well.
        shared_gate: its one output's sigmoid is the weight of `shared`; None for 1.
    """

    router: Source
    experts: tuple[MlpSpec, ...]
    chosen: int
    over_all: bool = False
    shared: MlpSpec | None = None
    shared_gate: Source | None = None

    def __post_init__(self) -> None:
        """ValueError for fewer experts than a token takes."""
        if self.chosen > len(self.experts):
            raise ValueError(f"{self.chosen} experts a token (there are {len(self.experts)})")


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """A layer: attention and MLP (or a mixture of several), each added to the residual stream.

    Attributes:
        attention_norm, mlp_norm: of what each reads.
        attention_post, mlp_post: of what each adds; None for none.
        parallel: whether the MLP reads the stream before attention was added to it.
        scale: of what each adds.
    """

    attention: AttentionSpec
    mlp: MlpSpec | ExpertsSpec
    attention_norm: NormSpec
    mlp_norm: NormSpec
    attention_post: NormSpec | None = None
    mlp_post: NormSpec | None = None
    parallel: bool = False
    scale: float = 1.0

    @property
    def mlps(self) -> tuple[MlpSpec, ...]:
        """One of each shape: the MLP, or the first expert and what all tokens share."""
        if isinstance(self.mlp, MlpSpec):
            return (self.mlp,)
        return self.mlp.experts[:1] + (() if self.mlp.shared is None else (self.mlp.shared,))


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """Token vectors times `scale`, plus those of learned positions (of which the first is row `first_position`)."""

    name: str
    scale: float = 1.0
    positions: str | None = None
    first_position: int = 0
    norm: NormSpec | None = None


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """Scores over the vocabulary. `name` None: the token vectors. Scores are scaled, then softcapped.

    With `by_direction` each row counts as if it were of length 1 (Baichuan 2).
    With `or_tied`, the token vectors also where the checkpoint has no tensor of that name. `offsets` names a tensor
    `[1, vocabulary]` that is added to the scores, where the checkpoint has it; None for none.
    """

    name: str | None = None
    bias: bool = False
    or_tied: bool = False
    offsets: str | None = None
    scale: float = 1.0
    softcap: float | None = None
    by_direction: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Description):
    """A whole decoder."""

    builder: ClassVar[str] = "tgi_server.models.decoder:Decoder"

    blocks: tuple[BlockSpec, ...]
    embedding: EmbeddingSpec
    norm: NormSpec
    head: HeadSpec

    @cached_property
    def pasts(self) -> tuple[Past, ...]:
        """One a block."""
        own = [block.attention for block in self.blocks]
        return tuple(Past(_group(a), a.key.units, a.key.width, a.value.width) for a in own)

    @property
    def by_length(self) -> bool:
        """Whether what is cached for a token depends on how long its text is or may get."""
        return any(block.attention.rope is not None and block.attention.rope.by_length for block in self.blocks)

    @property
    def has_rope(self) -> bool:
        """See `Description`."""
        return any(block.attention.rope for block in self.blocks)

    def shards_that_work(self) -> list[int]:
        """See `Description`: as many as all have a query head of each layer, and less."""
        least = (min(b.attention.query.units, *(mlp.up.units for mlp in b.mlps)) for b in self.blocks)
        return list(range(1, min(self.vocab_size, *least) + 1))

    def whole(self, world: int, outputs: int, inputs: int) -> bool:
        """See `Description`."""
        if world == 1 or outputs == inputs == 1:
            return True
        for block, rank in product(self.blocks, range(world)):
            own = block.attention
            heads, kv = spread.heads(own.query.units, own.key.units, rank, world)
            columns, rows = [(own.query, heads), (own.key, kv), (own.value, kv)], [(own.output, heads)]
            for mlp in block.mlps:
                inner = spread.features(mlp.up.units, rank, world, lcm(outputs, inputs))
                if inner[0] == inner[1]:
                    return False  # fewer pieces than ranks: one would have none
                columns += [(mlp.gate or mlp.up, inner), (mlp.up, inner)]
                rows.append((mlp.down, inner))
            for number, parts in ((outputs, columns), (inputs, rows)):
                if any(edge % number for source, part in parts for piece in source.pieces(*part) for edge in piece):
                    return False
        return True

    def unsplit(self) -> str:
        """See `Description`."""
        heads = sorted({(block.attention.query.units, block.attention.key.units) for block in self.blocks})
        return ", ".join(f"{query} attention heads and {kv} key/value heads" for query, kv in heads)

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """See `Description`."""
        from tgi_server.models.tensors import expected  # which walks this description

        return expected(self)

    def packed(self) -> dict[str, int]:
        """See `Description`."""
        from tgi_server.models.tensors import packed

        return packed(self)

    @property
    def longer(self) -> str | None:
        """See `Description`."""
        return f"{self.embedding.positions}.weight" if self.embedding.positions else None

    @property
    def tied(self) -> str | None:
        """See `Description`."""
        return f"{self.embedding.name}.weight" if self.head.name is None else None

    def untied(self, head: str) -> ModelSpec:
        """See `Description`."""
        return replace(self, head=replace(self.head, name=head))

    def layers(self) -> tuple[str, int]:
        """See `Description`."""
        return self.blocks[0].attention.query.name.partition(".0.")[0], len(self.blocks)


def alibi_slopes(heads: int, most: float = 8.0) -> tuple[float, ...]:
    """Of each head the factor of a key's distance (arXiv:2108.12409): 2^-most/n, 2^-2most/n, ... for n heads.

    Where the heads are no power of two, those of the next smaller one, then every other one of the next larger.
    """
    whole = 1 << (heads.bit_length() - 1)

    def powers(count: int) -> list[float]:
        return [2.0 ** (-most * (i + 1) / count) for i in range(count)]

    return tuple(powers(whole) + powers(2 * whole)[::2][: heads - whole])


def side_by_side(name: str, sizes: Sequence[tuple[int, int]], bias: bool, transposed: bool = False) -> list[Source]:
    """Layers of so many (units, width) whose outputs lie one after the other in one tensor."""
    sources, start = [], 0
    for units, width in sizes:
        sources.append(Source(name, units, width, bias, transposed, start))
        start += units * width
    return sources


def interleaved(name: str, groups: int, sizes: Sequence[tuple[int, int]], bias: bool) -> list[Source]:
    """Layers of so many (units a group, width) whose outputs lie group by group in one tensor, as in BLOOM."""
    stride, start, sources = sum(units * width for units, width in sizes), 0, []
    for units, width in sizes:
        sources.append(Source(name, groups * units, width, bias, False, start, units, stride))
        start += units * width
    return sources


def _group(attention: AttentionSpec) -> CacheGroup:
    window = attention.window
    return CacheGroup(CacheKind.FULL) if window is None else CacheGroup(CacheKind.WINDOW, window)
