"""Shards without a model: deterministic tokens, for tests and for measuring the router alone."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tgi_server.errors import GenerationError, UnhealthyError
from tgi_server.types import BLOCK_SIZE, NewSequence, Outcome, Plan, ShardInfo, TopTokens

FAKE_INFO = ShardInfo(
    dtype="float32", device_type="cpu", num_blocks=4096, efficient_tokens=4096, vocab_size=256, eos_token_ids=[]
)


@dataclass(slots=True)
class _Known:
    new: NewSequence
    computed: int = 0
    tokens: int = 0


class FakeModel:
    """Answers plans as a shard would, and checks that they are consistent (AssertionError when not).

    It remembers which prompt tokens are in the cache's blocks, so that sharing them is checked too.

    Args:
        vocab_size: token ids are below it.
        choose: the token of a sequence at a position (prompt positions count); by default a mix of its seed, the
            prompt's sum and the position.

    Attributes:
        failures: sequence id → message; such a sequence fails at its next step.
        unguided: the same for sequences whose grammar turns out to be too much.
        logprob: of each token of a sequence.
    """

    def __init__(self, vocab_size: int, choose: Callable[[NewSequence, int], int] | None = None) -> None:
        self.failures: dict[int, str] = {}
        self.unguided: dict[int, str] = {}
        self.logprob: Callable[[NewSequence], float] = lambda new: -0.5
        self._vocab_size = vocab_size
        self._choose = choose or self._mix
        self._known: dict[int, _Known] = {}
        self._ever: set[int] = set()
        self._failed: set[int] = set()
        self._owners: dict[int, set[int]] = defaultdict(set)
        self._contents: dict[int, tuple[Sequence[int], int]] = {}  # block → a prompt, and where in it the block ends
        self._next_step = 0

    def step(self, plan: Plan) -> Outcome:
        """The outcome of `plan`."""
        assert plan.step == self._next_step, f"step {plan.step} came instead of {self._next_step}"
        assert plan.ids and len(plan.ids) == len(plan.counts) == len(set(plan.ids)), "ids and counts do not match"
        self._next_step += 1
        for id in plan.finished:
            self._forget(id)
        for new in plan.new:
            self._add(new)
        outcome = Outcome(plan.step, plan.ids, [], [], [])
        for id, count in zip(plan.ids, plan.counts, strict=True):
            self._advance(id, count, outcome)
        return outcome

    def _add(self, new: NewSequence) -> None:
        assert new.id not in self._ever, f"sequence {new.id} is announced twice"
        self._ever.add(new.id)
        assert len(set(new.blocks)) == len(new.blocks), f"sequence {new.id} has a block twice"
        assert new.cached % BLOCK_SIZE == 0 and new.cached < len(new.prompt_ids), f"{new.cached} positions are cached"
        shared = new.cached // BLOCK_SIZE
        for index, block in enumerate(new.blocks):
            owners = self._owners[block]
            if index < shared:
                prompt, end = self._contents.get(block, ([], 0))
                assert end == (index + 1) * BLOCK_SIZE, f"block {block} does not end at {(index + 1) * BLOCK_SIZE}"
                assert prompt[:end] == new.prompt_ids[:end], f"block {block} does not hold the start of {new.id}"
            else:
                assert not owners, f"block {block} of sequence {new.id} belongs to sequence {min(owners)}"
            owners.add(new.id)
        self._known[new.id] = _Known(new, new.cached)

    def _forget(self, id: int) -> None:
        assert id in self._ever, f"sequence {id} is finished before it came"
        if known := self._known.pop(id, None):
            for block in known.new.blocks:
                self._owners[block].remove(id)
        self._failed.discard(id)

    def _advance(self, id: int, count: int, outcome: Outcome) -> None:
        if id in self._failed:
            outcome.counts.append(0)
            return
        assert id in self._known, f"sequence {id} is not known"
        known = self._known[id]
        known.computed += count
        prompt = len(known.new.prompt_ids)
        assert 0 < count <= prompt + known.tokens - (known.computed - count), f"sequence {id} has no {count} positions"
        assert known.computed <= len(known.new.blocks) * BLOCK_SIZE, f"sequence {id} runs out of its blocks"
        if id in self.failures:
            outcome.failed[id] = self.failures.pop(id)
            self._failed.add(id)
        yields = id not in self._failed and known.computed == prompt + known.tokens
        outcome.counts.append(int(yields))
        self._write(known, known.computed - count)
        if yields:
            self._yield(known, outcome)

    def _write(self, known: _Known, start: int) -> None:
        """Positions from `start` get into the cache; what a failed step leaves there is as good as nothing."""
        new = known.new
        whole = 0 if new.id in self._failed else min(known.computed, len(new.prompt_ids))
        for index in range(start // BLOCK_SIZE, -(-known.computed // BLOCK_SIZE)):
            block, end = new.blocks[index], (index + 1) * BLOCK_SIZE
            assert self._owners[block] == {new.id}, f"sequence {new.id} writes into block {block}, which others read"
            if end <= whole:
                self._contents[block] = new.prompt_ids, end
            else:
                self._contents.pop(block, None)

    def _yield(self, known: _Known, outcome: Outcome) -> None:
        new = known.new
        outcome.tokens.append(self._choose(new, known.computed))
        outcome.logprobs.append(self.logprob(new))
        if new.id in self.unguided:
            outcome.unguided[new.id] = self.unguided.pop(new.id)
        if new.sampling.top_n_tokens:
            outcome.top_tokens[new.id] = [self._others(outcome.tokens[-1], new.sampling.top_n_tokens)]
        if new.sampling.prompt_logprobs and not known.tokens:
            following = new.prompt_ids[1:]
            outcome.prompt_logprobs[new.id] = [-1.0] * len(following)
            if count := new.sampling.prompt_top_tokens:
                outcome.prompt_top_tokens[new.id] = [self._others(id, count) for id in following]
        known.tokens += 1

    def _others(self, id: int, count: int) -> TopTokens:
        others = range(count)
        return TopTokens([(id + other) % self._vocab_size for other in others], [-0.5 - other for other in others])

    def _mix(self, new: NewSequence, position: int) -> int:
        return (new.sampling.seed * 31 + sum(new.prompt_ids) * 7 + position * 13) % self._vocab_size


class FakeShards:
    """`Shards` in this process, around a `FakeModel`.

    Args:
        info: what the shards tell about themselves.
        step_seconds: how long the imagined device works on a step.
        choose: see `FakeModel`.

    Attributes:
        model: the model, with its injected failures.
        plans: every plan that was sent.
    """

    def __init__(
        self,
        info: ShardInfo = FAKE_INFO,
        step_seconds: float = 0.0,
        choose: Callable[[NewSequence, int], int] | None = None,
    ) -> None:
        self.model = FakeModel(info.vocab_size, choose)
        self.plans: list[Plan] = []
        self._info = info
        self._step_seconds = step_seconds
        self._busy_until = 0.0
        self._queue: asyncio.Queue[tuple[Outcome, float] | GenerationError] = asyncio.Queue()
        self._death: str | None = None

    def kill(self, message: str = "shard 0 died") -> None:
        """From now on nothing is computed and everything raises, as if a shard's process had ended."""
        self._death = message
        self._queue.put_nowait(GenerationError(message))

    async def connect(self) -> ShardInfo:
        """See `Shards`."""
        return self._info

    async def send(self, plan: Plan) -> None:
        """See `Shards`. The device takes plans one after the other."""
        self._alive()
        self.plans.append(plan)
        now = time.monotonic()
        wait = max(0.0, now - self._busy_until) if self._busy_until else 0.0
        self._busy_until = max(self._busy_until, now) + self._step_seconds
        outcome = replace(self.model.step(plan), wait_ns=round(wait * 1e9))
        self._queue.put_nowait((outcome, self._busy_until))

    async def receive(self) -> Outcome:
        """See `Shards`."""
        self._alive()
        item = await self._queue.get()
        if isinstance(item, GenerationError):
            raise item
        outcome, ready = item
        if (wait := ready - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        self._alive()
        return outcome

    async def health(self) -> None:
        """See `Shards`."""
        if self._death is not None:
            raise UnhealthyError(self._death)

    async def close(self) -> None:
        """See `Shards`."""

    def _alive(self) -> None:
        if self._death is not None:
            raise GenerationError(self._death)
