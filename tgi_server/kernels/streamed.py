"""Weights that come a few outputs at a time: what rearranges a layer never has it twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from tgi_server.kernels import threads
from tgi_server.kernels.formats import Dense, Format, row_tensors

STEP = 32
"""Outputs that are read together, or a multiple of it."""
STEP_NUMBERS = 1 << 18
"""About so many numbers are read together: they stay near the processor until they have been rearranged."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A weight of which some outputs can be had without the others.

    Attributes:
        outputs: how many it has.
        numbers: that are read for one output, about.
        read: gives the outputs [first, last); several threads may call it at once.
    """

    outputs: int
    numbers: int
    read: Callable[[int, int], Format]

    @classmethod
    def of(cls, weight: Format) -> Streamed:
        """A weight that is there already."""
        tensors = row_tensors(weight)
        outputs = len(next(iter(tensors.values())))

        def read(first: int, last: int) -> Format:
            cut = {name: tensor[first:last].contiguous() for name, tensor in tensors.items()}
            return replace(weight, **cut)  # type: ignore[arg-type]

        return cls(outputs, max(tensor.numel() for tensor in tensors.values()) // outputs, read)

    def widened(self, dtype: torch.dtype) -> Streamed:
        """The same as a matrix in `dtype`."""
        return replace(self, read=lambda first, last: Dense(self.read(first, last).widened(dtype)))

    def sample(self) -> Format:
        """Its first output, which tells the format."""
        return self.read(0, 1)

    def each(self, use: Callable[[int, Format], None]) -> None:
        """Call `use` with the first output of each part, and the part; from several threads."""
        step = max(1, STEP_NUMBERS // (STEP * self.numbers)) * STEP
        threads.each(
            lambda first: use(first, self.read(first, min(first + step, self.outputs))),
            range(0, self.outputs, step),
        )

    def whole(self) -> Format:
        """All of it."""
        sample = self.sample()
        room = {name: x.new_empty((self.outputs, *x.shape[1:])) for name, x in row_tensors(sample).items()}

        def place(first: int, part: Format) -> None:
            for name, tensor in row_tensors(part).items():
                room[name][first : first + len(tensor)] = tensor

        self.each(place)
        return replace(sample, **room)  # type: ignore[arg-type]
