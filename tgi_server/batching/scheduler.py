"""Decides what each step computes. Arithmetic only: no clock, no device, no waiting.

Plans may be made ahead of their outcomes: a step of a running sequence is one position for sure, whichever tokens come.
Where shards guess tokens it may bring more of them, which is found out when it is committed (`Plan.draft`).
The shards run plans strictly in order, so what one plan gives up (`Plan.finished`, and the blocks behind it) may be
used again by the same plan. Tokens that arrive for a sequence which has ended meanwhile are dropped.

With prefix caching the blocks that a prompt fills may be shared as soon as the step that fills them is planned. Should
it fail, so do all who count on what is in them. Nobody writes into them any more, because a sequence writes only behind
the prompt blocks that it found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Items

from tgi_server.batching.blocks import BlockPool
from tgi_server.batching.cache import Cache
from tgi_server.batching.policy import Cause, ChunkedPolicy, PausingPolicy, Policy
from tgi_server.batching.prefix import block_keys
from tgi_server.batching.sequence import Progress, Sequence
from tgi_server.cache.kinds import CacheGroup, unshared
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import GenerationError, TgiError, ValidationError
from tgi_server.types import FinishReason, Outcome, Plan, ShardInfo


class Scheduler:
    """The waiting and running sequences and the cache blocks they own.

    Args:
        options: token budgets and the rule for letting waiting sequences in.
        info: what the shards told about their caches, tokens and steps.

    Attributes:
        joined: why the last plan made new sequences join running ones; None when it did not, or went on with that.
        prefilled: prompt tokens that the last plan computes.
        unshared: why prompts that begin alike share no blocks; None if they do.
    """

    def __init__(self, options: BatchingOptions, info: ShardInfo) -> None:
        self.joined: Cause | None = None
        self.prefilled = 0
        self.unshared = _unshared(options, info)
        self._draft = info.draft_width
        encoded = info.start_token_id is not None
        chunk = None if encoded else options.prefill_chunk_tokens  # an encoder reads a prompt whole
        self._cache = Cache(info.groups, chunk, info.draft_width, self.unshared is None, encoded)
        self._policy: Policy = PausingPolicy(options, info.efficient_tokens, self._cache.needs)
        if chunk is not None:
            self._policy = ChunkedPolicy(chunk, options.max_batch_size, self._cache.needs)
        self._eos = frozenset(info.eos_token_ids)
        self._steps = 0
        self._named: tuple[Items[int], list[bytes]] = [], []  # the last prompt, and its blocks
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}
        self._open: dict[int, Sequence] = {}  # every sequence that has not ended, also the fully planned ones
        self._finished: list[int] = []  # told to the shards with the next plan

    @property
    def waiting(self) -> int:
        """Sequences that have not started."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences that further steps are needed for."""
        return len(self._running)

    @property
    def reserved_tokens(self) -> int:
        """Cache positions that running sequences own."""
        return self._cache.used_tokens

    @property
    def pools(self) -> dict[str, BlockPool]:
        """The cache blocks of each group of layers, to look at; see `Cache.pools`."""
        return self._cache.pools

    def add(self, sequence: Sequence) -> None:
        """Queue `sequence`. Raises ValidationError for one that no step and no cache could ever hold."""
        longest = self._policy.longest_prompt
        if longest is not None and sequence.input_length > longest:
            raise ValidationError(
                f"`inputs` must have at most {longest} tokens, the `max_batch_prefill_tokens` of this "
                f"server. Given: {sequence.input_length}"
            )
        if (limit := self._cache.measure(sequence)) is not None:
            raise ValidationError(
                f"`inputs` tokens + `max_new_tokens` must fit the cache of this server, {limit} tokens "
                f"(`max_batch_total_tokens`). "
                f"Given: {sequence.input_length} `inputs` tokens and {sequence.max_new_tokens} `max_new_tokens`"
            )
        if self.unshared is None and not sequence.request.sampling.prompt_logprobs:  # they need every position's logits
            sequence.prefix = self._names(sequence.request.prompt_ids)
        self._open[sequence.id] = sequence
        self._waiting.append(sequence)

    def abort(self, id: int, now: float) -> None:
        """End a sequence, waiting or running; one that has ended already is left alone."""
        sequence = self._open.get(id)
        if sequence is None:
            return
        if sequence.started is None:
            self._waiting.remove(sequence)
        self._end(sequence, now)

    def plan(self, now: float) -> Plan | None:
        """The next step, or None when there is nothing to compute."""
        running, cause = len(self._running), self._policy.cause
        for sequence, count in self._policy.under_way(self._running.values()):  # who starts may find it
            self._cache.fill(sequence, self._steps, sequence.prompt_left - count)
        count = self._policy.admit(self._waiting, self._running.values(), self._cache.free)
        self.joined = cause if count and running else None
        new = self._start(count, now)
        batch = self._policy.batch(new, self._running.values())
        if not batch:
            return None
        plan = Plan(
            step=self._steps,
            ids=[sequence.id for sequence, _ in batch],
            counts=[count for _, count in batch],
            new=[sequence.announcement() for sequence in new],
            finished=self._finished,
            draft=self._draft,
        )
        self._finished = []
        self._advance(batch)
        self._steps += 1
        return plan

    @property
    def steady(self) -> int:
        """How many plans from here on are sure to be like the one before: all decode, nobody starts or ends.

        That is if no sequence is added or aborted, and each step brings each sequence one token that ends nothing.
        """
        if self._draft or len(self._open) > len(self._running) + len(self._waiting):
            return 0
        left = [
            0 if sequence.prompt_left else sequence.max_new_tokens - sequence.committed - sequence.pending
            for sequence in self._running.values()
        ]
        most = min(left, default=0) - 1
        if most <= 0 or not self._waiting:
            return max(0, most)
        return min(most, self._policy.closed(self._waiting, len(self._running), self._cache.free))

    def skip(self, steps: int) -> None:
        """Do as so many plans and commits in turns would, `steady` at most; for those who know the outcomes."""
        for sequence in self._running.values():
            sequence.committed += steps
        self.joined, self._finished = None, []
        self._steps += steps
        self._policy.skip(steps)

    def commit(self, outcome: Outcome, now: float) -> list[Progress]:
        """Take in what a step produced: the progress of each sequence that is still open, in the plan's order."""
        progress = self._lost(outcome, now)
        start = 0
        for id, count in zip(outcome.ids, outcome.counts, strict=True):
            sequence = self._open.get(id)
            if sequence is not None and (count or id in outcome.failed or id in outcome.unguided):
                progress.append(self._progress(sequence, outcome, start, count))
                if progress[-1].finish or progress[-1].failure is not None:
                    self._end(sequence, now)
                elif count > 1 and sequence.fully_planned and id in self._running:  # more tokens than were counted on
                    self._retire(sequence)
            start += count
        return progress

    def _names(self, prompt_ids: Items[int]) -> list[bytes]:
        """Those of the blocks of a prompt; what is generated of one prompt at a time comes one after the other."""
        if self._named[0] is not prompt_ids:
            self._named = prompt_ids, block_keys(prompt_ids)
        return self._named[1]

    def _lost(self, outcome: Outcome, now: float) -> list[Progress]:
        """The end of those who count on what failed sequences should have left in the cache."""
        started = (sequence for sequence in self._open.values() if sequence.started is not None)
        progress = []
        for sequence in self._cache.prove(outcome.step, outcome.failed, started):
            if sequence.id not in outcome.failed:
                failure = GenerationError(next(iter(outcome.failed.values())))
                progress.append(Progress(sequence, [], [], [], failure=failure))
                self._end(sequence, now)
        return progress

    def _start(self, count: int, now: float) -> list[Sequence]:
        new = [self._waiting.popleft() for _ in range(count)]
        self._cache.start(new, self._steps)
        for sequence in new:
            sequence.started = now
            sequence.prompt_left -= sequence.cached
            self._running[sequence.id] = sequence
        return new

    def _advance(self, batch: list[tuple[Sequence, int]]) -> None:
        self.prefilled = 0
        for sequence, count in batch:
            of_prompt = sequence.advance(count)
            self.prefilled += of_prompt
            if of_prompt:
                self._cache.fill(sequence, self._steps, sequence.prompt_left)
                if not sequence.prompt_left:
                    self._cache.after_prompt(sequence)
            if sequence.fully_planned:
                self._retire(sequence)

    def _progress(self, sequence: Sequence, outcome: Outcome, start: int, count: int) -> Progress:
        tokens, finish = outcome.tokens[start : start + count], None
        if count:
            sequence.pending -= 1
        for used, token in enumerate(tokens, 1):
            finish = self._finish_reason(sequence, token, outcome)
            if finish is not None:
                del tokens[used:]
                break
        logprobs = outcome.logprobs[start : start + len(tokens)]
        tops = outcome.top_tokens.get(sequence.id, [])[: len(tokens)] if outcome.top_tokens else []
        failure = _failure(sequence.id, outcome) if outcome.failed or outcome.unguided else None
        return Progress(sequence, tokens, logprobs, tops, finish, failure)

    def _finish_reason(self, sequence: Sequence, token: int, outcome: Outcome) -> FinishReason | None:
        sequence.committed += 1
        if token in self._eos and not sequence.request.stopping.ignore_eos:
            return FinishReason.EOS_TOKEN
        if sequence.committed < sequence.max_new_tokens:
            return None
        return FinishReason.EOS_TOKEN if sequence.id in outcome.complete else FinishReason.LENGTH

    def _end(self, sequence: Sequence, now: float) -> None:
        sequence.ended = now
        del self._open[sequence.id]
        if sequence.id in self._running:
            self._retire(sequence)
        self._cache.release(sequence)

    def _retire(self, sequence: Sequence) -> None:
        """Give up its place with the next plan: no plan after the ones already made will name it."""
        del self._running[sequence.id]
        self._finished.append(sequence.id)
        self._cache.release(sequence)


def _failure(id: int, outcome: Outcome) -> TgiError | None:
    """What stopped a sequence: a shard that failed, or its own grammar."""
    if id in outcome.failed:
        return GenerationError(outcome.failed[id])
    if id in outcome.unguided:
        return ValidationError(outcome.unguided[id], logged="the grammar of a text turned out to be too much")
    return None


def _unshared(options: BatchingOptions, info: ShardInfo) -> str | None:
    """Why prompts that begin alike do not share blocks of this model's caches, if they do not."""
    if not info.prefix_cacheable:
        return "keys and values depend on the length of the prompt"
    groups = [CacheGroup(group.kind, group.window) for group in info.groups]
    return unshared(groups, options.prefix_caching, options.max_total_tokens)
