"""What runner, recordings, prompt scores and the profiler use of a model, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from tgi_server.kernels.attention import AttentionBatch, LayerCache
from tgi_server.kernels.operations import Angles
from tgi_server.kernels.row import Recorder
from tgi_server.kernels.table import Choice
from tgi_server.rope.table import IntArray


@dataclass(frozen=True, slots=True)
class Inputs:
    """What enters a decoder's blocks in a step; it can be copied into buffers that stay.

    Attributes:
        residual: float32 `[tokens, hidden]`, changed in place.
        angles: one for each kind of rotary positions that the model has.
    """

    residual: Tensor
    angles: tuple[Angles, ...]


class Model(Protocol):
    """What generates, on one rank.

    Attributes:
        hidden_size: width of the residual stream.
        choices: who computes its operations.
        recorder: how `forward` may be recorded and run again with other data at the same addresses; None if not.
    """

    hidden_size: int
    choices: list[Choice]
    recorder: Recorder | None

    def begin(self, ids: Tensor, positions: Tensor, lengths: IntArray, limits: IntArray) -> Inputs:
        """Embed a step's tokens: all int64 `[tokens]`; lengths and limits as `rope.base.Rope` wants them."""
        ...

    def forward(self, inputs: Inputs, caches: Sequence[LayerCache], batches: Sequence[AttentionBatch]) -> Tensor:
        """Hidden states `[tokens, hidden]` in the serving dtype. `caches` has one a layer, `batches` one a group."""
        ...

    def logits(self, hidden: Tensor) -> Tensor | None:
        """Hidden states `[rows, hidden]` to float32 logits `[rows, vocabulary]` on rank 0, None elsewhere."""
        ...


@runtime_checkable
class EncoderModel(Model, Protocol):
    """A model whose decoder attends to what an encoder says of the prompt."""

    def begin_source(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Embed prompts: both int64 `[tokens]`, to float32 `[tokens, hidden]`, which `encode` changes in place."""
        ...

    def encode(self, residual: Tensor, caches: Sequence[LayerCache], batch: AttentionBatch) -> None:
        """Read whole prompts; what `forward` needs of them is in the caches then. `batch` is that of their group."""
        ...
