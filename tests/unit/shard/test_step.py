"""Steps of a model whose scores are a hash of what it reads in its cache, so that any wrong block shows in the text.

The texts are compared with those that a loop without a cache, batch or guesses writes.
"""

from __future__ import annotations

import json
import logging
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from llguidance import LLMatcher
from torch import Tensor

from tests.router_app import EOS_ID, TOKENIZER
from tests.sampling import rows_of
from tgi_server.batching import sequence as batching
from tgi_server.batching.scheduler import Scheduler
from tgi_server.cache.kinds import CacheGroup
from tgi_server.config.schema import BatchingOptions
from tgi_server.kernels.row import Needs
from tgi_server.kernels.sampling import sample
from tgi_server.layers.parallel import Group
from tgi_server.rope.table import IntArray
from tgi_server.rpc.fake import FAKE_INFO
from tgi_server.shard.batch import BatchState, StepInputs
from tgi_server.shard.drafting import Drafting
from tgi_server.shard.ending import unpacked
from tgi_server.shard.failures import Complaints
from tgi_server.shard.guided import GuidedSequence, Vocabulary
from tgi_server.shard.guides import Guides
from tgi_server.shard.sampler import Watermark, choose
from tgi_server.shard.step import Stepper
from tgi_server.speculate.base import Drafter
from tgi_server.speculate.costs import Allotment, Costs
from tgi_server.types import (
    BLOCK_SIZE,
    CacheKind,
    FinishReason,
    GenerationRequest,
    GroupInfo,
    Guide,
    NewSequence,
    Outcome,
    Plan,
    SamplingParams,
    StoppingParams,
)

SIZE = TOKENIZER.get_vocab_size()
CPU = torch.device("cpu")
NEEDS = Needs(device=CPU, dtype=torch.float32, plain=True)
WINDOW = 20
FULL_GROUPS = [GroupInfo(CacheKind.FULL, None, 60)]
WINDOW_GROUPS = [*FULL_GROUPS, GroupInfo(CacheKind.WINDOW, WINDOW, 20)]
LONGEST = 160


def digest(ids: IntArray, last: IntArray | None = None) -> int:
    """What the model makes of all ids, and of those in its window."""
    parts = ids, ids[-WINDOW:] if last is None else last
    return int.from_bytes(blake2b(b"".join(part.astype(np.int64).tobytes() for part in parts)).digest()[:6])


