"""Random arrivals, ends, aborts and failures, with up to two plans in flight; the books must balance every step.

Over caches of one and of several groups of layers, shards that guess tokens, and encoders. The model checks what is in
them.
"""

from collections import Counter, deque
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Sequence
from tgi_server.config.schema import BatchingOptions
from tgi_server.rpc.fake import FAKE_INFO, FakeModel
from tgi_server.types import (
    BLOCK_SIZE,
    CacheKind,
    GenerationRequest,
    GroupInfo,
    NewSequence,
    Plan,
    SamplingParams,
    StoppingParams,
)

BLOCKS = 12
BUDGET = 64
EOS = 0
CHUNK = 16
FULL = GroupInfo(CacheKind.FULL, None, BLOCKS)
GROUPS = [
    [FULL],
    [GroupInfo(CacheKind.WINDOW, 20, 8)],
    [FULL, GroupInfo(CacheKind.WINDOW, 1, 7), GroupInfo(CacheKind.WINDOW, 40, 9)],
    [GroupInfo(CacheKind.FULL, None, 7), GroupInfo(CacheKind.STATE, None, 3), GroupInfo(CacheKind.ENCODER, None, 5)],
]


@dataclass
class Walk:
    """A scheduler with two plans in flight over a model that checks every plan by itself."""

    options: BatchingOptions
    step_tokens: int
    eos_at: dict[int, int]
    groups: list[GroupInfo] = field(default_factory=lambda: [FULL])
    draft: int = 0
    start: int | None = None
    model: FakeModel = field(init=False)
    scheduler: Scheduler = field(init=False)
    flight: deque[Plan] = field(default_factory=deque)
    live: dict[int, Sequence] = field(default_factory=dict)
    arrived: list[int] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    prompt_left: dict[int, int] = field(default_factory=dict)
    paused_tokens: Counter[int] = field(default_factory=Counter)
    paused_steps: Counter[int] = field(default_factory=Counter)
    hits: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        info = replace(
            FAKE_INFO, groups=self.groups, efficient_tokens=self.step_tokens, eos_token_ids=[EOS], vocab_size=100,
            draft_width=self.draft, start_token_id=self.start,
        )  # fmt: skip
        self.scheduler = Scheduler(self.options, info)
        self.model = FakeModel(info, self.choose)

    def choose(self, new: NewSequence, position: int) -> int:
        generated = position - len(new.prompt_ids) + 1
        return EOS if generated == self.eos_at.get(new.id) else 1

    def arrive(self, prompt: int, tokens: int) -> None:
        """A prompt that begins as some others do, and has blocks in common with more; it may ask for its scores."""
        ids = [5 + (tokens >> position // BLOCK_SIZE) % 2 for position in range(prompt)]
        stopping = StoppingParams(max_new_tokens=tokens)
        sampling = SamplingParams(prompt_logprobs=tokens % 7 == 6)
        request = GenerationRequest(prompt_ids=ids, sampling=sampling, stopping=stopping)
        sequence = Sequence(len(self.arrived), request)
        self.arrived.append(sequence.id)
        self.live[sequence.id] = sequence
        self.scheduler.add(sequence)

    def abort(self, which: int) -> None:
        if self.live:
            id = list(self.live)[which % len(self.live)]
            del self.live[id]
            self.scheduler.abort(id, 0.0)
            self.check_books()

    def fail(self, which: int) -> None:
        if running := [s for s in self.live.values() if s.started is not None]:
            self.model.failures.setdefault(running[which % len(running)].id, "broken")

    def fail_step(self) -> None:
        """As shards do: with all of its sequences."""
        if self.flight:
            self.model.failures.update(dict.fromkeys(self.flight[0].ids, "broken"))

    def run(self, events: list[tuple[str, int, int]]) -> None:
        """What happens, and then all the steps that it takes."""
        for kind, first, second in events:
            if kind == "arrive":
                self.arrive(first, second)
            elif kind == "abort":
                self.abort(first)
            elif kind == "fail":
                self.fail(first)
            elif kind == "fail_step":
                self.fail_step()
            else:
                for _ in range(first):
                    self.fill()
                    self.step()
        for _ in range(100 * (1 + len(self.arrived))):
            self.fill()
            if not self.flight:
                break
            self.step()
        assert not self.live and not self.flight, "everything finishes"
        assert self.scheduler.reserved_tokens == 0

    def fill(self) -> None:
        while len(self.flight) < 2:
            plan = self.scheduler.plan(0.0)
            if plan is None:
                return
            self.flight.append(plan)
            self.check_plan(plan)
            self.check_books()

    def step(self) -> None:
        if self.flight:
            outcome = self.model.step(self.flight.popleft())
            self.most = max(self.most, *outcome.counts)
            for progress in self.scheduler.commit(outcome, 0.0):
                assert progress.sequence.committed <= progress.sequence.max_new_tokens
                assert progress.failure or progress.sequence.id not in self.model.misled
                if progress.finish or progress.failure:
                    del self.live[progress.sequence.id]
            self.check_books()

    def check_plan(self, plan: Plan) -> None:
        self.started += [new.id for new in plan.new]
        assert self.started == sorted(self.started), "first come, first served"
        assert all(not new.cached for new in plan.new if new.sampling.prompt_logprobs)
        self.hits += sum(new.cached for new in plan.new)
        if self.options.prefill_chunk_tokens and self.start is None:
            self.check_chunked(plan)
        elif plan.new:
            assert sum(plan.counts) <= BUDGET
            assert sum(plan.counts[:-1]) < self.step_tokens, "no prompt waits for one that needs a step of its own"
            assert plan.ids == [new.id for new in plan.new], "a prefill is alone"
            self.check_pauses(plan)
        else:
            assert set(plan.counts) == {1}
            assert set(plan.ids) >= self.unfinished(), "all decode"
            self.paused_tokens.clear()
            self.paused_steps.clear()

    def check_pauses(self, plan: Plan) -> None:
        """Nobody waits between two tokens for more prompts than the budget, nor for more steps than it fills."""
        for id in self.unfinished() - set(plan.ids):
            self.paused_tokens[id] += sum(plan.counts)
            self.paused_steps[id] += 1
            assert self.paused_tokens[id] <= BUDGET
            assert self.paused_steps[id] <= BUDGET // self.step_tokens

    def unfinished(self) -> set[int]:
        """Those who started and need more steps."""
        return {id for id, s in self.live.items() if s.started is not None and not s.fully_planned}

    def check_chunked(self, plan: Plan) -> None:
        self.prompt_left |= {new.id: len(new.prompt_ids) - new.cached for new in plan.new}
        assert set(plan.ids) >= self.unfinished(), "nobody pauses"
        chunk = 0
        for id, count in zip(plan.ids, plan.counts, strict=True):
            left = self.prompt_left[id]
            assert count <= max(1, left)
            chunk += count if left else 0
            self.prompt_left[id] -= count if left else 0
        assert chunk <= CHUNK
        unfinished = [id for id in plan.ids if self.prompt_left[id]]
        assert unfinished in ([], plan.ids[-1:]), "only the youngest has a part of its prompt left"

    def check_books(self) -> None:
        shares = self.scheduler.unshared is None
        blocks = [info.num_blocks for info in self.groups]
        for pool, total in enumerate([min(blocks)] if shares else blocks):
            holders = [(s, s.own[pool]) for s in self.live.values() if s.own]
            owned = Counter(block for _, own in holders for block in own)
            written = [block for s, own in holders for block in own[s.cached // BLOCK_SIZE :]]
            assert len(written) == len(set(written)), "no block has two writers"
            assert shares or len(written) == owned.total() == len(owned)
            assert all(0 <= block < total for block in owned)
            assert len(owned) <= sum(s.needed[pool] for s, _ in holders), "no more than without sharing"
            if pool == 0:
                assert len(owned) * BLOCK_SIZE == self.scheduler.reserved_tokens, "used blocks are the owned ones"
        if self.options.max_batch_size is not None:
            assert self.scheduler.running <= self.options.max_batch_size


PROMPTS = st.one_of(st.integers(1, BUDGET), st.sampled_from([BLOCK_SIZE, 2 * BLOCK_SIZE, BUDGET]))
EVENTS = st.one_of(
    st.tuples(st.just("arrive"), PROMPTS, st.integers(1, 40)),
    st.tuples(st.just("abort"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("fail"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("step"), st.integers(1, 5), st.just(0)),
)


@settings(max_examples=120, deadline=None)
@given(
    events=st.lists(EVENTS, min_size=20, max_size=60),
    eos_at=st.dictionaries(st.integers(0, 40), st.integers(1, 20), max_size=20),
    max_size=st.one_of(st.none(), st.integers(1, 5)),
    ratio=st.floats(0, 3),
    patience=st.integers(0, 10),
    step_tokens=st.sampled_from([1, BLOCK_SIZE, BUDGET]),
    chunk=st.sampled_from([None, CHUNK]),
    prefix_caching=st.sampled_from([None, True, False]),
    groups=st.sampled_from(GROUPS),
    draft=st.sampled_from([0, 0, 1, 4]),
    start=st.sampled_from([None, None, 3]),
)
def test_random_walk(
    events: list[tuple[str, int, int]],
    eos_at: dict[int, int],
    max_size: int | None,
    ratio: float,
    patience: int,
    step_tokens: int,
    chunk: int | None,
    prefix_caching: bool | None,
    groups: list[GroupInfo],
    draft: int,
    start: int | None,
) -> None:
    options = BatchingOptions(
        max_batch_prefill_tokens=BUDGET,
        max_batch_size=max_size,
        waiting_served_ratio=ratio,
        max_waiting_tokens=patience,
        prefill_chunk_tokens=chunk,
        prefix_caching=prefix_caching if start is None else False,  # which goes with a group that cannot share
    )
    walk = Walk(options, step_tokens, eos_at, groups, draft, start)
    walk.run(events)
    assert walk.most <= 1 + draft


ALIKE = st.one_of(
    st.tuples(st.just("arrive"), st.sampled_from([17, 33, 40, 64]), st.integers(1, 4)),
    st.tuples(st.just("arrive"), st.sampled_from([33, 64]), st.just(2)),
    st.tuples(st.just("step"), st.integers(1, 3), st.just(0)),
    st.tuples(st.sampled_from(["abort", "fail"]), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("fail_step"), st.just(0), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(
    events=st.lists(ALIKE, min_size=20, max_size=60),
    step_tokens=st.sampled_from([BLOCK_SIZE, BUDGET]),
    chunk=st.sampled_from([None, CHUNK]),
)
def test_random_walk_of_prompts_that_begin_alike(
    events: list[tuple[str, int, int]], step_tokens: int, chunk: int | None
) -> None:
    """Steps fail while others count on what they compute."""
    options = BatchingOptions(max_batch_prefill_tokens=BUDGET, max_waiting_tokens=1, prefill_chunk_tokens=chunk)
    Walk(options, step_tokens, {}).run(events)
