"""What a step costs, by what it computes; and what passes around the steps."""

from __future__ import annotations

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


class StepCosts(Protocol):
    """Seconds of steps on one machine with one model."""

    def seconds(self, shape: Shape) -> float:
        """From when the shards begin with a step to when its outcome is on its way."""


@dataclass(frozen=True)
class Overheads:
    """What passes around the steps, in seconds.

    Attributes:
        before: from when a client sends a request to when it can be planned.
        after: from when an outcome is on its way to when clients have its tokens.
    """

    before: float = 0.0
    after: float = 0.0
