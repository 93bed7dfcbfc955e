"""Builds a decoder from its description, and runs it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tgi_server.kernels.attention import AttentionBatch, LayerCache
from tgi_server.kernels.operations import Angles, normed
from tgi_server.layers.vocabulary import Lookup, VocabularyEmbedding
from tgi_server.models.blocks import NOTHING, Block, LayerStep, Stream, recorder_of
from tgi_server.models.head import OutputHead
from tgi_server.models.model import Inputs
from tgi_server.models.spec import EmbeddingSpec, ModelSpec
from tgi_server.models.weights import WeightLoader
from tgi_server.rope.base import Rope
from tgi_server.rope.table import IntArray, RotaryTable


class Decoder:
    """Embedded tokens in, hidden states out; see `models.model.Model`.

    Args:
        spec: its description.
        load: gives this rank's weights.
        max_positions: longest text it will see.

    Attributes:
        choices: who computes its operations.
        head: scores its tokens.
    """

    def __init__(self, spec: ModelSpec, load: WeightLoader, max_positions: int) -> None:
        self.hidden_size = spec.hidden_size
        self._group_of = spec.group_of
        self.head = OutputHead(spec, spec.head, load, spec.embedding.name)
        self._embedding = Embedding(spec.embedding, spec.vocab_size, load, max_positions, self.head.vectors)
        self._ropes = list(dict.fromkeys(b.attention.rope for b in spec.blocks if b.attention.rope is not None))
        self._rope_of = [_place(self._ropes, block.attention.rope) for block in spec.blocks]
        self._tables = [RotaryTable(rope, max_positions, load.needs.device) for rope in self._ropes]
        self._attention = [load.best("attention", **_widths(spec, group)) for group in range(len(spec.groups))]
        self._stream = Stream(load)
        self._blocks = [Block(block, self._stream, load) for block in spec.blocks]
        self._norm = load.norm(spec.norm)
        self.choices = load.choices
        self.recorder = recorder_of(self.choices, load.group)

    def begin(self, ids: Tensor, positions: Tensor, lengths: IntArray, limits: IntArray) -> Inputs:
        """See `Model`."""
        angles = tuple(table.rows(positions, lengths, limits) for table in self._tables)
        return Inputs(self._embedding(ids, positions), angles)

    def forward(self, inputs: Inputs, caches: Sequence[LayerCache], batches: Sequence[AttentionBatch]) -> Tensor:
        """See `Model`."""
        attends = [choice.run(batch) for choice, batch in zip(self._attention, batches, strict=True)]
        added = NOTHING
        for block, group, rope, cache in zip(self._blocks, self._group_of, self._rope_of, caches, strict=True):
            angles: Angles | None = None if rope is None else inputs.angles[rope]
            added = block(inputs.residual, added, LayerStep(angles, attends[group], batches[group].slots, cache))
        return self._stream.read(inputs.residual, added, self._norm)

    def logits(self, hidden: Tensor) -> Tensor | None:
        """See `Model`."""
        return self.head(hidden)


class Embedding:
    """Vectors of tokens and of learned positions; `vectors`, if given, has those of the tokens, loaded before."""

    def __init__(
        self, own: EmbeddingSpec, vocab_size: int, load: WeightLoader, max_positions: int, vectors: Lookup | None = None
    ) -> None:
        rows = load.group.span(vocab_size)
        self.vectors = load.table(f"{own.name}.weight", rows) if vectors is None else vectors
        self._tokens = VocabularyEmbedding(self.vectors, *rows, load.group)
        self._scale = own.scale
        self._positions = None
        if own.positions is not None:
            first = own.first_position
            self._positions = load.matrix(f"{own.positions}.weight", (first, first + max_positions))
        self._norm = None if own.norm is None else load.norm(own.norm)

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Ids and positions `[tokens]` (int64) to float32 vectors `[tokens, hidden]`."""
        vectors = self._tokens(ids)
        if self._scale != 1.0:
            vectors = vectors * self._scale
        if self._positions is not None:
            vectors = vectors + torch.nn.functional.embedding(positions, self._positions).float()
        return vectors if self._norm is None else normed(vectors, self._norm)


def _place(ropes: Sequence[Rope], rope: Rope | None) -> int | None:
    return None if rope is None else ropes.index(rope)


def _widths(spec: ModelSpec, group: int) -> dict[str, int]:
    """Of the heads in a group of layers; the widest, where they differ."""
    own = [block.attention for block, number in zip(spec.blocks, spec.group_of, strict=True) if number == group]
    return {"key_width": max(a.key.width for a in own), "value_width": max(a.value.width for a in own)}
