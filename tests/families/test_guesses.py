"""Guesses in steps of models of every kind of past: they are rows of a decode step, whatever these look like."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.families import test_fallback, test_gemma3, test_phi3, test_t5
from tests.families.harness import LONGEST, VOCABULARY, Rank, Read, Reference, ThreadGroup, _step
from tests.models import needs
from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Sequence as Request
from tgi_server.cache.kinds import blocks_of
from tgi_server.config.schema import BatchingOptions
from tgi_server.models.families import read_spec
from tgi_server.rope.table import IntArray
from tgi_server.shard.drafting import Drafting
from tgi_server.speculate.costs import Allotment, Costs
from tgi_server.types import GenerationRequest, GroupInfo, Plan, SamplingParams, ShardInfo, StoppingParams

ROWS_ARE_FREE = Costs((1, 128), (1.0, 1.0))
NEW_TOKENS = 24


class Knowing:
    """Knows the texts to come; one guess of four is wrong."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self._texts = texts
        self._offers: dict[int, list[int]] = {}

    def chances(self, id: int, known: IntArray, most: int) -> list[float]:
        first = len(known)
        rest = enumerate(self._texts[id][first : first + most], first)
        self._offers[id] = [(token + 1) % VOCABULARY if at % 4 == 3 else token for at, token in rest]
        return [1.0] * len(self._offers[id])

    def guess(self, widths: Mapping[int, int]) -> dict[int, list[int]]:
        return {id: self._offers[id][:width] for id, width in widths.items()}

    def learn(self, id: int, taken: Sequence[int]) -> None: ...

    def see(self, ids: Sequence[int], hidden: Tensor, rows: Sequence[int]) -> None: ...

    def forget(self, id: int) -> None: ...

    def seconds(self, sequences: int) -> float:
        return 0.0


def texts(
    directory: Path, read: Read, prompts: list[list[int]], world: int = 1, chunk: int | None = None,
    most: int = 0, known: Sequence[Sequence[int]] = (),
) -> tuple[list[list[int]], int]:  # fmt: skip
    """The tokens after each prompt, and the most that one step brought; two plans are under way at a time."""
    spec, options = read(directory), BatchingOptions(max_total_tokens=LONGEST, prefill_chunk_tokens=chunk)
    blocks = [len(prompts) * (1 + blocks_of(LONGEST)) for _ in spec.groups]
    groups = [GroupInfo(group.kind, group.window, count) for group, count in zip(spec.groups, blocks, strict=True)]
    info = ShardInfo(
        "float32", "cpu", groups, efficient_tokens=64, vocab_size=VOCABULARY, eos_token_ids=[],
        start_token_id=spec.start_token_id, draft_width=most,
    )  # fmt: skip
    ranks = [Rank(directory, needs(), group, blocks, world == 1, read=read) for group in ThreadGroup.of(world)]
    for rank in ranks if most else []:
        rank.stepper._drafting = Drafting(Knowing(known), Allotment(ROWS_ARE_FREE, most))
    scheduler, stopping = Scheduler(options, info), StoppingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True)
    for id, prompt in enumerate(prompts):
        scheduler.add(Request(id, GenerationRequest(prompt_ids=prompt, sampling=SamplingParams(), stopping=stopping)))
    written: list[list[int]] = [[] for _ in prompts]
    flight, counts = deque[Plan](), [0]
    while True:
        while len(flight) < 2 and (plan := scheduler.plan(0.0)):
            flight.append(plan)
        if not flight:
            return written, max(counts)
        outcome = _step(ranks, flight.popleft())
        assert not outcome.failed, outcome.failed
        counts += outcome.counts
        for progress in scheduler.commit(outcome, 0.0):
            written[progress.sequence.id] += progress.tokens


CASES: dict[type[Reference], Read] = {
    test_gemma3.TestGemma3: read_spec,  # windows
    test_phi3.TestPhi3: read_spec,  # angles that depend on a text's length
    test_t5.TestT5: read_spec,
    test_fallback.TestCohere2: test_fallback.read,
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_texts_are_those_without_guesses(case: type[Reference], tmp_path: Path) -> None:
    case.save(tmp_path)
    draw, read = torch.Generator().manual_seed(1), CASES[case]
    prompts = [torch.randint(2, VOCABULARY, (n,), generator=draw).tolist() for n in case.lengths]
    plain, _ = texts(tmp_path, read, prompts)
    start = read(tmp_path).start_token_id
    known = [[*(prompt if start is None else [start]), *text] for prompt, text in zip(prompts, plain, strict=True)]
    for most, chunk in ((1, None), (6, 16)):
        assert texts(tmp_path, read, prompts, chunk=chunk, most=most, known=known) == (plain, 1 + min(most, 3))
    if read is read_spec:
        assert texts(tmp_path, read, prompts, 2, most=4, known=known) == (plain, 4)
    assert len({*chain(*plain)}) > 2
