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

from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ConfigError
from tgi_server.kernels.attention import AttentionBatch, LayerCache
from tgi_server.kernels.native import calls
from tgi_server.kernels.operations import Angles
from tgi_server.models.description import Description
from tgi_server.models.model import EncoderModel, Inputs, Model
from tgi_server.shard.batch import StepInputs
from tgi_server.types import BLOCK_SIZE, CacheKind

log = logging.getLogger(__name__)

MOST_RECORDED = 128
"""Largest batch that has a recording of its own on a CPU, where each size gets one when it is first met."""
GRAPH_SIZES = (1, 2, 4, 8, *range(16, 129, 16), 160, 192, 224, 256)
"""Batch sizes that have a CUDA graph, made at the start; a step between two sizes is padded to the larger."""

Run = Callable[[StepInputs], Tensor]
"""Computes a step: hidden states `[tokens, hidden]`, one row for each new position."""


def best_forward(
    model: Model, caches: Sequence[LayerCache], spec: Description, options: BatchingOptions,
    cuda_graphs: bool | None = None, rows: int = 1,
) -> Run:  # fmt: skip
    """The fastest way to run `model` that works; the log says which.

    `spec` describes the model. `cuda_graphs` None leaves the choice; graphs need a last block in the caches that no
    sequence has. `rows` are the most of a sequence in a decode step, guesses included. Raises ConfigError when graphs
    are demanded where they cannot work.
    """
    if cuda_graphs and caches[0].keys.device.type != "cuda":
        raise ConfigError("enable_cuda_graphs=true: there is no CUDA device")
    if cuda_graphs and model.recorder != "graphs":
        raise ConfigError("enable_cuda_graphs=true: some of the model's operations cannot be recorded")
    run = _best_forward(model, caches, spec, options, cuda_graphs, rows)
    return EncoderForward(model, caches, run) if spec.start_token_id is not None else run


def _best_forward(
    model: Model, caches: Sequence[LayerCache], spec: Description, options: BatchingOptions, cuda_graphs: bool | None,
    rows: int,
) -> Run:  # fmt: skip
    if model.recorder is None or (model.recorder == "graphs" and cuda_graphs is False):
        log.info("steps are not recorded")
        return Forward(model, caches)
    if model.recorder == "calls":
        log.info("decode steps are recorded")
        return NativeForward(model, caches, Buffers(MOST_RECORDED, options.max_total_tokens, model, caches, spec))
    try:
        capture = _capture_on(torch.cuda.Stream())  # type: ignore[no-untyped-call]
        return GraphForward(model, caches, spec, options, capture, rows)
    except RuntimeError as error:  # a driver, a library or too little memory: there is another way
        if cuda_graphs:
            raise ConfigError(f"enable_cuda_graphs=true: recording failed: {error}") from error
        log.warning("no CUDA graphs, recording failed: %s", error)
        return Forward(model, caches)


def begin(model: Model, inputs: StepInputs) -> Inputs:
    """What enters the model's blocks."""
    return model.begin(inputs.ids, inputs.positions, inputs.lengths, inputs.limits)


class Forward:
    """A step computed the plain way."""

    def __init__(self, model: Model, caches: Sequence[LayerCache]) -> None:
        self._model = model
        self._caches = caches

    def __call__(self, inputs: StepInputs) -> Tensor:
        """See `Run`."""
        return self._model.forward(begin(self._model, inputs), self._caches, inputs.batches)


class EncoderForward:
    """Prompts go through the encoder of the model; then the step as `run` computes it."""

    def __init__(self, model: Model, caches: Sequence[LayerCache], run: Run) -> None:
        assert isinstance(model, EncoderModel)
        self._model = model
        self._caches = caches
        self._step = run

    def __call__(self, inputs: StepInputs) -> Tensor:
        """See `Run`."""
        if (sources := inputs.sources) is not None:
            residual = self._model.begin_source(sources.ids, sources.positions)
            if self._model.recorder == "calls":
                with calls.record() as recording:
                    self._model.encode(residual, self._caches, sources.batch)
                recording.run()
            else:
                self._model.encode(residual, self._caches, sources.batch)
        return self._step(inputs)


