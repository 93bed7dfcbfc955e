"""What a row of the kernel table is, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

Operation = Literal[
    "add_norm",
    "mean_squares",
    "rotate_store",
    "gate",
    "attention",
    "convolve",
    "scan",
    "linear",
    "experts",
    "head",
    "sample",
]
"""add_norm, mean_squares, rotate_store and gate are declared in `operations`, attention and experts in files of their
names, convolve and scan in `recurrent`, sample in `sampling`, the rest in `plain`."""

Recorder = Literal["calls", "graphs"]
"""How steps are recorded to be run again: as lists of compiled calls (`native.calls`), or as CUDA graphs."""


def nothing(needs: Needs) -> list[str]:
    """No reason against it."""
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an operation is needed for.

    Attributes:
        device: where the tensors are.
        dtype: of the activations.
        plain: whether nothing but torch may be used (option `disable_custom_kernels`).
        library: the only library wanted for attention (option `attention`); None for the best.
        key_width, value_width: of a head of keys and of values, for attention and rotate_store.
        format: class of a linear layer's weight, or of those of experts.
        inputs: numbers in a row of a linear layer's input; of experts what divides those of all their layers.
    """

    device: torch.device
    dtype: torch.dtype
    plain: bool = False
    library: str | None = None
    key_width: int = 64
    value_width: int = 64
    format: type | None = None
    inputs: int = 64


@dataclass(frozen=True, slots=True)
class Kernel:
    """One library's implementation of one operation.

    Attributes:
        operation: which it computes.
        library: whose code it is; what the library as a whole needs is known to the table.
        load: gives the callable, importing what it needs only then.
        unsupported: reasons why this one cannot serve; empty when it can.
        recorder: how a step that uses it can be recorded; None when it cannot.
        detail: what of the processor it uses, for people; None where there is nothing to tell.
        streams: whether it takes a weight as `streamed.Streamed`, too.
    """

    operation: Operation
    library: str
    load: Callable[[], Callable[..., Any]]
    unsupported: Callable[[Needs], list[str]] = nothing
    recorder: Recorder | None = None
    detail: Callable[[], str] | None = None
    streams: bool = False
