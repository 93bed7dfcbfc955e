"""Random arrivals, ends, aborts and failures, with up to two plans in flight; the books must balance every step."""

from collections import deque
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


@dataclass
class Walk:
    """A scheduler with two plans in flight over a model that checks every plan by itself."""

    options: BatchingOptions
    eos_at: dict[int, int]
    model: FakeModel = field(init=False)
    scheduler: Scheduler = field(init=False)
    flight: deque[Plan] = field(default_factory=deque)
    live: dict[int, Sequence] = field(default_factory=dict)
    arrived: list[int] = field(default_factory=list)
    started: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.options, BLOCKS, [EOS])
        self.model = FakeModel(100, self.choose)

    def choose(self, new: NewSequence, position: int) -> int:
        generated = position - len(new.prompt_ids) + 1
        return EOS if generated == self.eos_at.get(new.id) else 1

    def arrive(self, prompt: int, tokens: int) -> None:
        stopping = StoppingParams(max_new_tokens=tokens)
        request = GenerationRequest(prompt_ids=[5] * prompt, sampling=SamplingParams(), stopping=stopping)
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
        if plan.new:
            assert sum(plan.counts) <= BUDGET
            assert plan.ids == [new.id for new in plan.new], "a prefill is alone"
        else:
            assert set(plan.counts) == {1}

    def check_books(self) -> None:
        owned = [block for s in self.live.values() for block in s.blocks]
        assert len(owned) == len(set(owned)), "no block in two sequences"
        assert len(owned) * BLOCK_SIZE == self.scheduler.reserved_tokens, "used blocks are the owned ones"
        assert all(0 <= block < BLOCKS for block in owned)
        if self.options.max_batch_size is not None:
            assert self.scheduler.running <= self.options.max_batch_size


EVENTS = st.one_of(
    st.tuples(st.just("arrive"), st.integers(1, BUDGET), st.integers(1, 40)),
    st.tuples(st.just("abort"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("fail"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("step"), st.integers(1, 5), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(EVENTS, max_size=40),
    eos_at=st.dictionaries(st.integers(0, 40), st.integers(1, 20), max_size=20),
    max_size=st.one_of(st.none(), st.integers(1, 5)),
    ratio=st.floats(0, 3),
    patience=st.integers(0, 10),
)
def test_random_walk(
    events: list[tuple[str, int, int]], eos_at: dict[int, int], max_size: int | None, ratio: float, patience: int
) -> None:
    options = BatchingOptions(
        max_batch_prefill_tokens=BUDGET,
        max_batch_size=max_size,
        waiting_served_ratio=ratio,
        max_waiting_tokens=patience,
    )
    walk = Walk(options, eos_at)
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
