"""The simulated world against what can be told by hand, by queueing theory, and by the real engine."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from tgi_server.batching.scheduler import Scheduler
from tgi_server.bench.workload import Request, poisson
from tgi_server.config.schema import BatchingOptions
from tgi_server.engine.engine import Engine
from tgi_server.rpc.fake import FAKE_INFO, FakeShards
from tgi_server.simulate import shards
from tgi_server.simulate.costs import Overheads, Shape
from tgi_server.simulate.shards import Simulated
from tgi_server.simulate.world import Load, simulate
from tgi_server.telemetry.metrics import Metrics
from tgi_server.types import CacheKind, GenerationRequest, GroupInfo, Plan, SamplingParams, StoppingParams


@dataclass(frozen=True)
class Costs:
    """So many seconds a step, and more a prompt token and a row."""

    step: float = 1.0
    prompt: float = 0.0
    row: float = 0.0

    def seconds(self, shape: Shape) -> float:
        return self.step + self.prompt * shape.prompt_tokens + self.row * shape.rows


def requests(prompt: int = 10, new: int = 4) -> Iterator[Request]:
    return (one(number, 1000 * number, prompt, new) for number in itertools.count())


def one(number: int, first: int, prompt: int, new: int, at: float | None = None) -> Request:
    """A request whose prompt has the tokens from `first` on."""
    return Request(number, new, at, (), None, "a test", written=f"{first} {prompt}")


def ids(request: Request) -> list[int]:
    first, prompt = map(int, request.text.split())
    return [*range(first, first + prompt)]


def due(requests: Iterator[Request], moments: Iterator[float]) -> Iterator[Request]:
    return (replace(request, at=moment) for request, moment in zip(requests, moments, strict=False))


def run(
    load: Load, costs: Costs | None = None, overheads: Overheads | None = None,
    asked: Iterator[Request] | None = None, blocks: int = 4096, **options: Any,
) -> list[Simulated]:  # fmt: skip
    info = replace(FAKE_INFO, groups=[GroupInfo(CacheKind.FULL, None, blocks)])
    batching = BatchingOptions(**options)
    return simulate(batching, info, costs or Costs(), overheads or Overheads(), asked or requests(), load, ids)


def test_one_client_step_by_step() -> None:
    first, second = run(Load(1, requests=2), overheads=Overheads(0.25, 0.5))
    assert (first.start, first.sent, first.arrivals, first.end) == (0.0, 0.0, [1.75, 2.75, 3.75, 4.75], 4.75)
    assert (second.start, second.arrivals[0]) == (4.75, 6.5)
    assert (second.tokens, second.prompt_tokens, second.error) == (4, 10, None)


def test_long_texts_are_timed_like_short_ones() -> None:
    (record,) = run(Load(1, requests=1), asked=requests(new=500), costs=Costs(0.5))
    assert record.arrivals == pytest.approx([0.5 * number for number in range(1, 501)])


def test_a_closed_loop_is_as_fast_as_its_steps() -> None:
    records = run(Load(8, duration=1000), Costs(0.1, 0.001, 0.01), asked=requests(10, 50), waiting_served_ratio=0)
    rate = sum(record.tokens for record in records) / records[-1].end
    most = 8 / (0.1 + 8 * 0.01)
    assert 0.8 * most < rate < 1.001 * most


def test_who_comes_in_the_middle_of_a_step_waits_for_the_plans_in_flight() -> None:
    asked = due(requests(new=10), iter([0.0, 3.5, math.inf]))
    _, late = run(Load(9, closed=False, requests=2), asked=asked, waiting_served_ratio=0)
    # at 3.5 the steps that end at 4 and 5 are with the shards; the prompt is the next
    assert late.arrivals[0] == pytest.approx(6.0)


@pytest.mark.parametrize("busy", [0.5, 0.8])
def test_waiting_times_of_an_open_loop(busy: float) -> None:
    """Requests of one step each, one at a time, are a queue with constant service: M/D/1."""
    load = Load(1000, closed=False, requests=6000, time_limit=1e9)
    asked = due(requests(10, 1), poisson(busy, 5))
    records = run(load, asked=asked, max_batch_size=1, max_concurrent_requests=100000, prefill_chunk_tokens=16)
    waits = sum(record.end - record.start - 1 for record in records) / len(records)
    assert waits == pytest.approx(busy / (2 * (1 - busy)), rel=0.15)


def test_all_clients_busy_means_later_but_due_in_time() -> None:
    first, second = run(Load(1, closed=False, requests=2), asked=due(requests(), iter([0.0, 0.5, math.inf])))
    assert (first.end, second.start, second.sent, second.end) == (4.0, 0.5, 4.0, 8.0)


def test_too_many_are_refused_and_pause() -> None:
    records = run(Load(3, duration=5), asked=requests(new=20), max_concurrent_requests=2)
    refused = [record for record in records if record.error]
    assert len(records) - len(refused) == 2
    assert all("429" in str(record.error) for record in refused)
    assert [record.start for record in refused] == pytest.approx([0.1 * number for number in range(len(refused))])


def test_what_fits_nowhere_is_refused() -> None:
    (record,) = run(Load(1, requests=1), asked=requests(20), max_batch_prefill_tokens=16)
    assert "max_batch_prefill_tokens" in str(record.error)


def test_a_full_cache_makes_them_wait() -> None:
    first, second = run(Load(2, requests=2), asked=requests(20, 12), blocks=3)
    assert first.end == 12.0
    assert second.arrivals[0] > first.end


def test_what_is_not_done_in_time_has_failed() -> None:
    (record,) = run(Load(1, requests=1, time_limit=2.5))
    assert (record.error, len(record.arrivals), record.end) == ("not done after 2.5 s", 2, 2.5)


def test_prompts_that_begin_alike_are_computed_once() -> None:
    alike = (one(number, 7, 160, 1) for number in itertools.count())
    first, second = run(Load(1, requests=2), Costs(0.0, 1.0), asked=alike)
    assert first.end == 160.0
    assert second.end - second.start == 16.0


def test_chunks_keep_the_others_going() -> None:
    def gaps(**options: Any) -> float:
        asked = iter([one(0, 0, 10, 40, 0.0), one(1, 1000, 1000, 1, 5.5), one(2, 0, 1, 1, math.inf)])
        load = Load(2, closed=False)
        talking, _ = run(load, Costs(1.0, 0.1), asked=asked, waiting_served_ratio=0, **options)
        return max(later - earlier for earlier, later in itertools.pairwise(talking.arrivals))

    assert gaps() == pytest.approx(102.0)  # the whole prompt, and the step after it
    assert gaps(prefill_chunk_tokens=16) == pytest.approx(2.6)


def test_the_same_load_gives_the_same_records() -> None:
    def once() -> list[Simulated]:
        chance = random.Random(3)
        asked = (one(n, 9, chance.randint(1, 200), chance.randint(1, 90)) for n in itertools.count())
        load = Load(5, closed=False, duration=300)
        return run(load, Costs(0.1, 0.003, 0.02), asked=due(asked, poisson(0.1, 1)))

    assert once() == once()


@pytest.mark.parametrize("options", [BatchingOptions(), BatchingOptions(prefill_chunk_tokens=32, max_batch_size=3)])
async def test_the_plans_are_those_of_the_engine(options: BatchingOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """All come at once, so that the clock has no say."""
    asked = [one(n, 100 * n, 7 * n + 3, 3 + 5 * n) for n in range(8)]
    sent: list[tuple[list[int], list[int]]] = []

    class Listening(FakeShards):
        async def send(self, plan: Plan) -> None:
            sent.append(([*plan.ids], [*plan.counts]))
            await super().send(plan)

    engine = Engine(Listening(), options, Tokenizer(models.BPE()), Metrics(1024, 2048))
    await engine.start()
    generations = [
        engine.generate(
            GenerationRequest(
                prompt_ids=ids(each),
                sampling=SamplingParams(),
                stopping=StoppingParams(max_new_tokens=each.new_tokens, ignore_eos=True),
            )
        )
        for each in asked
    ]
    for generation in generations:
        await generation.__aenter__()
    async with asyncio.timeout(20):
        for generation in generations:
            while not generation.over:
                await generation.drain()
    await engine.stop()

    planned: list[tuple[list[int], list[int]]] = []
    send = shards.Shards.send

    def listening(self: shards.Shards, plan: Plan, now: float) -> None:
        planned.append(([*plan.ids], [*plan.counts]))
        send(self, plan, now)

    monkeypatch.setattr(shards.Shards, "send", listening)
    monkeypatch.setattr(shards.Shards, "alike", False)
    simulate(options, FAKE_INFO, Costs(), Overheads(), iter(asked), Load(8, requests=8), ids)
    assert planned == sent


def test_most_steps_of_long_texts_are_taken_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = 0
    plan = Scheduler.plan

    def counting(self: Scheduler, now: float) -> Plan | None:
        nonlocal plans
        plans += 1
        return plan(self, now)

    monkeypatch.setattr(Scheduler, "plan", counting)
    records = run(Load(4, requests=4, time_limit=1e6), asked=requests(new=1000))
    assert max(record.end for record in records) == pytest.approx(1000, abs=5)
    assert plans < 30
