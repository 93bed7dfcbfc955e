"""What the steps of one generation took, for those who follow it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tgi_server.types import Outcome


@dataclass(slots=True)
class Phase:
    """Some steps together: their number, the time that rank 0 worked on them and that it waited for their plans."""

    steps: int = 0
    forward_ns: int = 0
    wait_ns: int = 0


@dataclass(slots=True)
class Steps:
    """The steps that a generation had a part in: up to its first token, and after it.

    Others may have had a part in the same steps, which took as long for all of them. `first` is when the first token
    arrived, in seconds on the monotonic clock; None until then.
    """

    prefill: Phase = field(default_factory=Phase)
    decode: Phase = field(default_factory=Phase)
    first: float | None = None

    def took(self, outcome: Outcome, tokens: int, now: float) -> None:
        """Another step is done, that brought it so many tokens."""
        phase = self.prefill if self.first is None else self.decode
        phase.steps += 1
        phase.forward_ns += outcome.forward_ns
        phase.wait_ns += outcome.wait_ns
        if tokens and self.first is None:
            self.first = now
