"""The sequences a shard knows, and a plan turned into the arrays of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from tgi_server.cache.kinds import CacheGroup, blocks_of
from tgi_server.kernels.attention import AttentionBatch
from tgi_server.kernels.sampling import Masks, SamplingRows
from tgi_server.rope.table import IntArray
from tgi_server.shard.parameters import Parameters
from tgi_server.shard.rows import Rows, last_of, slots_of
from tgi_server.shard.sampler import Watermark
from tgi_server.speculate.base import Drafts
from tgi_server.types import CacheKind, NewSequence, Plan, SamplingParams

FULL = CacheGroup(CacheKind.FULL)


@dataclass(frozen=True, slots=True)
class Sources:
    """Whole prompts that an encoder reads in a step, flattened: `ids` and `positions` are int64 `[tokens]`."""

    ids: Tensor
    positions: Tensor
    batch: AttentionBatch


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One step, flattened: `tokens` is the sum of the plan's counts and of the guessed tokens; where an encoder reads
    the prompts, each new sequence has one token in it, and its prompt in `sources`.

    The rows of a sequence follow each other, its guessed tokens last. To the model each guess is a sequence of its own
    with one new position, whose blocks are those of the sequence that it may belong to: keys and values of a step are
    in the cache before its queries look there. So a step with guesses is a decode step, only a larger one.

    Attributes:
        ids, positions: int64 `[tokens]`.
        starts: int64 `[sequences]`, on the host: the first row of each of the plan's sequences.
        batches: where they stand in the cache, one for each group of layers. A group of states has its slot for a
            table, and in `slots`; one of encoder outputs has the prompts' lengths for contexts, and slots that mean
            nothing behind a prompt.
        lengths: int64 `[tokens]`, on the host: that of the prompt for its positions, position + 1 for later ones.
        limits: int64 `[tokens]`, on the host: most positions that the sequence will ever have.
        yielding: indices into the plan's ids of the sequences that get new tokens.
        scored: for each of these, how many rows decide: one, and one for each guessed token.
        deciding: for each of these, the first row that decides; the others follow it.
        score_rows: int64 `[sum of scored]`, all rows whose hidden states decide.
        sources: None where no prompt is to be encoded.
    """

    ids: Tensor
    positions: Tensor
    starts: IntArray
    batches: list[AttentionBatch]
    lengths: IntArray
    limits: IntArray
    yielding: list[int]
    scored: list[int]
    deciding: list[int]
    score_rows: Tensor
    sources: Sources | None = None


