"""What a step costs, by what it computes; and what passes around the steps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Shape:
    """What a step computes, as far as its time depends on it.

    Attributes:
        prompt_tokens: of prompts, in all sequences together.
        pairs: of a prompt token and a position that it sees, in all sequences together.
        rows: sequences that decode.
        context: positions that these see, in all sequences together.
        ends: prompts that are computed to their end, so that they get their first token.
    """

    prompt_tokens: int
    pairs: int
    rows: int
    context: int
    ends: int = 0

    @property
    def tokens(self) -> int:
        """All that go through the layers."""
        return self.prompt_tokens + self.rows


class StepCosts(Protocol):
    """Seconds of steps on one machine with one model."""

    def seconds(self, shape: Shape) -> float:
        """From when the shards begin with a step to when its outcome is on its way."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A shape that was measured: the median over `steps` steps."""

    shape: Shape
    seconds: float
    steps: int = 1


@dataclass(frozen=True)
class MeasuredCosts:
    """What was measured, as a sum of what depends on one number each.

    Tokens of prompts and of decoding sequences go through the same layers: `layers` are the seconds that these take
    for as many tokens as `sizes` says, linear between them. All else is in proportion: attention of prompts to the
    pairs, that of decoding sequences to the positions they see, scores and choice of tokens to those that get one.

    Attributes:
        sizes: rising.
        layers: one for each of `sizes`.
        pair: seconds of one.
        position: seconds of one.
        choice: seconds of one token chosen.
        between: seconds from one step to the next that is there already.
    """

    sizes: Sequence[int]
    layers: Sequence[float]
    pair: float
    position: float
    choice: float
    between: float = 0.0

    def seconds(self, shape: Shape) -> float:
        """See `StepCosts`; `between` is not part of it."""
        of_attention = shape.pairs * self.pair + shape.context * self.position
        return self._layers(shape.tokens) + of_attention + (shape.rows + shape.ends) * self.choice

    def _layers(self, tokens: int) -> float:
        if tokens <= self.sizes[0] or len(self.sizes) == 1:
            return self.layers[0]
        upper = min(bisect_right(self.sizes, tokens), len(self.sizes) - 1)
        low, high, first = self.sizes[upper - 1], self.sizes[upper], self.layers[upper - 1]
        return first + (self.layers[upper] - first) * (tokens - low) / (high - low)


@dataclass(frozen=True)
class Loaded:
    """Costs of steps while a server is under load: router and clients want the same processor as the shards.

    Attributes:
        alone: costs of steps without that.
        step: seconds more a step.
        token: seconds more for each token that comes of it.
    """

    alone: MeasuredCosts
    step: float = 0.0
    token: float = 0.0

    def seconds(self, shape: Shape) -> float:
        """See `StepCosts`."""
        return self.alone.seconds(shape) + self.alone.between + self.step + self.token * (shape.rows + shape.ends)


@dataclass(frozen=True)
class Overheads:
    """What passes around the steps, in seconds.

    Attributes:
        before: from when a client sends a request to when it can be planned.
        after: from when an outcome is on its way to when clients have its tokens.
    """

    before: float = 0.0
    after: float = 0.0
