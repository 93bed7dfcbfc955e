"""Decode steps recorded once for each batch size and run again on new numbers: compiled calls on CPUs, graphs on CUDA.

What is recorded are addresses and sizes. Inputs are therefore copied into buffers that stay, of which a recording of n
sequences sees the first n rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

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


def best_forward(
    model: Decoder, caches: Sequence[LayerCache], options: BatchingOptions, cuda_graphs: bool | None = None
) -> Callable[[StepInputs], Tensor]:
    """The fastest way to run `model` that works; the log says which.

    `cuda_graphs` None leaves the choice; graphs need a last block in the caches that no sequence has. Raises
    ConfigError when graphs are demanded where they cannot work.
    """
    device = caches[0].keys.device
    if device.type == "cpu" and cuda_graphs:
        raise ConfigError("enable_cuda_graphs=true: there is no CUDA device")
    if not model.recordable and cuda_graphs:
        raise ConfigError("enable_cuda_graphs=true: some of the model's operations cannot be recorded")
    if not model.recordable or (device.type == "cuda" and cuda_graphs is False):
        log.info("steps are not recorded")
        return Forward(model, caches)
    if device.type == "cpu":
        log.info("decode steps are recorded")
        return NativeForward(model, caches, Buffers(MOST_RECORDED, options.max_total_tokens, model.hidden_size, device))
    try:
        return GraphForward(model, caches, options, _capture_on(torch.cuda.Stream()))  # type: ignore[no-untyped-call]
    except RuntimeError as error:  # a driver, a library or too little memory: there is another way
        if cuda_graphs:
            raise ConfigError(f"enable_cuda_graphs=true: recording failed: {error}") from error
        log.warning("no CUDA graphs, recording failed: %s", error)
        return Forward(model, caches)


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


class Graph(Protocol):
    """What runs a recorded step again; a `torch.cuda.CUDAGraph` is one."""

    def replay(self) -> None:
        """Do what was recorded."""


Capture = Callable[[Callable[[], Tensor]], tuple[Graph, Tensor]]
"""Records what a function does; gives the recording and where the function's result will be."""


class GraphForward:
    """The same through CUDA graphs for decode steps; other steps are computed the plain way.

    Padded rows write to the last block of the caches, which belongs to no sequence.
    """

    def __init__(
        self, model: Decoder, caches: Sequence[LayerCache], options: BatchingOptions, capture: Capture
    ) -> None:
        self._plain = Forward(model, caches)
        self._model = model
        self._spare_slot = (len(caches[0].keys) - 1) * BLOCK_SIZE
        most = next((size for size in GRAPH_SIZES if size >= options.max_concurrent_requests), GRAPH_SIZES[-1])
        self._sizes = [size for size in GRAPH_SIZES if size <= most]
        self._buffers = Buffers(most, options.max_total_tokens, model.hidden_size, caches[0].keys.device)
        self._buffers.clear(0, most, self._spare_slot)
        self._graphs = {
            size: capture(partial(self._buffers.forward, model, caches, size))
            for size in reversed(self._sizes)  # the largest first: the smaller ones fit into its memory
        }
        log.info("CUDA graphs for batches of %s", ", ".join(map(str, self._sizes)))

    def __call__(self, inputs: StepInputs) -> Tensor:
        """See `Forward`. The result of a decode step is overwritten by the next step."""
        count = len(inputs.ids)
        if not _is_decode(inputs) or count > self._sizes[-1]:
            return self._plain(inputs)
        size = next(size for size in self._sizes if size >= count)
        self._buffers.fill(self._model.embed(inputs.ids), inputs)
        if count < size:
            self._buffers.clear(count, size, self._spare_slot)
        graph, hidden = self._graphs[size]
        graph.replay()
        return hidden[:count]


def _capture_on(stream: torch.cuda.Stream) -> Capture:
    """Capture CUDA graphs that share their memory, on one stream: cuBLAS keeps a workspace for each."""
    pool: Any = torch.cuda.graph_pool_handle()

    def capture(run: Callable[[], Tensor]) -> tuple[Graph, Tensor]:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()  # what libraries set up lazily must not be part of the graph
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            hidden = run()
        return graph, hidden

    return capture


def _is_decode(inputs: StepInputs) -> bool:
    return len(inputs.ids) == len(inputs.attention.query_lengths)
