"""Builds an encoder and a decoder from their description, and runs them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tgi_server.kernels.attention import AttentionBatch, LayerCache
from tgi_server.kernels.operations import Norm, NormKind
from tgi_server.models.blocks import (
    AttentionBlock,
    CrossAttentionBlock,
    LayerStep,
    MlpBlock,
    recorder_of,
)
from tgi_server.models.decoder import Embedding
from tgi_server.models.head import OutputHead
from tgi_server.models.model import Inputs
from tgi_server.models.seq2seq_spec import LayerSpec, Seq2SeqSpec, StackSpec
from tgi_server.models.weights import WeightLoader
from tgi_server.rope.table import IntArray

AS_IT_IS = Norm(NormKind.IDENTITY)


class Seq2Seq:
    """See `models.model.Model` and `EncoderModel`.

    Args:
        spec: its description.
        load: gives this rank's weights.
        max_positions: longest prompt, and longest text, that it will see.

    Attributes:
        choices: who computes its operations.
    """

    def __init__(self, spec: Seq2SeqSpec, load: WeightLoader, max_positions: int) -> None:
        self.hidden_size = spec.hidden_size
        own, cross = spec.pasts[:2]
        self._attention, self._cross_attention = (
            load.best("attention", key_width=past.key_width, value_width=past.value_width) for past in (own, cross)
        )
        first = spec.encoder.layers[0].attention
        self._source_attention = load.best("attention", key_width=first.key.width, value_width=first.value.width)
        _, kv = load.group.heads(first.query.units, first.key.units)
        self.heads = kv[1] - kv[0]
        first_words, words = spec.encoder.embedding, spec.decoder.embedding
        self.head = OutputHead(spec, spec.head, load, first_words.name)
        self._embed_source = Embedding(first_words, spec.vocab_size, load, max_positions, self.head.vectors)
        self._embed = Embedding(words, spec.vocab_size, load, max_positions, self._embed_source.vectors)
        self._encoder, self._decoder = (Stack(stack, load) for stack in (spec.encoder, spec.decoder))
        self.choices = load.choices
        self.recorder = recorder_of(self.choices, load.group)

    def begin(self, ids: Tensor, positions: Tensor, lengths: IntArray, limits: IntArray) -> Inputs:
        """See `Model`."""
        return Inputs(self._embed(ids, positions), ())

    def begin_source(self, ids: Tensor, positions: Tensor) -> Tensor:
        """See `EncoderModel`."""
        return self._embed_source(ids, positions)

    def encode(self, residual: Tensor, caches: Sequence[LayerCache], batch: AttentionBatch) -> None:
        """See `EncoderModel`.

        While an encoder's layer is computed, its keys and values are where those of the first cross-attention will be:
        they are of the same positions.
        """
        crosses = caches[1::2]
        attend = self._source_attention.run(batch)
        step = LayerStep(None, attend, batch.slots, _of_heads(crosses[0], self.heads))
        encoded = self._encoder(residual, [[step, step] for _ in self._encoder.layers])
        for cross, cache in zip(self._decoder.crosses, crosses, strict=True):
            cross.remember(encoded, batch.slots, cache)

    def forward(self, inputs: Inputs, caches: Sequence[LayerCache], batches: Sequence[AttentionBatch]) -> Tensor:
        """See `Model`."""
        own, cross = self._attention.run(batches[0]), self._cross_attention.run(batches[1])
        steps = [
            [LayerStep(None, own, batches[0].slots, mine), LayerStep(None, cross, batches[1].slots, theirs)]
            for mine, theirs in zip(caches[::2], caches[1::2], strict=True)
        ]
        return self._decoder(inputs.residual, steps)

    def logits(self, hidden: Tensor) -> Tensor | None:
        """See `Model`."""
        return self.head(hidden)


class Layer:
    """The branches of a layer, each with its norm."""

    def __init__(self, spec: LayerSpec, load: WeightLoader) -> None:
        self.attention = AttentionBlock(spec.attention, load)
        self.cross = None if spec.cross is None else CrossAttentionBlock(spec.cross, load)
        self.mlp = MlpBlock(spec.mlp, load)
        self.norms = [load.norm(norm) for _, norm in spec.branches]


class Stack:
    """The layers of an encoder or a decoder."""

    def __init__(self, spec: StackSpec, load: WeightLoader) -> None:
        self.layers = [Layer(layer, load) for layer in spec.layers]
        norms = [norm for layer in self.layers for norm in layer.norms]
        self._norms = [AS_IT_IS, *norms] if spec.after else [*norms, load.norm(spec.norm)]
        self._after = spec.after
        self._group = load.group
        self._add_norm = load.best("add_norm").run
        self._dtype = load.needs.dtype

    @property
    def crosses(self) -> list[CrossAttentionBlock]:
        """The cross-attention of every layer."""
        return [layer.cross for layer in self.layers if layer.cross is not None]

    def __call__(self, residual: Tensor, steps: Sequence[Sequence[LayerStep]]) -> Tensor:
        """The stream `[tokens, hidden]`, float32 and changed in place, to hidden states in the serving dtype.

        `steps` are those of each layer's attention and cross-attention.
        """
        norms, added = iter(self._norms), None
        for layer, (own, over) in zip(self.layers, steps, strict=True):
            residual, x = self._read(residual, added, next(norms))
            added = layer.attention(x, own)
            if layer.cross is not None:
                residual, x = self._read(residual, added, next(norms))
                added = layer.cross(x, over)
            residual, x = self._read(residual, added, next(norms))
            added = self._group.all_reduce(layer.mlp(x))
        return self._read(residual, added, next(norms))[1]

    def _read(self, residual: Tensor, added: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
        """The stream after an addition, and what the next branch reads."""
        if not self._after:
            return residual, self._add_norm(residual, added, norm, self._dtype)
        if self._dtype != torch.float32:  # the stream stays float32
            self._add_norm(residual, added, None, self._dtype)
            added = None
        residual = self._add_norm(residual, added, norm, torch.float32)
        return residual, self._add_norm(residual, None, AS_IT_IS, self._dtype)


def _of_heads(cache: LayerCache, heads: int) -> LayerCache:
    """The memory of a cache as one of so many heads, which are as wide together."""

    def shaped(x: Tensor) -> Tensor:
        blocks, own, size, width = x.shape
        return x.view(blocks, heads, size, own * width // heads)

    return LayerCache(shaped(cache.keys), shaped(cache.values))
