"""What launcher, caches and runner have to know of a model, whatever it is made of. Stdlib only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

from tgi_server.cache.kinds import CacheGroup
from tgi_server.layers import spread
from tgi_server.types import BLOCK_SIZE

Shape = tuple[int, ...]


class LayerShape(tuple[int, ...]):
    """The shape of the weight of a linear layer, which a quantisation method may store in another way."""

    turned: bool
    """Whether it is `[in, out]`."""

    def __new__(cls, outputs: int, inputs: int, turned: bool = False) -> LayerShape:
        """Of a layer of this size."""
        shape = super().__new__(cls, (inputs, outputs) if turned else (outputs, inputs))
        shape.turned = turned
        return shape

    @property
    def size(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return (self[1], self[0]) if self.turned else (self[0], self[1])


@dataclass(frozen=True, slots=True)
class Past:
    """What a layer keeps of a sequence: keys and values of its positions, or states of fixed size.

    Attributes:
        group: how it is kept.
        kv_heads: of the whole model, all ranks together.
        key_width, value_width: numbers in a head.
        states: shapes of the float32 states of a sequence, in STATE groups; the ranks share their last axis, as
            `spread.features` has it.
    """

    group: CacheGroup
    kv_heads: int = 0
    key_width: int = 0
    value_width: int = 0
    states: tuple[Shape, ...] = ()

    def block_bytes(self, world: int, item: int, rank: int | None = None) -> int:
        """Bytes of one block on one rank, of numbers of `item` bytes; by default on the rank that keeps most."""
        heads = kv_heads_of_rank(self.kv_heads, world, rank) if self.kv_heads else 0
        states = sum(map(prod, self.states_of_rank(world, rank)))
        return heads * (self.key_width + self.value_width) * BLOCK_SIZE * item + 4 * states

    def states_of_rank(self, world: int, rank: int | None = None) -> tuple[Shape, ...]:
        """The states that one rank keeps; by default that which keeps most."""
        ranks = range(world) if rank is None else [rank]
        most = [max(last - first for first, last in _spans(shape[-1], ranks, world)) for shape in self.states]
        return tuple((*shape[:-1], size) for shape, size in zip(self.states, most, strict=True))


@dataclass(frozen=True, kw_only=True)
class Description(ABC):
    """A model, as its config.json tells.

    Attributes:
        builder: `module:class` of its `models.model.Model`, called with the description, a WeightLoader and the length
            of the longest text.
        max_positions: longest text; None where nothing limits it.
        eos_token_ids: tokens that end a text.
        prefixes: what may stand before every tensor's name, in the order in which they are tried.
        float16: whether the activations fit into its range.
        start_token_id: of models whose encoder reads the prompt: what the text of their decoder begins with.
    """

    builder: ClassVar[str]

    vocab_size: int
    hidden_size: int
    max_positions: int | None
    eos_token_ids: tuple[int, ...] = ()
    prefixes: tuple[str, ...] = ("",)
    float16: bool = True
    start_token_id: int | None = None

    @property
    @abstractmethod
    def pasts(self) -> tuple[Past, ...]:
        """What each layer keeps, in the order of the caches that the model is run with."""

    @cached_property
    def groups(self) -> tuple[CacheGroup, ...]:
        """The groups of layers whose past is held alike, in the order of their first layers."""
        return tuple(dict.fromkeys(past.group for past in self.pasts))

    @cached_property
    def group_of(self) -> tuple[int, ...]:
        """Of each layer, the number of its group."""
        return tuple(self.groups.index(past.group) for past in self.pasts)

    def block_bytes(self, group: int, world: int, item: int, rank: int | None = None) -> int:
        """Bytes that one rank keeps in a block for all layers of a group, in a serving dtype of `item` bytes; by
        default the rank that keeps most."""
        pasts = zip(self.pasts, self.group_of, strict=True)
        return sum(past.block_bytes(world, item, rank) for past, own in pasts if own == group)

    @property
    def by_length(self) -> bool:
        """Whether what is cached for a token depends on how long its text is or may get."""
        return False

    @property
    def has_rope(self) -> bool:
        """Whether there are rotary positions that `rope_scaling` could change."""
        return False

    @abstractmethod
    def shards_that_work(self) -> list[int]:
        """The numbers of ranks over which it can be spread."""

    def whole(self, world: int, outputs: int, inputs: int) -> bool:
        """Whether every one of so many ranks has a part, and none begins or ends within `outputs` outputs or `inputs`
        inputs of a layer, which a quantised checkpoint keeps together."""
        return True

    @abstractmethod
    def unsplit(self) -> str:
        """Of what there are too few, or no fitting number, for other numbers of ranks; for people."""

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """Each tensor that it reads, without prefix, and its shape; none where only whoever loads it knows them."""
        return iter(())

    def packed(self) -> Mapping[str, int]:
        """Those of them that hold bytes instead of floats, and how many numbers of the model each byte stands for."""
        return {}

    @property
    def longer(self) -> str | None:
        """The tensor that may have more rows than that: of learned positions beyond the longest text."""
        return None

    @property
    def tied(self) -> str | None:
        """The tensor that is the token vectors and the head; None where these are two, or never to be told apart."""
        return None

    @property
    def inseparable(self) -> str | None:
        """The end of the name of a tensor that is the token vectors and the head and cannot be parted."""
        return None

    def untied(self, head: str) -> Description:
        """The same with a tensor `head.weight` for the head; only of a model whose head is tied."""
        raise ValueError(f"the head of {type(self).__name__} is not tied")

    def layers(self) -> tuple[str, int] | None:
        """What stands before the number of a layer in names of tensors, and how many layers there are."""
        return None


def _spans(size: int, ranks: Iterable[int], world: int) -> list[spread.Span]:
    return [spread.features(size, rank, world) for rank in ranks]


def kv_heads_of_rank(heads: int, world: int, rank: int | None = None) -> int:
    """Key/value heads of one of `world` ranks, by default of that which has most; they are repeated where there are
    fewer of them than ranks."""
    first, last = spread.span(heads, world - 1 if rank is None else rank, world)
    return max(1, last - first)
