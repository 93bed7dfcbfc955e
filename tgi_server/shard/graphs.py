"""Decode steps recorded once for each batch size and run again on new numbers: compiled calls on CPUs, graphs on CUDA.

What is recorded are addresses and sizes. Inputs are therefore copied into buffers that stay, of which a recording of n
sequences sees the first n rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tgi_server.attention.base import AttentionBatch, LayerCache
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ConfigError
from tgi_server.models.decoder import Decoder
from tgi_server.native import calls
from tgi_server.shard.batch import StepInputs
from tgi_server.types import BLOCK_SIZE

log = logging.getLogger(__name__)

MOST_RECORDED = 128
"""Largest batch that has a recording of its own on a CPU, where each size gets one when it is first met."""
GRAPH_SIZES = (1, 2, 4, 8, *range(16, 129, 16), 160, 192, 224, 256)
"""Batch sizes that have a CUDA graph, made at the start; a step between two sizes is padded to the larger."""

Run = Callable[[], Tensor]


def best_forward(
    model: Decoder, caches: Sequence[LayerCache], options: BatchingOptions, cuda_graphs: bool | None, spare_slot: int
) -> Callable[[StepInputs], Tensor]:
    """The fastest way to run `model` that works; `cuda_graphs` None leaves the choice, `spare_slot` see GraphForward.

    Raises ConfigError when graphs are demanded where they cannot work.
    """
    device = caches[0].keys.device
    reasons = [] if model.recordable else ["some of the model's operations cannot be recorded"]
    if device.type == "cpu":
        if cuda_graphs:
            raise ConfigError("enable_cuda_graphs=true: there is no CUDA device")
        if reasons:
            return Forward(model, caches)
        buffers = Buffers(MOST_RECORDED, options.max_total_tokens, model.hidden_size, device)
        return NativeForward(model, caches, buffers)
    if cuda_graphs and reasons:
        raise ConfigError(f"enable_cuda_graphs=true: {reasons[0]}")
    if cuda_graphs is False or reasons:
        log.info("no CUDA graphs: %s", reasons[0] if reasons else "enable_cuda_graphs=false")
        return Forward(model, caches)
    most = next((size for size in GRAPH_SIZES if size >= options.max_concurrent_requests), GRAPH_SIZES[-1])
    buffers = Buffers(most, options.max_total_tokens, model.hidden_size, device)
    return GraphForward(model, caches, buffers, spare_slot, [size for size in GRAPH_SIZES if size <= most])


class Forward:
    """Hidden states of a step, computed the plain way."""

    def __init__(self, model: Decoder, caches: Sequence[LayerCache]) -> None:
        self._model = model
        self._caches = caches

    def __call__(self, inputs: StepInputs) -> Tensor:
        """`[tokens, hidden]`, one row for each new position."""
        residual = self._model.embed(inputs.ids)
        return self._model.forward(residual, inputs.positions, self._caches, inputs.attention)


class Buffers:
    """Inputs of steps with one new position for each of up to `most` sequences of up to `longest` positions."""

    def __init__(self, most: int, longest: int, hidden: int, device: torch.device) -> None:
        self.most = most
        self.residual = torch.zeros(most, hidden, device=device)
        self._positions, self._slots, self._contexts = (
            torch.zeros(most, dtype=torch.int64, device=device) for _ in range(3)
        )
        self._starts = torch.arange(most + 1, device=device)
        self._blocks = -(-longest // BLOCK_SIZE)
        self._tables = torch.zeros(most, self._blocks, dtype=torch.int64, device=device)

    def fill(self, residual: Tensor, inputs: StepInputs) -> None:
        """Put a decode step in."""
        count, batch = len(residual), inputs.attention
        self.residual[:count] = residual
        self._positions[:count] = inputs.positions
        self._slots[:count] = batch.slots
        self._contexts[:count] = batch.contexts
        self._tables[:count, : batch.block_tables.shape[1]] = batch.block_tables

    def clear(self, start: int, stop: int, slot: int) -> None:
        """Let rows [start, stop) stand for sequences of one position, which lives in `slot`."""
        self.residual[start:stop] = 0
        self._positions[start:stop] = 0
        self._slots[start:stop] = slot
        self._contexts[start:stop] = 1
        self._tables[start:stop, 0] = slot // BLOCK_SIZE

    def forward(self, model: Decoder, caches: Sequence[LayerCache], size: int) -> Tensor:
        """The model on the first `size` rows of the buffers, whatever they will hold."""
        batch = AttentionBatch(
            query_starts=list(range(size + 1)),
            query_lengths=[1] * size,
            context_lengths=[self._blocks * BLOCK_SIZE] * size,
            starts=self._starts[: size + 1],
            contexts=self._contexts[:size],
            block_tables=self._tables[:size],
            slots=self._slots[:size],
        )
        return model.forward(self.residual[:size], self._positions[:size], caches, batch)


class NativeForward:
    """The same through recordings of compiled calls, when all of the model's operations are such.

    Each size of decode step is recorded when it is first met; any other step is recorded, run, and forgotten, as that
    wakes the threads once instead of at each call.
    """

    def __init__(self, model: Decoder, caches: Sequence[LayerCache], buffers: Buffers) -> None:
        self._model = model
        self._caches = caches
        self._buffers = buffers
        self._recorded: dict[int, tuple[calls.Recording, Tensor]] = {}

    def __call__(self, inputs: StepInputs) -> Tensor:
        """See `Forward`. The result of a decode step is overwritten by the next step."""
        residual = self._model.embed(inputs.ids)
        if _is_decode(inputs) and len(residual) <= self._buffers.most:
            self._buffers.fill(residual, inputs)
            recording, hidden = self._decode(len(residual))
        else:
            with calls.record() as recording:
                hidden = self._model.forward(residual, inputs.positions, self._caches, inputs.attention)
        recording.run()
        return hidden

    def _decode(self, size: int) -> tuple[calls.Recording, Tensor]:
        if size not in self._recorded:
            with calls.record() as recording:
                hidden = self._buffers.forward(self._model, self._caches, size)
            self._recorded[size] = recording, hidden
        return self._recorded[size]


class GraphForward:
    """The same through CUDA graphs for decode steps; other steps are computed the plain way.

    Padded rows write to `spare_slot`, which belongs to no sequence.
    """

    def __init__(
        self, model: Decoder, caches: Sequence[LayerCache], buffers: Buffers, spare_slot: int, sizes: Sequence[int]
    ) -> None:
        self._plain = Forward(model, caches)
        self._model = model
        self._buffers = buffers
        self._spare_slot = spare_slot
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        pool = torch.cuda.graph_pool_handle()
        buffers.clear(0, max(sizes), spare_slot)
        for size in sorted(sizes, reverse=True):  # the largest first: the smaller ones fit into its memory
            self._graphs[size] = _capture(lambda size=size: buffers.forward(model, caches, size), pool)  # type: ignore[misc]
        log.info("CUDA graphs for batches of %s", ", ".join(map(str, sizes)))

    def __call__(self, inputs: StepInputs) -> Tensor:
        """See `Forward`. The result of a decode step is overwritten by the next step."""
        count = len(inputs.ids)
        size = next((size for size in sorted(self._graphs) if size >= count), None)
        if size is None or not _is_decode(inputs):
            return self._plain(inputs)
        self._buffers.fill(self._model.embed(inputs.ids), inputs)
        self._buffers.clear(count, size, self._spare_slot)
        graph, hidden = self._graphs[size]
        graph.replay()
        return hidden[:count]


def _capture(run: Run, pool: Any) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A graph of `run`, after running it once: what libraries set up lazily must not be part of it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        hidden = run()
    return graph, hidden


def _is_decode(inputs: StepInputs) -> bool:
    return len(inputs.ids) == len(inputs.attention.query_lengths)
