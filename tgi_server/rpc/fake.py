"""Shards without a model: deterministic tokens, for tests and for measuring the router alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tgi_server.errors import GenerationError, UnhealthyError
from tgi_server.rpc.fake_cache import FakeCache
from tgi_server.types import BLOCK_SIZE, CacheKind, GroupInfo, NewSequence, Outcome, Plan, ShardInfo, TopTokens

FAKE_INFO = ShardInfo(
    dtype="float32", device_type="cpu", groups=[GroupInfo(CacheKind.FULL, None, 4096)], efficient_tokens=4096,
    vocab_size=256, eos_token_ids=[],
)  # fmt: skip


@dataclass(slots=True)
class _Known:
    new: NewSequence
    computed: int = 0
    tokens: int = 0

    @property
    def length(self) -> int:
        """Tokens of the prompt and generated ones."""
        return len(self.new.prompt_ids) + self.tokens

    @property
    def full(self) -> bool:
        """It has all the tokens that it may have."""
        return self.length >= self.new.max_length

    def drafts(self, most: int) -> int:
        """How many tokens are guessed."""
        decodes = self.tokens and self.computed == self.length - 1
        return max(0, min(most, self.new.max_length - self.length - 1)) if decodes else 0


class FakeModel:
    """Answers plans as a shard would, and checks that they are consistent (AssertionError when not).

    It remembers what is in the cache's blocks, so that sharing them and using them again is checked too. Where it may
    guess d tokens, a sequence of n tokens gets 1 + n mod (d + 1) of them.

    Args:
        info: of the shard that it stands for.
        choose: the token of a sequence at a position (prompt positions count); by default a mix of its seed, the
            prompt's sum and the position.

    Attributes:
        failures: sequence id → message; such a sequence fails at its next step.
        unguided: the same for sequences whose grammar turns out to be too much.
        misled: sequences that were to find in the cache what a failed one left out: what they get means nothing.
        logprob: of each token of a sequence.
    """

    def __init__(self, info: ShardInfo = FAKE_INFO, choose: Callable[[NewSequence, int], int] | None = None) -> None:
        self.failures: dict[int, str] = {}
        self.unguided: dict[int, str] = {}
        self.misled: set[int] = set()
        self.logprob: Callable[[NewSequence], float] = lambda new: -0.5
        self._info = info
        self._choose = choose or self._mix
        self._known: dict[int, _Known] = {}
        self._ever: set[int] = set()
        self._failed: set[int] = set()
        encoded = info.start_token_id is not None
        self._caches = [FakeCache(group, number, encoded) for number, group in enumerate(info.groups)]
        self._next_step = 0

    def step(self, plan: Plan) -> Outcome:
        """The outcome of `plan`."""
        assert plan.step == self._next_step, f"step {plan.step} came instead of {self._next_step}"
        assert plan.ids and len(plan.ids) == len(plan.counts) == len(set(plan.ids)), "ids and counts do not match"
        assert plan.draft <= self._info.draft_width, f"{plan.draft} tokens cannot be guessed"
        self._next_step += 1
        for id in plan.finished:
            self._forget(id)
        for new in plan.new:
            self._add(new)
        outcome = Outcome(plan.step, plan.ids, [], [], [])
        for id, count in zip(plan.ids, plan.counts, strict=True):
            outcome.counts.append(self._advance(id, count, plan.draft, outcome))
        for new in plan.new:
            held = [cache.begin(new) for cache in self._caches]
            if not all(held):
                self.misled.add(new.id)
        return outcome

    def _add(self, new: NewSequence) -> None:
        assert new.id not in self._ever, f"sequence {new.id} is announced twice"
        self._ever.add(new.id)
        assert len(new.blocks) == len(self._caches), f"sequence {new.id} has blocks of {len(new.blocks)} groups"
        assert new.cached % BLOCK_SIZE == 0 and new.cached < len(new.prompt_ids), f"{new.cached} positions are cached"
        assert not new.cached or self._info.prefix_cacheable, "prefixes of this model are not worth keeping"
        for cache in self._caches:
            cache.add(new)
        self._known[new.id] = _Known(new, new.cached)

    def _forget(self, id: int) -> None:
        assert id in self._ever, f"sequence {id} is finished before it came"
        if known := self._known.pop(id, None):
            for cache in self._caches:
                cache.forget(known.new)
        self._failed.discard(id)

    def _advance(self, id: int, count: int, draft: int, outcome: Outcome) -> int:
        """Compute the positions of a sequence; returns how many tokens it gets."""
        if id in self._failed:
            return 0
        assert id in self._known, f"sequence {id} is not known"
        known = self._known[id]
        assert 0 < count <= known.length - known.computed, f"sequence {id} has no {count} positions"
        start, stop = known.computed, known.computed + count
        if id in self.failures:
            outcome.failed[id] = self.failures.pop(id)
            self._failed.add(id)
        guessed = known.drafts(draft)
        whole = 0 if id in self._failed else min(stop, len(known.new.prompt_ids))
        if self._info.start_token_id is not None:
            assert start or stop == len(known.new.prompt_ids), f"an encoder reads the prompt of {id} whole"
        for cache in self._caches:
            cache.write(known.new, start, stop + guessed, whole)
            if start < len(known.new.prompt_ids) <= stop:
                cache.prompt_done(known.new)
        if known.full:
            return 0
        if guessed:
            outcome.guessed[id] = guessed
        tokens = 1 + known.length % (guessed + 1) if id not in self._failed and stop == known.length else 0
        known.computed = stop + max(0, tokens - 1)
        if tokens:
            self._yield(known, tokens, outcome)
        return tokens

    def _yield(self, known: _Known, count: int, outcome: Outcome) -> None:
        new = known.new
        tokens = [self._choose(new, known.length + offset) for offset in range(count)]
        outcome.tokens.extend(tokens)
        outcome.logprobs.extend([self.logprob(new)] * count)
        if new.id in self.unguided:
            outcome.unguided[new.id] = self.unguided.pop(new.id)
        if new.sampling.top_n_tokens:
            outcome.top_tokens[new.id] = [self._others(token, new.sampling.top_n_tokens) for token in tokens]
        if new.sampling.prompt_logprobs and not known.tokens:
            following = new.prompt_ids[1:] if self._info.start_token_id is None else []
            outcome.prompt_logprobs[new.id] = [-1.0] * len(following)
            if alternatives := new.sampling.prompt_top_tokens:
                outcome.prompt_top_tokens[new.id] = [self._others(id, alternatives) for id in following]
        known.tokens += count

    def _others(self, id: int, count: int) -> TopTokens:
        ids = [(id + other) % self._info.vocab_size for other in range(count)]
        return TopTokens(ids, [-0.5 - other for other in range(count)])

    def _mix(self, new: NewSequence, position: int) -> int:
        return (new.sampling.seed * 31 + sum(new.prompt_ids) * 7 + position * 13) % self._info.vocab_size


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
        self.model = FakeModel(info, choose)
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
        worked = round(self._step_seconds * 1e9)
        outcome = replace(self.model.step(plan), forward_ns=worked, wait_ns=round(wait * 1e9))
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