@lru_cache(maxsize=20000)
def noise(number: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(number).standard_normal(SIZE).astype(np.float32) * 2


def scores(numbers: Sequence[int]) -> Tensor:
    """Float32 `[rows, vocabulary]`; a few tokens are likely."""
    return torch.from_numpy(np.stack([noise(number) for number in numbers]))


class Model:
    """Hidden states are digests of the ids that a row finds in the slots of what it sees."""

    def __init__(self, groups: Sequence[GroupInfo]) -> None:
        self._groups = groups
        self._slots = [np.full(group.num_blocks * BLOCK_SIZE, -1) for group in groups]
        self.steps: list[StepInputs] = []
        self.error: Exception | None = None

    def run(self, inputs: StepInputs) -> Tensor:
        self.steps.append(inputs)
        if self.error is not None:
            raise self.error
        ids = inputs.ids.numpy()
        for held, batch in zip(self._slots, inputs.batches, strict=True):
            held[batch.slots.numpy()] = ids
        rows = []
        for i, (length, context) in enumerate(
            zip(inputs.batches[0].query_lengths, inputs.batches[0].context_lengths, strict=True)
        ):
            rows += [self._digest(inputs, i, position) for position in range(context - length, context)]
        return torch.tensor(rows, dtype=torch.float64).unsqueeze(1)

    def _digest(self, inputs: StepInputs, i: int, position: int) -> int:
        seen = []
        for info, held, batch in zip(self._groups, self._slots, inputs.batches, strict=True):
            first = 0 if info.window is None else max(0, position + 1 - info.window)
            positions = np.arange(first, position + 1)
            blocks = batch.block_tables.numpy()[i][positions // BLOCK_SIZE]
            seen.append(held[blocks * BLOCK_SIZE + positions % BLOCK_SIZE])
        last = seen[-1][-WINDOW:]
        return digest(seen[0], last)

    def logits(self, hidden: Tensor) -> Tensor | None:
        return scores([int(number) for number in hidden[:, 0].tolist()])


class Guesser:
    """Sure of what it guesses, right or wrong; checks that it is told what came."""

    def __init__(self) -> None:
        self._offers: dict[int, list[int]] = {}
        self._open: set[int] = set()
        self.learnt: dict[int, list[int]] = {}
        self.seen: dict[int, float] = {}

    def _follow(self, known: IntArray, most: int) -> list[int]:
        raise NotImplementedError

    def chances(self, id: int, known: IntArray, most: int) -> list[float]:
        assert id not in self._open, "it was not told what came"
        self._open.add(id)
        self._offers[id] = self._follow(known, most)
        return [1.0] * len(self._offers[id])

    def guess(self, widths: Mapping[int, int]) -> dict[int, list[int]]:
        return {id: self._offers[id][:width] for id, width in widths.items()}

    def learn(self, id: int, taken: Sequence[int]) -> None:
        self._open.remove(id)
        self.learnt.setdefault(id, []).extend(taken)

    def see(self, ids: Sequence[int], hidden: Tensor, rows: Sequence[int]) -> None:
        self.seen.update(zip(ids, hidden[list(rows), 0].tolist(), strict=True))

    def seconds(self, sequences: int) -> float:
        return 0.0

    def forget(self, id: int) -> None:
        self._open.discard(id)


class Oracle(Guesser):
    """Knows the texts to come; every `wrong`-th token is another one."""

    def __init__(self, texts: Sequence[Sequence[int]], wrong: int = 0) -> None:
        super().__init__()
        self._texts = [list(text) for text in texts]
        self._wrong = wrong

    def _follow(self, known: IntArray, most: int) -> list[int]:
        n = len(known)
        text = next((text for text in self._texts if text[:n] == known.tolist()), [])
        rest = text[n : n + most]
        return [(t + 1) % SIZE if self._wrong and (n + i) % self._wrong == 0 else t for i, t in enumerate(rest)]


class Nonsense(Guesser):
    """Always as much as it may."""

    def _follow(self, known: IntArray, most: int) -> list[int]:
        return [(int(known[-1]) + 1 + i) % SIZE for i in range(most)]


ROWS_ARE_FREE = Costs((1, 128), (1.0, 1.0))


def drafting(drafter: Drafter | None, most: int) -> Drafting | None:
    return None if drafter is None else Drafting(drafter, Allotment(ROWS_ARE_FREE, most))


def expected(request: GenerationRequest, vocabulary: Vocabulary | None = None) -> tuple[list[int], list[float]]:
    """A text, with its prompt, and its log-probabilities, one token after the other."""
    text, logprobs, sampling = list(request.prompt_ids), list[float](), request.sampling
    guided = GuidedSequence(vocabulary, sampling.guide) if vocabulary and sampling.guide else None
    while len(logprobs) < request.stopping.max_new_tokens:
        logits = scores([digest(np.array(text))])
        mask = guided.allowed() if guided else None
        allowed = {} if mask is None else {0: torch.from_numpy(unpacked(mask, SIZE))}
        rows = rows_of([sampling], [text], [len(request.prompt_ids)], allowed)
        choice = choose(logits, rows, sample)
        token = picked = int(choice.tokens)
        if guided:
            token = guided.take(picked)
        text.append(token)
        logprobs.append(float(choice.logprobs + logits[0, token] - logits[0, picked]))
        if token == EOS_ID and not request.stopping.ignore_eos:
            break
    return text, logprobs


class Server:
    """A real scheduler with two plans in flight over a stepper."""

    def __init__(
        self, groups: list[GroupInfo], drafter: Drafter | None = None, draft: int = 0, guides: Guides | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        info = replace(
            FAKE_INFO, groups=groups, vocab_size=SIZE, eos_token_ids=[EOS_ID], draft_width=draft, efficient_tokens=64
        )
        self.scheduler = Scheduler(BatchingOptions(max_waiting_tokens=2, **options), info)
        self.model = Model(groups)
        state = BatchState(LONGEST + draft, CPU, [CacheGroup(info.kind, info.window) for info in groups], rows=2)
        self.stepper = Stepper(
            state, self.model.run, self.model.logits, guides, Watermark(), Group(), NEEDS, drafting(drafter, draft)
        )  # fmt: skip
        self.outcomes: list[Outcome] = []
        self.finishes: list[FinishReason | None] = []
        self.plans: list[Plan] = []

    def serve(self, requests: Sequence[GenerationRequest]) -> list[tuple[list[int], list[float]]]:
        """The texts and log-probabilities of requests, of which some come later than others."""
        waiting = [batching.Sequence(i, request) for i, request in enumerate(requests)]
        answers = [(list(request.prompt_ids), list[float]()) for request in requests]
        self.finishes = [None] * len(requests)
        flight: deque[Plan] = deque()
        while True:
            for sequence in waiting[:2]:
                self.scheduler.add(sequence)
            waiting = waiting[2:]
            while len(flight) < 2 and (plan := self.scheduler.plan(0.0)):
                flight.append(plan)
            if not flight:
                break
            self.plans.append(flight[0])
            self.outcomes.append(self.stepper.step(flight.popleft()))
            for progress in self.scheduler.commit(self.outcomes[-1], 0.0):
                assert progress.failure is None
                answers[progress.sequence.id][0].extend(progress.tokens)
                answers[progress.sequence.id][1].extend(progress.logprobs)
                self.finishes[progress.sequence.id] = progress.finish
        assert not waiting and self.scheduler.reserved_tokens == 0
        return answers


def request(prompt: int, new: int, ignore_eos: bool = True, **sampling: Any) -> GenerationRequest:
    ids = [(prompt * 7 + i * i) % SIZE for i in range(prompt)]
    stopping = StoppingParams(max_new_tokens=new, ignore_eos=ignore_eos)
    return GenerationRequest(prompt_ids=ids, sampling=SamplingParams(**sampling), stopping=stopping)


SAMPLED: dict[str, Any] = {
    "do_sample": True, "temperature": 0.7, "repetition_penalty": 1.3, "frequency_penalty": 0.2, "top_k": 20,
    "top_p": 0.9,
}  # fmt: skip
REQUESTS = [
    request(5, 24),
    request(50, 20, **SAMPLED, seed=7),
    request(16, 18, watermark=True, seed=3, **SAMPLED),
    request(1, 40, presence_penalty=1.0, repetition_penalty=0.7),
    request(33, 1, top_n_tokens=2),
    request(64, 50, ignore_eos=False, do_sample=True, seed=1),
    request(20, 2, logit_bias={3: 5.0}, top_n_tokens=3),
    request(90, 11, typical_p=0.8, seed=11),
]
DRAFTERS: dict[str, Callable[[Sequence[Sequence[int]]], Drafter | None]] = {
    "none": lambda texts: None,
    "oracle": Oracle,
    "sometimes": lambda texts: Oracle(texts, wrong=5),
    "nonsense": lambda texts: Nonsense(),
}


@pytest.fixture(scope="module")
def texts() -> list[tuple[list[int], list[float]]]:
    return [expected(one) for one in REQUESTS]


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("groups", [FULL_GROUPS, WINDOW_GROUPS], ids=["full", "window"])
@pytest.mark.parametrize("chunk", [None, 16])
def test_texts_do_not_depend_on_guesses_batches_and_blocks(
    drafter: str, groups: list[GroupInfo], chunk: int | None, texts: list[tuple[list[int], list[float]]]
) -> None:
    server = Server(groups, DRAFTERS[drafter]([text for text, _ in texts]), 4, prefill_chunk_tokens=chunk)
    answers = server.serve(REQUESTS)
    assert [text for text, _ in answers] == [text for text, _ in texts]
    for (_, logprobs), (_, wanted) in zip(answers, texts, strict=True):
        assert logprobs == pytest.approx(wanted, abs=1e-4)
    most = max(count for outcome in server.outcomes for count in outcome.counts)
    assert most == {"none": 1, "nonsense": most, "sometimes": 5, "oracle": 5}[drafter], "nonsense may be right, once"
    for outcome in server.outcomes:
        for id, top in outcome.top_tokens.items():
            start = sum(outcome.counts[: outcome.ids.index(id)])
            tokens = outcome.tokens[start : start + outcome.counts[outcome.ids.index(id)]]
            assert [entry.ids[0] for entry in top] == tokens and len(top[0].ids) >= 2


def test_right_guesses_take_fewer_steps(texts: list[tuple[list[int], list[float]]]) -> None:
    steps = {}
    for name in ("none", "sometimes", "oracle"):
        server = Server(FULL_GROUPS, DRAFTERS[name]([text for text, _ in texts]), 4)
        server.serve(REQUESTS)
        steps[name] = len(server.outcomes)
    assert steps["oracle"] < steps["sometimes"] < steps["none"]
    assert steps["oracle"] < steps["none"] * 0.4


def test_nothing_is_guessed_when_the_plan_does_not_say_so(texts: list[tuple[list[int], list[float]]]) -> None:
    server = Server(FULL_GROUPS, Oracle([text for text, _ in texts]), 0)
    server.serve(REQUESTS[:3])
    assert {count for outcome in server.outcomes for count in outcome.counts} == {1}


def test_positions_stay_within_what_is_reserved(texts: list[tuple[list[int], list[float]]]) -> None:
    server = Server(FULL_GROUPS, Oracle([text for text, _ in texts]), 4)
    server.serve(REQUESTS)
    for inputs in server.model.steps:
        assert (inputs.positions.numpy() < inputs.limits).all() and (inputs.lengths <= inputs.limits).all()


SCHEMA = {
    "type": "object", "required": ["name", "ages"], "additionalProperties": False,
    "properties": {"name": {"type": "string"}, "ages": {"type": "array", "items": {"type": "integer"}}},
}  # fmt: skip


def test_guided_texts_do_not_depend_on_guesses(tokenizer_json: Path) -> None:
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA), overrides={"whitespace_flexible": False})
    requests = [
        request(3 + i, new, ignore_eos=False, guide=Guide(grammar, new), seed=i, do_sample=i % 2 == 0, top_n_tokens=1)
        for i, new in enumerate([25, 30, 40, 60, 90])
    ] + [request(9, 30)]
    vocabulary = Vocabulary(tokenizer_json, SIZE, [EOS_ID])
    wanted = [expected(one, vocabulary) for one in requests]
    for text, one in zip(wanted[:-1], requests, strict=False):
        json.loads(TOKENIZER.decode(text[0][len(one.prompt_ids) :]))
    guides, most = Guides(tokenizer_json, SIZE, [EOS_ID]), []
    for make in DRAFTERS.values():
        server = Server(FULL_GROUPS, make([text for text, _ in wanted]), 4, guides)
        answers = server.serve(requests)
        assert [text for text, _ in answers] == [text for text, _ in wanted]
        for (_, logprobs), (_, others) in zip(answers, wanted, strict=True):
            assert logprobs == pytest.approx(others, abs=1e-4)
        assert server.finishes == [*[FinishReason.EOS_TOKEN] * (len(requests) - 1), FinishReason.LENGTH]
        most.append(max(max(outcome.counts) for outcome in server.outcomes))
    assert most[:3] == [1, 5, 5]


class Rank(Group):
    """One of two ranks in this process: the first one's broadcasts wait for the second."""

    def __init__(self, rank: int, told: deque[Tensor]) -> None:
        super().__init__(rank, 2)
        self._told = told

    def broadcast(self, x: Tensor) -> Tensor:
        if self.rank == 0:
            self._told.append(x.clone())
            return x
        return x.copy_(self._told.popleft())


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_other_ranks_follow_the_first(
    drafter: str, texts: list[tuple[list[int], list[float]]], tokenizer_json: Path
) -> None:
    grammar = LLMatcher.grammar_from_regex("[a-z]{5,9}( [a-z]{3,9}){4}")
    requests = [*REQUESTS, request(4, 30, ignore_eos=False, guide=Guide(grammar, 30))]
    server = Server(FULL_GROUPS, DRAFTERS[drafter]([text for text, _ in texts]), 4)
    told: deque[Tensor] = deque()
    guides = Guides(tokenizer_json, SIZE, [EOS_ID])
    state, model = BatchState(LONGEST + 4, CPU), Model(FULL_GROUPS)
    first, second = (
        Stepper(
            *parts, Watermark(), Rank(rank, told), NEEDS, drafting(DRAFTERS[drafter]([text for text, _ in texts]), 4)
        )
        for rank, parts in enumerate(
            [
                (BatchState(LONGEST + 4, CPU), Model(FULL_GROUPS).run, model.logits, guides),
                (state, model.run, lambda hidden: None, None),
            ]
        )
    )

    class Both:
        def step(self, plan: Plan) -> Outcome:
            outcome, other = first.step(plan), second.step(plan)
            assert not told, "all that was told was heard"
            assert (other.counts, other.tokens) == (outcome.counts, outcome.tokens)
            return outcome

    server.stepper = Both()  # type: ignore[assignment]
    answers = server.serve(requests)
    assert [text for text, _ in answers[:-1]] == [text for text, _ in texts]


def test_a_failed_step_blames_its_sequences_and_the_next_one_goes_on() -> None:
    server = Server(FULL_GROUPS)
    prompt = request(20, 5)
    new = NewSequence(0, prompt.prompt_ids, [[0, 1]], prompt.sampling, 25)
    server.model.error = RuntimeError("out of memory")
    outcome = server.stepper.step(Plan(0, [0], [20], [new]))
    assert outcome.failed == {0: "RuntimeError: out of memory"} and outcome.counts == [0]
    assert server.stepper.step(Plan(1, [0], [1])).failed, "a plan that was under way"
    server.model.error = None
    again = replace(new, id=1)
    assert server.stepper.step(Plan(2, [1], [20], [again], finished=[0])).counts == [1]
    assert server.stepper.step(Plan(3, [], [], finished=[1])).ids == []


@pytest.mark.parametrize("poison", [1, 2])
def test_a_step_that_one_prompt_spoils_fails_that_one_only(poison: int) -> None:
    """Another one is being written, and two begin, in one step."""
    server, run = Server(FULL_GROUPS), Model(FULL_GROUPS).run

    def spoilt(inputs: StepInputs) -> Tensor:
        if 300 + poison in inputs.ids.tolist():
            raise MemoryError("no memory")
        return run(inputs)

    prompts = [[300 + id, *range(id + 1)] for id in range(3)]
    news = [NewSequence(id, prompts[id], [[id]], SamplingParams(), 8) for id in range(3)]
    expectation = [expected(GenerationRequest(
        prompt_ids=ids, sampling=SamplingParams(), stopping=StoppingParams(max_new_tokens=2, ignore_eos=True)
    )) for ids in prompts]  # fmt: skip
    server.stepper = Stepper(
        BatchState(LONGEST, CPU, [CacheGroup(CacheKind.FULL)]), spoilt, server.model.logits, None,
        Watermark(), Group(), NEEDS,
    )  # fmt: skip
    first = server.stepper.step(Plan(0, [0], [2], news[:1]))
    outcome = server.stepper.step(Plan(1, [2, 0, 1], [4, 1, 3], news[1:]))
    assert first.tokens == expectation[0][0][2:3]
    got = iter(outcome.tokens)
    taken = {id: [next(got) for _ in range(count)] for id, count in zip(outcome.ids, outcome.counts, strict=True)}
    wanted = {0: expectation[0][0][3:4], 1: expectation[1][0][3:4], 2: expectation[2][0][4:5]}
    assert taken == {id: [] if id == poison else tokens for id, tokens in wanted.items()}
    assert len(outcome.logprobs) == len(outcome.tokens)
    assert outcome.failed == {poison: "MemoryError: no memory"}


def test_a_step_that_fails_whoever_is_in_it_fails_all() -> None:
    server = Server(FULL_GROUPS)
    news = [NewSequence(id, [1, 2], [[id]], SamplingParams(), 8) for id in range(3)]
    server.model.error = RuntimeError("out of memory")
    outcome = server.stepper.step(Plan(0, [0, 1, 2], [2, 2, 2], news))
    assert set(outcome.failed) == {0, 1, 2} and outcome.counts == [0, 0, 0]
    assert len(server.model.steps) == 4, "together, and each by itself"
    assert outcome.repeated == "RuntimeError: out of memory"


def written(count: int, run: Callable[[StepInputs], Tensor]) -> Stepper:
    """Texts that have their first token each, which will be the next step's input."""
    server = Server(FULL_GROUPS)
    server.stepper = Stepper(
        BatchState(LONGEST, CPU, [CacheGroup(CacheKind.FULL)]), run, server.model.logits, None,
        Watermark(), Group(), NEEDS,
    )  # fmt: skip
    news = [NewSequence(id, [300 + id], [[id]], SamplingParams(), 8) for id in range(count)]
    assert not server.stepper.step(Plan(0, [*range(count)], [1] * count, news)).failed
    return server.stepper


@pytest.mark.parametrize("poison", [0, 5, 7])
def test_a_text_that_spoils_a_step_of_written_ones_is_found(poison: int) -> None:
    run, sizes = Model(FULL_GROUPS).run, list[int]()

    def spoilt(inputs: StepInputs) -> Tensor:
        sizes.append(len(inputs.ids))
        if len(sizes) > 1 and poison in inputs.batches[0].block_tables[:, 0].tolist():  # its block has its number
            raise MemoryError("no memory")
        return run(inputs)

    outcome = written(8, spoilt).step(Plan(1, [*range(8)], [1] * 8))
    assert outcome.failed == {poison: "MemoryError: no memory"}
    assert [count for id, count in zip(outcome.ids, outcome.counts, strict=True) if id != poison] == [1] * 7
    assert len(sizes) <= 1 + 2 + 2 * 3


def test_what_fails_once_for_want_of_memory_is_done_with_the_memory_that_it_held() -> None:
    run, held = Model(FULL_GROUPS).run, list[weakref.ref[Tensor]]()

    def fails_once(inputs: StepInputs) -> Tensor:
        if len(held) == 1:
            held.append(weakref.ref(inputs.ids))
            computed = torch.zeros(3)
            held.append(weakref.ref(computed))
            raise MemoryError("no memory")
        if not held:
            held.append(weakref.ref(inputs.ids))
        elif len(held) == 3:
            assert held[2]() is None, "nothing is left of the step that failed"
        return run(inputs)

    outcome = written(4, fails_once).step(Plan(1, [*range(4)], [1] * 4))
    assert not outcome.failed and outcome.counts == [1] * 4 and outcome.repeated == "MemoryError: no memory"


def test_a_reason_is_told_in_full_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    complaints = Complaints(logging.getLogger("tgi_server.shard"), lambda: now[0])
    for step, seconds in enumerate((0, 59, 2)):
        now[0] += seconds
        complaints.error(f"step {step} failed", "MemoryError: no", MemoryError("no"))
    assert [(record.getMessage(), record.exc_info is not None) for record in caplog.records] == [
        ("step 0 failed", True), ("step 1 failed again: MemoryError: no", False), ("step 2 failed", True),
    ]  # fmt: skip


def test_who_comes_after_a_reset_finds_nothing_of_others(
    texts: list[tuple[list[int], list[float]]], tokenizer_json: Path
) -> None:
    """Sequences of the same ids, of which one was guided, scored and not done."""
    server = Server(FULL_GROUPS, Oracle([text for text, _ in texts]), 4, Guides(tokenizer_json, SIZE, [EOS_ID]))
    guide = Guide(grammar=LLMatcher.grammar_from_regex("a+"), close=(), max_tokens=9)
    left = SamplingParams(guide=guide, prompt_logprobs=True)
    ids = request(40, 9).prompt_ids
    news = [NewSequence(id, ids, [[id * 4, id * 4 + 1, id * 4 + 2, id * 4 + 3]], left, 49) for id in range(2)]
    server.stepper.step(Plan(0, [0, 1], [20, 40], news))
    server.stepper.reset()
    scored = replace(REQUESTS[0], sampling=replace(REQUESTS[0].sampling, prompt_logprobs=True))
    answers = server.serve([scored, *REQUESTS[1:]])
    assert [text for text, _ in answers] == [text for text, _ in texts]
    (logprobs,) = [outcome.prompt_logprobs[0] for outcome in server.outcomes if 0 in outcome.prompt_logprobs]
    assert len(logprobs) == len(scored.prompt_ids) - 1


def test_prompt_scores_beside_guesses(texts: list[tuple[list[int], list[float]]]) -> None:
    scored = replace(REQUESTS[1], sampling=replace(REQUESTS[1].sampling, prompt_logprobs=True, prompt_top_tokens=2))
    server = Server(FULL_GROUPS, Oracle([text for text, _ in texts]), 4, prefill_chunk_tokens=16)
    server.serve([REQUESTS[0], REQUESTS[3], scored])
    (logprobs,) = [outcome.prompt_logprobs[2] for outcome in server.outcomes if 2 in outcome.prompt_logprobs]
    ids = scored.prompt_ids
    wanted = [float(scores([digest(np.array(ids[:n]))]).log_softmax(-1)[0, ids[n]]) for n in range(1, len(ids))]
    assert logprobs == pytest.approx(wanted, abs=1e-4)
    (top,) = [outcome.prompt_top_tokens[2] for outcome in server.outcomes if 2 in outcome.prompt_top_tokens]
    assert len(top) == len(ids) - 1