class Buffers:
    """Inputs of steps with one new position for each of up to `most` sequences of up to `longest` positions."""

    def __init__(self, most: int, longest: int, model: Model, caches: Sequence[LayerCache], spec: Description) -> None:
        device = caches[0].keys.device
        self.most = most
        self.inputs = _zeros_like(_sample(model, device), most)
        self._starts = torch.arange(most + 1, device=device)
        self._blocks = -(-longest // BLOCK_SIZE)
        shapes = [(most,), (most,), (most, self._blocks)]
        self._groups = [[torch.zeros(shape, dtype=torch.int64, device=device) for shape in shapes] for _ in spec.groups]
        """Contexts, slots and block table of each group."""
        self._spare = [0] * len(self._groups)
        for cache, group in zip(caches, spec.group_of, strict=True):
            self._spare[group] = len(cache.keys) - 1
        self._sizes = [1 if group.kind is CacheKind.STATE else BLOCK_SIZE for group in spec.groups]
        """Slots in a block of each group."""

    def fill(self, inputs: Inputs, batches: Sequence[AttentionBatch]) -> None:
        """Put a decode step in."""
        count = len(inputs.residual)
        self.inputs.residual[:count] = inputs.residual
        for own, given in zip(self.inputs.angles, inputs.angles, strict=True):
            own.cos[:count] = given.cos
            own.sin[:count] = given.sin
        for (contexts, slots, table), batch in zip(self._groups, batches, strict=True):
            contexts[:count] = batch.contexts
            slots[:count] = batch.slots
            table[:count, : batch.block_tables.shape[1]] = batch.block_tables

    def clear(self, start: int, stop: int) -> None:
        """Let rows [start, stop) stand for sequences of one position, in the last block of the caches."""
        self.inputs.residual[start:stop] = 0
        for (contexts, slots, table), block, size in zip(self._groups, self._spare, self._sizes, strict=True):
            contexts[start:stop] = 1
            slots[start:stop] = block * size
            table[start:stop, 0] = block

    def forward(self, model: Model, caches: Sequence[LayerCache], size: int) -> Tensor:
        """The model on the first `size` rows of the buffers, whatever they will hold."""
        batches = [
            AttentionBatch(
                query_starts=list(range(size + 1)),
                query_lengths=[1] * size,
                context_lengths=[self._blocks * BLOCK_SIZE] * size,
                starts=self._starts[: size + 1],
                contexts=contexts[:size],
                block_tables=table[:size],
                slots=slots[:size],
            )
            for contexts, slots, table in self._groups
        ]
        angles = tuple(Angles(own.cos[:size], own.sin[:size]) for own in self.inputs.angles)
        return model.forward(Inputs(self.inputs.residual[:size], angles), caches, batches)


def _sample(model: Model, device: torch.device) -> Inputs:
    """Inputs of one token, which have the widths of all others."""
    zero = torch.zeros(1, dtype=torch.int64)
    return model.begin(zero.to(device), zero.to(device), zero.numpy(), zero.numpy())


def _zeros_like(sample: Inputs, rows: int) -> Inputs:
    def zeros(x: Tensor) -> Tensor:
        return x.new_zeros(rows, x.shape[1])

    return Inputs(zeros(sample.residual), tuple(Angles(zeros(a.cos), zeros(a.sin)) for a in sample.angles))


class NativeForward:
    """The same through recordings of compiled calls, when all of the model's operations are such.

    Each size of decode step is recorded when it is first met; any other step is recorded, run, and forgotten, as that
    wakes the threads once instead of at each call.
    """

    def __init__(self, model: Model, caches: Sequence[LayerCache], buffers: Buffers) -> None:
        self._model = model
        self._caches = caches
        self._buffers = buffers
        self._recorded: dict[int, tuple[calls.Recording, Tensor]] = {}

    def __call__(self, inputs: StepInputs) -> Tensor:
        """See `Run`. The result of a decode step is overwritten by the next step."""
        entering = begin(self._model, inputs)
        if _is_decode(inputs) and len(inputs.ids) <= self._buffers.most:
            self._buffers.fill(entering, inputs.batches)
            recording, hidden = self._decode(len(inputs.ids))
        else:
            with calls.record() as recording:
                hidden = self._model.forward(entering, self._caches, inputs.batches)
        recording.run()
        return hidden

    def _decode(self, size: int) -> tuple[calls.Recording, Tensor]:
        if size not in self._recorded:
            with calls.record(strict=True) as recording:  # it runs again without what is no recorded call
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
        self, model: Model, caches: Sequence[LayerCache], spec: Description, options: BatchingOptions,
        capture: Capture, rows: int = 1,
    ) -> None:  # fmt: skip
        self._plain = Forward(model, caches)
        self._model = model
        wanted = options.max_concurrent_requests * rows
        most = next((size for size in GRAPH_SIZES if size >= wanted), GRAPH_SIZES[-1])
        self._sizes = [size for size in GRAPH_SIZES if size <= most]
        self._buffers = Buffers(most, options.max_total_tokens, model, caches, spec)
        self._buffers.clear(0, most)
        self._graphs = {
            size: capture(partial(self._buffers.forward, model, caches, size))
            for size in reversed(self._sizes)  # the largest first: the smaller ones fit into its memory
        }
        log.info("CUDA graphs for batches of %s", ", ".join(map(str, self._sizes)))

    def __call__(self, inputs: StepInputs) -> Tensor:
        """See `Run`. The result of a decode step is overwritten by the next step."""
        count = len(inputs.ids)
        if not _is_decode(inputs) or count > self._sizes[-1]:
            return self._plain(inputs)
        size = next(size for size in self._sizes if size >= count)
        self._buffers.fill(begin(self._model, inputs), inputs.batches)
        if count < size:
            self._buffers.clear(count, size)
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
    return len(inputs.ids) == len(inputs.batches[0].query_lengths)
