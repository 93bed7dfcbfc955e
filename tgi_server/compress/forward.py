"""Samples of a calibration text on their way through a model, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tgi_server.kernels.attention import AttentionBatch, LayerCache
from tgi_server.kernels.operations import Angles
from tgi_server.kernels.row import Needs
from tgi_server.launcher.hardware import preferred_dtype
from tgi_server.models.blocks import NOTHING, Block, LayerStep, Stream
from tgi_server.models.decoder import Embedding
from tgi_server.models.spec import AttentionSpec, BlockSpec, ModelSpec
from tgi_server.models.weights import WeightLoader
from tgi_server.rope.table import RotaryTable
from tgi_server.types import BLOCK_SIZE

_TOKENS = 2048
"""Of samples that are computed together, about."""

States = NDArray[np.float32]
"""The residual stream of all samples, `[samples, tokens, hidden]`; mostly a file."""
Watch = Callable[[float], None]
"""Told which part of the samples is done, 0 to 1; may raise."""


class Samples:
    """Runs blocks on samples of one length, each a text of its own.

    Args:
        spec: the model.
        needs: where, and in which dtype.
        length: tokens of a sample.
    """

    def __init__(self, spec: ModelSpec, needs: Needs, length: int) -> None:
        self._spec = spec
        self._needs = needs
        self._length = length
        self._each = -(-length // BLOCK_SIZE)
        self._together = max(1, _TOKENS // length)
        self._batch = cache(self._batch_of)

    def embed(self, load: WeightLoader, ids: NDArray[np.int64], states: States) -> None:
        """Put the vectors of `ids [samples, tokens]` in `states`."""
        embedding = Embedding(self._spec.embedding, self._spec.vocab_size, load, self._length)
        positions = torch.arange(self._length, device=self._needs.device)
        for number, sample in enumerate(ids):
            tokens = torch.from_numpy(sample).to(self._needs.device)
            states[number] = embedding(tokens, positions).cpu().numpy()

    def block(self, own: BlockSpec, load: WeightLoader) -> Callable[[Tensor], None]:
        """A block that changes rows `[samples * tokens, hidden]` as it changes the residual stream."""
        stream = Stream(load)
        block, caches = Block(own, stream, load), {}

        def run(residual: Tensor) -> None:
            count = len(residual) // self._length
            if count not in caches:
                caches[count] = self._cache(own.attention, count)
            batch = self._batch(count)
            attend = load.best("attention", **_widths(own.attention)).run(batch)
            step = LayerStep(self._angles(own.attention, count), attend, batch.slots, caches[count])
            stream.add(residual, block(residual, NOTHING, step))

        return run

    def run(self, block: Callable[[Tensor], None], states: States, watch: Watch, into: States | None = None) -> None:
        """Run `states` through a block, and keep what comes of it in `into`."""
        for part in self._parts(len(states)):
            residual = torch.from_numpy(np.array(states[part])).flatten(0, 1).to(self._needs.device)
            block(residual)
            if into is not None:
                into[part] = residual.view(-1, self._length, residual.shape[1]).cpu().numpy()
            watch(part.stop / len(states))

    def _parts(self, count: int) -> Iterator[slice]:
        for first in range(0, count, self._together):
            yield slice(first, min(first + self._together, count))

    def _batch_of(self, count: int) -> AttentionBatch:
        """`count` samples whose positions are all new."""
        length, device = self._length, self._needs.device
        starts, lengths = [length * number for number in range(count + 1)], [length] * count
        tables = torch.arange(count * self._each, device=device).view(count, -1)
        slots = (tables[:, :1] * BLOCK_SIZE + torch.arange(length, device=device)).flatten()
        contexts = torch.tensor(lengths, device=device)
        return AttentionBatch(
            starts, lengths, lengths, torch.tensor(starts, device=device), contexts, tables, slots
        )  # fmt: skip

    def _cache(self, own: AttentionSpec, count: int) -> LayerCache:
        shape = count * self._each, own.key.units, BLOCK_SIZE
        keys, values = (
            torch.zeros(*shape, source.width, dtype=self._needs.dtype, device=self._needs.device)
            for source in (own.key, own.value)
        )
        return LayerCache(keys, values)

    def _angles(self, own: AttentionSpec, count: int) -> Angles | None:
        if own.rope is None:
            return None
        positions = torch.arange(self._length, device=self._needs.device).repeat(count)
        lengths = np.full(len(positions), self._length)
        return RotaryTable(own.rope, self._length, self._needs.device).rows(positions, lengths, lengths)


def _widths(own: AttentionSpec) -> dict[str, int]:
    return {"key_width": own.key.width, "value_width": own.value.width}


def needs() -> Needs:
    """Where samples run: on a GPU in bfloat16 by torch itself, on processors as models are served there."""
    if torch.cuda.is_available():
        return Needs(device=torch.device("cuda"), dtype=torch.bfloat16, plain=True)
    return Needs(device=torch.device("cpu"), dtype=getattr(torch, preferred_dtype(gpu=False).value))
