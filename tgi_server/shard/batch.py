"""The sequences a shard knows, and a plan turned into the arrays of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi_server.attention.base import AttentionBatch
from tgi_server.types import BLOCK_SIZE, NewSequence, Plan, SamplingParams

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One step, flattened: `tokens` is the sum of the plan's counts.

    Attributes:
        ids, positions: int64 `[tokens]`.
        attention: where they stand in the cache.
        yielding: indices into the plan's ids of the sequences that get a new token.
        last_rows: int64 `[len(yielding)]`, the row whose hidden state decides that token.
    """

    ids: Tensor
    positions: Tensor
    attention: AttentionBatch
    yielding: list[int]
    last_rows: Tensor


class BatchState:
    """Tokens, lengths and block tables of all known sequences, as rows of a few matrices.

    A row holds `max_tokens` token ids; rows are reused, and more are made when all are taken.
    """

    def __init__(self, max_tokens: int, device: torch.device, rows: int = 32) -> None:
        blocks = -(-max_tokens // BLOCK_SIZE)
        self._device = device
        self._tokens = np.zeros((rows, max_tokens + 1), np.int64)
        self._tables = np.zeros((rows, blocks), np.int64)
        self._known = np.zeros(rows, np.int64)  # ids in _tokens
        self._computed = np.zeros(rows, np.int64)  # of those, in the cache
        self._free = list(range(rows))[::-1]
        self._rows: dict[int, int] = {}
        self._announced: dict[int, NewSequence] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def update(self, plan: Plan) -> None:
        """Forget the plan's finished sequences and take in its new ones."""
        for id in plan.finished:
            self.forget(id)
        for new in plan.new:
            self._add(new)

    def forget(self, id: int) -> None:
        """Drop a sequence; an unknown one is ignored."""
        row = self._rows.pop(id, None)
        if row is not None:
            del self._announced[id]
            self._free.append(row)

    def _add(self, new: NewSequence) -> None:
        if not self._free:
            self._grow()
        row = self._free.pop()
        n = len(new.prompt_ids)
        self._tokens[row, :n] = new.prompt_ids
        self._tables[row, : len(new.blocks)] = new.blocks
        self._known[row], self._computed[row] = n, new.cached
        self._rows[new.id], self._announced[new.id] = row, new

    def _grow(self) -> None:
        rows = len(self._known)
        for name in ("_tokens", "_tables", "_known", "_computed"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))
        self._free = list(range(rows, 2 * rows))[::-1]

    def sampling(self, id: int) -> SamplingParams:
        """The parameters sequence `id` came with."""
        return self._announced[id].sampling

    def prompt_length(self, id: int) -> int:
        """How many ids sequence `id` came with."""
        return len(self._announced[id].prompt_ids)

    def known(self, id: int) -> IntArray:
        """The ids of sequence `id` so far, prompt and generated."""
        row = self._rows[id]
        tokens: IntArray = self._tokens[row, : self._known[row]]
        return tokens

    def computed(self, id: int) -> int:
        """How many positions of sequence `id` are in the cache."""
        return int(self._computed[self._rows[id]])

    def inputs(self, plan: Plan) -> StepInputs:
        """The arrays of `plan`'s step. Raises KeyError for an id that was never announced."""
        rows = np.array([self._rows[id] for id in plan.ids], np.int64)
        counts = np.array(plan.counts, np.int64)
        computed = self._computed[rows]
        starts = np.concatenate([[0], np.cumsum(counts)])
        row_of = np.repeat(rows, counts)
        positions = np.arange(starts[-1]) + np.repeat(computed - starts[:-1], counts)
        slots = self._tables[row_of, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        context = computed + counts
        yielding = np.flatnonzero(context == self._known[rows])
        blocks = -(-int(context.max()) // BLOCK_SIZE)
        return StepInputs(
            ids=self._tensor(self._tokens[row_of, positions]),
            positions=self._tensor(positions),
            attention=AttentionBatch(
                query_starts=starts.tolist(),
                query_lengths=plan.counts,
                context_lengths=context.tolist(),
                starts=self._tensor(starts),
                contexts=self._tensor(context),
                block_tables=self._tensor(self._tables[rows, :blocks]),
                slots=self._tensor(slots),
            ),
            yielding=yielding.tolist(),
            last_rows=self._tensor(starts[1:][yielding] - 1),
        )

    def advance(self, plan: Plan, yielding: Sequence[int], tokens: Sequence[int]) -> None:
        """Note that the plan's positions are in the cache and that the yielding sequences got `tokens`."""
        for id, count in zip(plan.ids, plan.counts, strict=True):
            self._computed[self._rows[id]] += count
        for index, token in zip(yielding, tokens, strict=True):
            row = self._rows[plan.ids[index]]
            self._tokens[row, self._known[row]] = token
            self._known[row] += 1

    def _tensor(self, array: IntArray) -> Tensor:
        host = torch.from_numpy(np.ascontiguousarray(array))
        if self._device.type != "cuda":
            return host
        return host.pin_memory().to(self._device, non_blocking=True)  # without pinned memory the copy waits for the GPU
