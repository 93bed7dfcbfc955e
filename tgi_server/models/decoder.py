"""The decoder of the Llama family (arXiv:2302.13971): pre-norm, rotary positions, grouped queries, gated MLP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tgi_server.attention.base import Attend, Attention, AttentionBatch, AttentionShape, LayerCache
from tgi_server.layers.ops import Ops
from tgi_server.layers.parallel import span
from tgi_server.layers.vocabulary import OutputHead, VocabularyEmbedding
from tgi_server.models.spec import ModelSpec
from tgi_server.models.weights import Span, WeightLoader
from tgi_server.rope.rotary import RotaryTable


def attention_shape(spec: ModelSpec, world: int) -> AttentionShape:
    """One rank's heads; key/value heads are repeated where there are fewer of them than ranks."""
    return AttentionShape(spec.num_heads // world, max(1, spec.num_kv_heads // world), spec.head_dim)


def _kv_heads(spec: ModelSpec, rank: int, world: int) -> Span:
    if spec.num_kv_heads >= world:
        return span(spec.num_kv_heads, rank, world)
    head = rank * spec.num_kv_heads // world
    return head, head + 1


@dataclass(frozen=True, slots=True)
class Step:
    """What every layer of a step shares. `positions` and `slots` are int64 `[tokens]`."""

    positions: Tensor
    slots: Tensor
    rotary: RotaryTable
    attend: Attend


class Norm:
    """The weight of one RMS norm, float32 `[hidden]`."""

    def __init__(self, load: WeightLoader, name: str, eps: float, ops: Ops) -> None:
        self._weight = load.tensor(f"{name}.weight", dtype=torch.float32)
        self._eps = eps
        self._ops = ops

    def __call__(self, residual: Tensor, x: Tensor | None) -> Tensor:
        """Add `x` to `residual [tokens, hidden]` in place and return the normalised sum."""
        return self._ops.add_norm(residual, x, self._weight, self._eps)


class DecoderLayer:
    """One layer: attention and MLP, each adding to the residual stream."""

    def __init__(self, spec: ModelSpec, load: WeightLoader, number: int, ops: Ops) -> None:
        group, names = load.group, spec.names
        self._group = group
        self._ops = ops
        self._heads = attention_shape(spec, group.world).num_heads

        def name(template: str) -> str:
            return template.format(layer=number)

        query = _scaled(group.span(spec.num_heads), spec.head_dim)
        kv = _scaled(_kv_heads(spec, group.rank, group.world), spec.head_dim)
        inner = group.span(spec.intermediate_size)
        self._attention_norm = Norm(load, name(names.attention_norm), spec.norm_eps, ops)
        self._qkv = load.column(
            [name(names.query), name(names.key), name(names.value)], [query, kv, kv], spec.attention_bias
        )
        self._output = load.row(name(names.output), query, spec.attention_bias)
        self._mlp_norm = Norm(load, name(names.mlp_norm), spec.norm_eps, ops)
        self._gate_up = load.column([name(names.gate), name(names.up)], [inner, inner], spec.mlp_bias)
        self._down = load.row(name(names.down), inner, spec.mlp_bias)
        self.recordable = all(op.recordable for op in (self._qkv, self._output, self._gate_up, self._down))

    def __call__(self, residual: Tensor, x: Tensor | None, step: Step, cache: LayerCache) -> Tensor:
        """Add the previous layer's output `x` to `residual [tokens, hidden]`; return this layer's own output."""
        qkv = self._qkv(self._attention_norm(residual, x))
        query, key, value = self._ops.rotate_store(qkv, step.rotary, step.positions, step.slots, cache, self._heads)
        attended = step.attend(query, key, value, cache).view(query.shape[0], -1)
        x = self._group.all_reduce(self._output(attended))
        gate_up = self._gate_up(self._mlp_norm(residual, x))
        return self._group.all_reduce(self._down(self._ops.gate(gate_up)))


class Decoder:
    """Embedded tokens in, hidden states out; `logits` turns chosen rows into scores over the vocabulary.

    Attributes:
        hidden_size: width of the residual stream.
        recordable: True when `forward` may be recorded and run again with other data at the same addresses.
    """

    def __init__(self, spec: ModelSpec, load: WeightLoader, attention: Attention, ops: Ops, max_positions: int) -> None:
        names, group = spec.names, load.group
        rows = group.span(spec.vocab_size)
        embedding = load.tensor(f"{names.embedding}.weight", rows)
        self.hidden_size = spec.hidden_size
        self._attention = attention
        self._embedding = VocabularyEmbedding(embedding, rows[0], group)
        self._rotary = RotaryTable(spec.rope, spec.head_dim, max_positions, load.device)
        self._layers = [DecoderLayer(spec, load, number, ops) for number in range(spec.num_layers)]
        self._norm = Norm(load, names.norm, spec.norm_eps, ops)
        head = embedding if spec.tied_embeddings else load.tensor(f"{names.head}.weight", rows)
        self._head = OutputHead(head, spec.vocab_size, group)
        self.recordable = (
            attention.recordable
            and ops.recordable
            and (group.world == 1 or load.device.type == "cuda")
            and all(layer.recordable for layer in self._layers)
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Ids `[tokens]` (int64) to float32 vectors `[tokens, hidden]`."""
        return self._embedding(ids)

    def forward(
        self, residual: Tensor, positions: Tensor, caches: Sequence[LayerCache], batch: AttentionBatch
    ) -> Tensor:
        """All layers and the last norm.

        Embedded tokens `[tokens, hidden]`, changed in place, and their positions `[tokens]` (int64) to hidden states
        `[tokens, hidden]` in the serving dtype.
        """
        step = Step(positions, batch.slots, self._rotary, self._attention.begin(batch))
        x = None
        for layer, cache in zip(self._layers, caches, strict=True):
            x = layer(residual, x, step, cache)
        return self._norm(residual, x)

    def logits(self, hidden: Tensor) -> Tensor | None:
        """Hidden states `[rows, hidden]` to float32 logits `[rows, vocabulary]` on rank 0, None elsewhere."""
        return self._head(hidden)


def _scaled(part: Span, factor: int) -> Span:
    return part[0] * factor, part[1] * factor
