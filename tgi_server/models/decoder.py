"""The decoder of the Llama family (arXiv:2302.13971): pre-norm, rotary positions, grouped queries, gated MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu

from tgi_server.attention.base import Attention, AttentionBatch, AttentionShape, LayerCache
from tgi_server.layers.norm import RMSNorm
from tgi_server.layers.parallel import span
from tgi_server.layers.vocabulary import OutputHead, VocabularyEmbedding
from tgi_server.models.spec import ModelSpec
from tgi_server.models.weights import Span, WeightLoader
from tgi_server.rope.rotary import RotaryTable, rotate


def attention_shape(spec: ModelSpec, world: int) -> AttentionShape:
    """One rank's heads; key/value heads are repeated where there are fewer of them than ranks."""
    return AttentionShape(spec.num_heads // world, max(1, spec.num_kv_heads // world), spec.head_dim)


def _kv_heads(spec: ModelSpec, rank: int, world: int) -> Span:
    if spec.num_kv_heads >= world:
        return span(spec.num_kv_heads, rank, world)
    head = rank * spec.num_kv_heads // world
    return head, head + 1


class DecoderLayer:
    """One layer: attention and MLP, each adding to the residual stream."""

    def __init__(self, spec: ModelSpec, load: WeightLoader, number: int, attention: Attention) -> None:
        group, names = load.group, spec.names
        self._group = group
        self._shape = attention_shape(spec, group.world)
        self._attention = attention

        def name(template: str) -> str:
            return template.format(layer=number)

        def norm(template: str) -> RMSNorm:
            weight = load.tensor(f"{name(template)}.weight", dtype=torch.float32)
            return RMSNorm(weight, spec.norm_eps, load.dtype)

        query = _scaled(group.span(spec.num_heads), spec.head_dim)
        kv = _scaled(_kv_heads(spec, group.rank, group.world), spec.head_dim)
        inner = group.span(spec.intermediate_size)
        self._attention_norm = norm(names.attention_norm)
        self._qkv = load.column(
            [name(names.query), name(names.key), name(names.value)], [query, kv, kv], spec.attention_bias
        )
        self._output = load.row(name(names.output), query, spec.attention_bias)
        self._mlp_norm = norm(names.mlp_norm)
        self._gate_up = load.column([name(names.gate), name(names.up)], [inner, inner], spec.mlp_bias)
        self._down = load.row(name(names.down), inner, spec.mlp_bias)

    def __call__(
        self, residual: Tensor, x: Tensor | None, cos: Tensor, sin: Tensor, cache: LayerCache, batch: AttentionBatch
    ) -> Tensor:
        """Add the previous layer's output `x` to `residual [tokens, hidden]`; return this layer's own output."""
        attended = self._attend(self._attention_norm(residual, x), cos, sin, cache, batch)
        x = self._group.all_reduce(self._output(attended))
        gate, up = self._gate_up(self._mlp_norm(residual, x)).chunk(2, dim=-1)
        return self._group.all_reduce(self._down(silu(gate) * up))

    def _attend(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache, batch: AttentionBatch) -> Tensor:
        shape = self._shape
        heads = self._qkv(x).view(x.shape[0], -1, shape.head_dim)
        query, key, value = torch.split(heads, [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=1)
        attended = self._attention(rotate(query, cos, sin), rotate(key, cos, sin), value, cache, batch)
        return attended.reshape(x.shape[0], -1)


class Decoder:
    """Token ids in, hidden states out; `logits` turns chosen rows into scores over the vocabulary."""

    def __init__(self, spec: ModelSpec, load: WeightLoader, attention: Attention, max_positions: int) -> None:
        names, group = spec.names, load.group
        rows = group.span(spec.vocab_size)
        embedding = load.tensor(f"{names.embedding}.weight", rows)
        self._embedding = VocabularyEmbedding(embedding, rows[0], group)
        self._rotary = RotaryTable(spec.rope, spec.head_dim, max_positions, load.device)
        self._layers = [DecoderLayer(spec, load, number, attention) for number in range(spec.num_layers)]
        norm = load.tensor(f"{names.norm}.weight", dtype=torch.float32)
        self._norm = RMSNorm(norm, spec.norm_eps, load.dtype)
        head = embedding if spec.tied_embeddings else load.tensor(f"{names.head}.weight", rows)
        self._head = OutputHead(head, spec.vocab_size, group)

    def forward(self, ids: Tensor, positions: Tensor, caches: Sequence[LayerCache], batch: AttentionBatch) -> Tensor:
        """Ids and positions `[tokens]` (int64) to normalised hidden states `[tokens, hidden]`."""
        cos, sin = self._rotary.cos[positions].unsqueeze(1), self._rotary.sin[positions].unsqueeze(1)
        residual, x = self._embedding(ids), None
        for layer, cache in zip(self._layers, caches, strict=True):
            x = layer(residual, x, cos, sin, cache, batch)
        return self._norm(residual, x)

    def logits(self, hidden: Tensor) -> Tensor | None:
        """Hidden states `[rows, hidden]` to float32 logits `[rows, vocabulary]` on rank 0, None elsewhere."""
        return self._head(hidden)


def _scaled(part: Span, factor: int) -> Span:
    return part[0] * factor, part[1] * factor