class BatchState:
    """Tokens, lengths and block tables of all known sequences, as rows of a few matrices.

    A row holds `max_tokens` token ids, guessed ones included; rows are reused, and more are made when all are taken.

    Args:
        groups: of layers whose caches are addressed alike.
        start: the token that texts begin with when an encoder reads the prompts; None where they continue the prompt.
    """

    def __init__(
        self, max_tokens: int, device: torch.device, groups: Sequence[CacheGroup] = (FULL,), rows: int = 32,
        start: int | None = None,
    ) -> None:  # fmt: skip
        self._device = device
        self._start = start
        self._kinds = [group.kind for group in groups]
        self._tokens = np.zeros((rows, max_tokens + 1), np.int64)
        widths = [1 if kind is CacheKind.STATE else blocks_of(max_tokens) for kind in self._kinds]
        self._tables = [np.zeros((rows, width), np.int64) for width in widths]
        self._lengths = np.zeros((rows, 2), np.int64)  # of what the text begins with, and at most
        self._prompts = np.zeros(rows, np.int64)  # their lengths
        self._known = np.zeros(rows, np.int64)  # ids in _tokens
        self._computed = np.zeros(rows, np.int64)  # of those, in the cache
        self._parameters = Parameters(rows)
        self._free = list(range(rows))[::-1]
        self._rows: dict[int, int] = {}
        self._announced: dict[int, NewSequence] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> list[int]:
        """Those of the sequences that are known."""
        return list(self._rows)

    @property
    def repeatable(self) -> bool:
        """Whether positions may be computed again: what is kept of each has a place of its own."""
        return CacheKind.STATE not in self._kinds

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
            self._parameters.drop(row)
            self._free.append(row)

    def _add(self, new: NewSequence) -> None:
        if not self._free:
            self._grow()
        row = self._free.pop()
        begun = new.prompt_ids if self._start is None else [self._start]
        n, prompt = len(begun), len(new.prompt_ids)
        self._tokens[row, :n] = begun
        for table, blocks in zip(self._tables, new.blocks, strict=True):
            table[row, : len(blocks)] = blocks
        self._lengths[row] = n, new.max_length - prompt + n
        self._prompts[row] = prompt
        self._parameters.put(row, new.sampling, n)
        self._known[row], self._computed[row] = n, new.cached
        self._rows[new.id], self._announced[new.id] = row, new

    def _grow(self) -> None:
        rows = len(self._known)
        for name in ("_tokens", "_lengths", "_prompts", "_known", "_computed"):
            setattr(self, name, _doubled(getattr(self, name)))
        self._tables = [_doubled(table) for table in self._tables]
        self._parameters.grow()
        self._free = list(range(rows, 2 * rows))[::-1]

    def sampling(self, id: int) -> SamplingParams:
        """The parameters sequence `id` came with."""
        return self._announced[id].sampling

    def prompt_length(self, id: int) -> int:
        """How many ids the text of sequence `id` began with: its prompt, or the token that stands for it."""
        return int(self._lengths[self._rows[id], 0])

    def known(self, id: int, drafts: int = 0) -> IntArray:
        """The ids of the text of `id` so far, with the prompt that it continues, and the first `drafts` guesses."""
        row = self._rows[id]
        tokens: IntArray = self._tokens[row, : self._known[row] + drafts]
        return tokens

    def computed(self, id: int) -> int:
        """How many positions of sequence `id` are in the cache."""
        return int(self._computed[self._rows[id]])

    def rooms(self, ids: Sequence[int]) -> list[int]:
        """How many tokens may be guessed of each sequence; 0 unless its last generated token is all that is left.

        There is one certain token in every step, so the last one that it may have is never guessed.
        """
        rows = np.array([self._rows[id] for id in ids], np.int64)
        prompts, limits = self._lengths[rows].T
        known, computed = self._known[rows], self._computed[rows]
        decodes = (prompts <= computed) & (computed == known - 1)
        rooms: list[int] = np.where(decodes, np.maximum(0, limits - known - 1), 0).tolist()
        return rooms

    def inputs(self, plan: Plan, drafts: Drafts | None = None) -> StepInputs:
        """The arrays of `plan`'s step. Raises KeyError for an id that was never announced."""
        rows = np.array([self._rows[id] for id in plan.ids], np.int64)
        computed, known, lengths = self._computed[rows], self._known[rows], self._lengths[rows]
        counts = self._counts(plan)
        # one that has all its tokens is computed again: the plan was made before that was known
        yielding = np.flatnonzero((computed + counts == known) & (known < lengths[:, 1]))
        guessed = self._write(plan, rows, drafts) if drafts else np.zeros_like(rows)
        each = 1 + guessed  # as many sequences as the model sees in the place of one
        seen = rows, computed, counts
        if drafts:
            places = np.arange(each.sum()) - np.repeat(each.cumsum() - each, each)
            seen = np.repeat(rows, each), np.repeat(computed, each) + places, np.repeat(counts, each)
        step = Rows.of(*seen)
        of_rows = lengths if step.row_of is rows else self._lengths[step.row_of]
        stops = step.starts[each.cumsum()]
        return StepInputs(
            ids=self._tensor(self._tokens[step.row_of, step.positions]),
            positions=self._tensor(step.positions),
            starts=stops - counts - guessed,
            batches=self._batches(step),
            lengths=np.maximum(of_rows[:, 0], step.positions + 1),
            limits=of_rows[:, 1],
            yielding=yielding.tolist(),
            scored=each[yielding].tolist(),
            deciding=(stops - each)[yielding].tolist(),
            score_rows=self._tensor(last_of(stops[yielding], each[yielding] if drafts else None)),
            sources=None if self._start is None else self._sources(plan, rows[computed == 0]),
        )

    def sampling_rows(
        self, ids: Sequence[int], scored: Sequence[int], watermark: Watermark, masks: Masks | None = None
    ) -> SamplingRows:
        """How the sequences `ids` get tokens: `scored[i]` of them, after the known ids and then each guessed one."""
        counts = np.array(scored, np.int64)
        rows = np.fromiter(map(self._rows.__getitem__, ids), np.int64, len(ids))
        known = last_of(self._known[rows] + counts, counts)
        rows = np.repeat(rows, counts)
        records = self._parameters.records(rows, known, self._tokens[rows, known - 1])
        if masks is not None:
            records["guide"][masks.rows] = np.arange(len(masks.rows))
        words, bias = None if masks is None else masks.words, self._parameters.bias(rows)
        return SamplingRows(records, self._tokens, watermark.gamma, watermark.delta, bias, words)

    def _counts(self, plan: Plan) -> IntArray:
        """New positions of each text."""
        return np.array(plan.counts, np.int64) if self._start is None else np.ones(len(plan.ids), np.int64)

    def _sources(self, plan: Plan, rows: IntArray) -> Sources | None:
        """The prompts of the plan's sequences that have nothing in the cache, of which these are the rows."""
        if not len(rows):
            return None
        fresh = set(rows.tolist())
        ids = [self._announced[id].prompt_ids for id in plan.ids if self._rows[id] in fresh]
        step = Rows.of(rows, np.zeros_like(rows), self._prompts[rows])
        (batch,) = self._batches(step, CacheKind.ENCODER)
        flat = np.fromiter(chain.from_iterable(ids), np.int64, len(step.positions))
        return Sources(self._tensor(flat), self._tensor(step.positions), batch)

    def _write(self, plan: Plan, rows: IntArray, drafts: Drafts) -> IntArray:
        """Put guessed tokens behind the known ones; how many each of the plan's sequences has."""
        guessed = np.zeros_like(rows)
        for index, (id, row) in enumerate(zip(plan.ids, rows.tolist(), strict=True)):
            if tokens := drafts.get(id):
                known = self._known[row]
                self._tokens[row, known : known + len(tokens)] = tokens
                guessed[index] = len(tokens)
        return guessed

    def _batches(self, step: Rows, only: CacheKind | None = None) -> list[AttentionBatch]:
        """One for each group, or for those of one kind; what is the same for all of them is made once."""
        starts, lengths, contexts = step.starts.tolist(), step.counts.tolist(), step.contexts.tolist()
        on_device = self._tensor(step.starts), self._tensor(step.contexts)
        batches = []
        for kind, tables in zip(self._kinds, self._tables, strict=True):
            if only not in (None, kind):
                continue
            if kind is CacheKind.ENCODER:
                batches.append(self._encoder_batch(step, starts, lengths, on_device[0], tables))
                continue
            if kind is CacheKind.STATE:
                table, slots = tables[step.rows], tables[step.row_of, 0]
            else:
                table = tables[step.rows, : blocks_of(max(contexts))]
                slots = slots_of(tables, step.row_of, step.positions)
            placed = self._tensor(table), self._tensor(slots)
            batches.append(AttentionBatch(starts, lengths, contexts, *on_device, *placed))
        return batches

    def _encoder_batch(
        self, step: Rows, starts: list[int], lengths: list[int], on_device: Tensor, tables: IntArray
    ) -> AttentionBatch:
        prompts = self._prompts[step.rows]
        slots = slots_of(tables, step.row_of, np.minimum(step.positions, self._prompts[step.row_of] - 1))
        table = tables[step.rows, : blocks_of(int(prompts.max()))]
        placed = self._tensor(prompts), self._tensor(table), self._tensor(slots)
        return AttentionBatch(starts, lengths, prompts.tolist(), on_device, *placed)

    def advance(self, plan: Plan, yielding: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Note that the plan's positions are in the cache and that the yielding sequences got `tokens`.

        Those of them that were guessed are in the cache as well.
        """
        rows = np.array([self._rows[id] for id in plan.ids], np.int64)
        self._computed[rows] = np.minimum(self._computed[rows] + self._counts(plan), self._lengths[rows, 1] - 1)
        rows, flat = rows[yielding], [*chain.from_iterable(tokens)]
        if len(flat) == len(rows):  # one each
            self._tokens[rows, self._known[rows]] = flat
            self._known[rows] += 1
            return
        counts = np.array([*map(len, tokens)], np.int64)
        self._tokens[np.repeat(rows, counts), last_of(self._known[rows] + counts, counts)] = flat
        self._known[rows] += counts
        self._computed[rows] += counts - 1

    def _tensor(self, array: IntArray) -> Tensor:
        host = torch.from_numpy(np.ascontiguousarray(array))
        if self._device.type != "cuda":
            return host
        return host.pin_memory().to(self._device, non_blocking=True)  # without pinned memory the copy waits for the GPU


def _doubled(array: IntArray) -> IntArray:
    return np.concatenate([array, np.zeros_like(array)])
