"""A model of recurrent layers, described by values. Stdlib only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from tgi_server.cache.kinds import CacheGroup, CacheKind
from tgi_server.models.description import Description, Past, Shape
from tgi_server.models.spec import EmbeddingSpec, HeadSpec, NormSpec, Source


@dataclass(frozen=True, slots=True)
class MixerSpec:
    """A layer: a short convolution and a selective state-space recurrence (arXiv:2312.00752), gated.

    Attributes:
        norm: of what it reads.
        value, gate: what computes the channels, and what they are multiplied by in the end; the units are channels.
        output: what reads the channels.
        convolution: tensor `[channels, 1, taps]`, named as the sources are; with `convolution_bias`, `[channels]`.
        select: tensor `[time_rank + 2 * states, channels]` of the layer whose outputs are what the time steps are made
            of, and what enters and leaves the states.
        time: tensors `[channels, time_rank]` and `[channels]` of the layer that makes the time steps.
        rates: tensor `[channels, states]`, logarithms of how fast states fade.
        skip: tensor `[channels]`, by which the channels pass the states.
    """

    norm: NormSpec
    value: Source
    gate: Source
    output: Source
    convolution: str
    convolution_bias: bool
    select: str
    time: str
    rates: str
    skip: str


@dataclass(frozen=True, kw_only=True)
class RecurrentSpec(Description):
    """A whole model.

    Attributes:
        channels, states: of each layer, and of each channel.
        taps: positions that the convolution sees.
        time_rank: numbers from which the time steps of all channels are made.
    """

    builder: ClassVar[str] = "tgi_server.models.recurrent:Recurrent"

    mixers: tuple[MixerSpec, ...]
    embedding: EmbeddingSpec
    norm: NormSpec
    head: HeadSpec
    channels: int
    states: int
    taps: int
    time_rank: int

    @cached_property
    def pasts(self) -> tuple[Past, ...]:
        """The last inputs of each layer's convolution, and its states."""
        states = (self.taps - 1, self.channels), (self.states, self.channels)
        return (Past(CacheGroup(CacheKind.STATE), states=states),) * len(self.mixers)

    def shards_that_work(self) -> list[int]:
        """See `Description`."""
        return list(range(1, min(self.channels, self.vocab_size) + 1))

    def unsplit(self) -> str:
        """See `Description`."""
        return f"{self.channels} channels"

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """See `Description`."""
        from tgi_server.models import tensors  # which knows the other descriptions

        yield from tensors.embedding(self, self.embedding)
        yield from tensors.norm(self.norm, self.hidden_size)
        yield from tensors.head(self, self.head)
        for mixer in self.mixers:
            yield from tensors.norm(mixer.norm, self.hidden_size)
            yield from tensors.columns((mixer.value, mixer.gate), self.hidden_size)
            yield from tensors.linear(mixer.output, (self.hidden_size, self.channels))
            yield from self._recurrence(mixer)

    def _recurrence(self, mixer: MixerSpec) -> Iterator[tuple[str, Shape]]:
        yield f"{mixer.convolution}.weight", (self.channels, 1, self.taps)
        if mixer.convolution_bias:
            yield f"{mixer.convolution}.bias", (self.channels,)
        yield f"{mixer.select}.weight", (self.time_rank + 2 * self.states, self.channels)
        yield f"{mixer.time}.weight", (self.channels, self.time_rank)
        yield f"{mixer.time}.bias", (self.channels,)
        yield mixer.rates, (self.channels, self.states)
        yield mixer.skip, (self.channels,)

    @property
    def tied(self) -> str | None:
        """See `Description`."""
        return f"{self.embedding.name}.weight" if self.head.name is None else None

    def untied(self, head: str) -> RecurrentSpec:
        """See `Description`."""
        return replace(self, head=replace(self.head, name=head))

    def layers(self) -> tuple[str, int]:
        """See `Description`."""
        return self.mixers[0].value.name.partition(".0.")[0], len(self.mixers)
