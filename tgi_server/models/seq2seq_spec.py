"""An encoder and a decoder that attends to what it says of a prompt, described by values. Stdlib only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from tgi_server.cache.kinds import CacheGroup, CacheKind
from tgi_server.layers import spread
from tgi_server.models.description import Description, Past, Shape
from tgi_server.models.spec import AttentionSpec, EmbeddingSpec, HeadSpec, MlpSpec, NormSpec


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Attention, in decoders then attention over the encoder's output (`cross`), then the MLP, each with its norm."""

    attention: AttentionSpec
    attention_norm: NormSpec
    mlp: MlpSpec
    mlp_norm: NormSpec
    cross: AttentionSpec | None = None
    cross_norm: NormSpec | None = None

    @property
    def branches(self) -> tuple[tuple[AttentionSpec | MlpSpec, NormSpec], ...]:
        """In their order, each with its norm."""
        first, last = (self.attention, self.attention_norm), (self.mlp, self.mlp_norm)
        if self.cross is None or self.cross_norm is None:
            return first, last
        return first, (self.cross, self.cross_norm), last


@dataclass(frozen=True, slots=True)
class StackSpec:
    """The layers of an encoder or a decoder.

    Attributes:
        norm: of the last layer's result.
        after: whether a branch's norm is that of the stream after the branch was added, and takes the stream's place
            (BART); if not, it is of what the branch reads.
    """

    embedding: EmbeddingSpec
    layers: tuple[LayerSpec, ...]
    norm: NormSpec
    after: bool = False


@dataclass(frozen=True, kw_only=True)
class Seq2SeqSpec(Description):
    """A whole model; both stacks have the same token vectors."""

    builder: ClassVar[str] = "tgi_server.models.seq2seq:Seq2Seq"

    encoder: StackSpec
    decoder: StackSpec
    head: HeadSpec

    @cached_property
    def pasts(self) -> tuple[Past, ...]:
        """Two a layer of the decoder: of its own text, and of the encoder's output."""
        pasts = []
        for layer in self.decoder.layers:
            own, cross = layer.attention, layer.cross
            assert cross is not None
            pasts.append(Past(CacheGroup(CacheKind.FULL), own.key.units, own.key.width, own.value.width))
            pasts.append(Past(CacheGroup(CacheKind.ENCODER), cross.key.units, cross.key.width, cross.value.width))
        return tuple(pasts)

    @property
    def attentions(self) -> list[AttentionSpec]:
        """Every attention of the model."""
        stacks = self.encoder.layers + self.decoder.layers
        return [branch for layer in stacks for branch, _ in layer.branches if isinstance(branch, AttentionSpec)]

    def shards_that_work(self) -> list[int]:
        """See `Description`: as many as all have a head of each layer, if both stacks share their heads alike."""
        most = min(self.vocab_size, *(attention.query.units for attention in self.attentions))
        return [n for n in range(1, most + 1) if all(self._alike(rank, n) for rank in range(n))]

    def _alike(self, rank: int, world: int) -> bool:
        """Whether a rank's keys of an encoder's layer fit where those of cross-attention will be (`Seq2Seq.encode`)."""
        sizes = set()
        for own in self.attentions:
            _, (first, last) = spread.heads(own.query.units, own.key.units, rank, world)
            sizes.add(((last - first) * own.key.width, (last - first) * own.value.width))
        return len(sizes) == 1

    def unsplit(self) -> str:
        """See `Description`."""
        return ", ".join(f"{heads} attention heads" for heads in sorted({a.query.units for a in self.attentions}))

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """See `Description`; what several layers share comes once."""
        return iter(dict(self._tensors()).items())

    def _tensors(self) -> Iterator[tuple[str, Shape]]:
        from tgi_server.models import tensors  # which knows the other descriptions

        yield from tensors.head(self, self.head)
        for stack in (self.encoder, self.decoder):
            yield from tensors.embedding(self, stack.embedding)
            yield from tensors.norm(stack.norm, self.hidden_size)
            for layer in stack.layers:
                for branch, norm in layer.branches:
                    yield from tensors.norm(norm, self.hidden_size)
                    yield from tensors.branch(branch, self.hidden_size)

    @property
    def tied(self) -> str | None:
        """See `Description`."""
        return self._vectors if self.head.name is None and not self.head.or_tied else None

    @property
    def inseparable(self) -> str | None:
        """See `Description`: where only the checkpoint tells whether the head is its own."""
        return self._vectors if self.head.or_tied else None

    @property
    def _vectors(self) -> str:
        return f"{self.decoder.embedding.name}.weight"

    def untied(self, head: str) -> Seq2SeqSpec:
        """See `Description`."""
        return replace(self, head=replace(self.head, name=head))

    def layers(self) -> tuple[str, int]:
        """See `Description`; those of the decoder."""
        return self.decoder.layers[0].attention.query.name.partition(".0.")[0], len(self.decoder.layers)
