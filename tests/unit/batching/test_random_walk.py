"""Random arrivals, ends, aborts and failures, with up to two plans in flight; the books must balance every step."""

from collections import Counter, deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Sequence
from tgi_server.config.schema import BatchingOptions
from tgi_server.rpc.fake import FakeModel
from tgi_server.types import BLOCK_SIZE, GenerationRequest, NewSequence, Plan, SamplingParams, StoppingParams

BLOCKS = 12
BUDGET = 64
EOS = 0
CHUNK = 16


@dataclass
class Walk:
    """A scheduler with two plans in flight over a model that checks every plan by itself."""

    options: BatchingOptions
    step_tokens: int
    eos_at: dict[int, int]
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

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.options, BLOCKS, self.step_tokens, [EOS])
        self.model = FakeModel(100, self.choose)

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
        if running := [s for s in self.live.values() if s.blocks]:
            self.model.failures.setdefault(running[which % len(running)].id, "broken")

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
            for progress in self.scheduler.commit(self.model.step(self.flight.popleft()), 0.0):
                if progress.finish or progress.failure:
                    del self.live[progress.sequence.id]
            self.check_books()

    def check_plan(self, plan: Plan) -> None:
        self.started += [new.id for new in plan.new]
        assert self.started == sorted(self.started), "first come, first served"
        assert all(not new.cached for new in plan.new if new.sampling.prompt_logprobs)
        self.hits += sum(new.cached for new in plan.new)
        if self.options.prefill_chunk_tokens:
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
        return {id for id, s in self.live.items() if s.blocks and not s.fully_planned}

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
        owned = Counter(block for s in self.live.values() for block in s.blocks)
        written = [block for s in self.live.values() for block in s.blocks[s.cached // BLOCK_SIZE :]]
        assert len(written) == len(set(written)), "no block has two writers"
        assert self.options.prefix_caching or len(written) == owned.total() == len(owned)
        assert len(owned) * BLOCK_SIZE == self.scheduler.reserved_tokens, "used blocks are the owned ones"
        assert all(0 <= block < BLOCKS for block in owned)
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
    prefix_caching=st.booleans(),
)
def test_random_walk(
    events: list[tuple[str, int, int]],
    eos_at: dict[int, int],
    max_size: int | None,
    ratio: float,
    patience: int,
    step_tokens: int,
    chunk: int | None,
    prefix_caching: bool,
) -> None:
    options = BatchingOptions(
        max_batch_prefill_tokens=BUDGET,
        max_batch_size=max_size,
        waiting_served_ratio=ratio,
        max_waiting_tokens=patience,
        prefill_chunk_tokens=chunk,
        prefix_caching=prefix_caching,
    )
    walk = Walk(options, step_tokens, eos_at)
    for kind, first, second in events:
        if kind == "arrive":
            walk.arrive(first, second)
        elif kind == "abort":
            walk.abort(first)
        elif kind == "fail":
            walk.fail(first)
        else:
            for _ in range(first):
                walk.fill()
                walk.step()
    for _ in range(100 * (1 + len(walk.arrived))):
        walk.fill()
        if not walk.flight:
            break
        walk.step()
    assert not walk.live and not walk.flight, "everything finishes"
    assert walk.scheduler.reserved_tokens == 0
