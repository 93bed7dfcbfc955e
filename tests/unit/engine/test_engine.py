"""The engine over fake shards: real scheduler, real text, real event loop."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer

from tgi_server.config.schema import BatchingOptions
from tgi_server.engine.engine import Engine
from tgi_server.errors import (
    GenerationError,
    OverloadedError,
    ShuttingDownError,
    UnhealthyError,
    ValidationError,
)
from tgi_server.rpc.fake import FAKE_INFO, FakeShards
from tgi_server.telemetry.metrics import Metrics
from tgi_server.types import (
    CacheKind,
    FinishReason,
    GenerationRequest,
    GroupInfo,
    NewSequence,
    SamplingParams,
    StoppingParams,
    TokenEvent,
)

INFO = replace(FAKE_INFO, groups=[GroupInfo(CacheKind.FULL, None, 64)], vocab_size=340, eos_token_ids=[0])


SAMPLING = ("top_n_tokens", "prompt_logprobs", "prompt_top_tokens")


class Rig:
    """An engine, what is under it and what it counts."""

    def __init__(self, tokenizer: Tokenizer, shards: FakeShards, options: BatchingOptions) -> None:
        self.tokenizer, self.shards, self.metrics = tokenizer, shards, Metrics(1024, 2048)
        self.engine = Engine(shards, options, tokenizer, self.metrics)

    def request(self, prompt: str = "the dog", new: int = 8, **parameters: Any) -> GenerationRequest:
        sampling = {key: parameters.pop(key) for key in SAMPLING if key in parameters}
        return GenerationRequest(
            prompt_ids=self.tokenizer.encode(prompt).ids,
            sampling=SamplingParams(**sampling),
            stopping=StoppingParams(max_new_tokens=new, **{"ignore_eos": True, **parameters}),
        )

    async def events(self, request: GenerationRequest) -> list[TokenEvent]:
        async with self.engine.generate(request) as generation:
            return [event async for event in generation]

    def count(self, series: str) -> float:
        """The value of one line of the metrics; 0 when it is not there yet."""
        values = [line.split()[-1] for line in self.metrics.render().splitlines() if line.split()[0] == series]
        return float(values[0]) if values else 0.0


Start = Callable[..., Any]


@pytest.fixture
async def start(tokenizer: Tokenizer) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        @asynccontextmanager
        async def running(shards: FakeShards, options: dict[str, Any]) -> AsyncIterator[Rig]:
            rig = Rig(tokenizer, shards, BatchingOptions(**options))
            await rig.engine.start()
            yield rig
            await rig.engine.stop()

        async def start(shards: FakeShards | None = None, **options: Any) -> Rig:
            return await stack.enter_async_context(running(shards or FakeShards(INFO), options))

        yield start


def spell(tokenizer: Tokenizer, text: str) -> Callable[[NewSequence, int], int]:
    """Every sequence generates `text`, then its end."""
    ids = [*tokenizer.encode(text).ids, 0]
    return lambda new, position: ids[min(position - len(new.prompt_ids), len(ids) - 1)]


async def test_a_generation_from_first_to_last_token(start: Start, tokenizer: Tokenizer) -> None:
    rig = await start(FakeShards(INFO, choose=spell(tokenizer, " jumps over")))
    async with rig.engine.generate(rig.request(new=50, ignore_eos=False)) as generation:
        events = [event async for event in generation]
    finish = events[-1].finish
    assert finish is not None and finish.reason is FinishReason.EOS_TOKEN
    assert finish.text == " jumps over" == "".join(e.token.text for e in events if not e.token.special)
    assert finish.generated_tokens == len(events)
    assert all(event.finish is None for event in events[:-1])
    assert generation.inference_time >= 0.0 <= generation.queue_time
    assert (rig.engine.running, rig.engine.waiting) == (0, 0)


async def test_each_gets_the_same_text_alone_and_among_others(start: Start) -> None:
    rig = await start(max_batch_size=3)
    requests = [rig.request(prompt="fox" * (1 + n % 5), new=5 + n % 7) for n in range(20)]
    alone = [await rig.events(request) for request in requests]
    together = await asyncio.gather(*(rig.events(request) for request in requests))
    assert alone == together


async def test_two_plans_are_in_flight(start: Start) -> None:
    rig = await start(FakeShards(INFO, step_seconds=0.02))
    async with rig.engine.generate(rig.request(new=10)) as generation:
        await generation.drain()
        assert len(rig.shards.plans) >= 2


async def test_drain_joins_what_is_ready(start: Start) -> None:
    rig = await start()
    async with rig.engine.generate(rig.request(new=6)) as generation:
        events = await generation.drain()
        await asyncio.sleep(0.01)
        rest = await generation.drain()
        assert len(events) + len(rest) == 6 and len(rest) > 1
        assert await generation.drain() == []


async def test_a_stop_sequence_ends_the_sequence_in_the_batch(start: Start, tokenizer: Tokenizer) -> None:
    rig = await start(FakeShards(INFO, choose=spell(tokenizer, " jumps over the lazy dog")))
    events = await rig.events(rig.request(new=50, stop_sequences=("over",)))
    assert events[-1].finish is not None
    assert (events[-1].finish.text, events[-1].finish.reason) == (" jumps over", FinishReason.STOP_SEQUENCE)
    assert rig.engine.running == 0
    await rig.events(rig.request(new=1))
    assert [plan.finished for plan in rig.shards.plans if plan.finished] == [[0]]


async def test_leaving_early_aborts_running_and_waiting(start: Start) -> None:
    rig = await start(FakeShards(INFO, step_seconds=0.005), max_batch_size=1)
    async with rig.engine.generate(rig.request(new=100)) as first:
        await first.drain()
        async with rig.engine.generate(rig.request(new=100)):
            await asyncio.sleep(0)
            assert (rig.engine.running, rig.engine.waiting) == (1, 1)
        assert (rig.engine.running, rig.engine.waiting) == (1, 0)
        sent = len(rig.shards.plans)
    assert rig.engine.running == 0
    assert await rig.events(rig.request(new=1))
    assert rig.shards.plans[sent].finished == [0], "told in the very next plan"
    assert rig.count("tgi_batch_current_size") == 0 == rig.count("tgi_batch_current_max_tokens")


async def test_the_shards_tell_what_fills_a_step(start: Start) -> None:
    rig = await start(FakeShards(replace(INFO, efficient_tokens=1)))
    await asyncio.gather(*(rig.events(rig.request(new=2)) for _ in range(3)))
    assert [plan.ids for plan in rig.shards.plans] == [[0], [1], [2], [0, 1, 2]]
    assert rig.count('tgi_batch_inference_count{method="prefill"}') == 3
    assert rig.count("tgi_batch_next_size_sum") == 3


async def test_cancelling_the_reader_aborts(start: Start) -> None:
    rig = await start(FakeShards(INFO, step_seconds=0.01))
    task = asyncio.create_task(rig.events(rig.request(new=100)))
    await asyncio.sleep(0.025)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.engine.running == 0


async def test_prompt_tokens_and_alternatives(start: Start) -> None:
    rig = await start()
    request = rig.request(prompt="the dog", new=2, prompt_logprobs=True, prompt_top_tokens=2, top_n_tokens=3)
    async with rig.engine.generate(request) as generation:
        events = [event async for event in generation]
    assert "".join(event.token.text for event in generation.prompt) == "the dog"
    assert [event.token.logprob for event in generation.prompt[:2]] == [None, -1.0]
    assert {len(event.top_tokens) for event in generation.prompt[1:]} == {2} and not generation.prompt[0].top_tokens
    assert [len(event.top_tokens) for event in events] == [3, 3]


async def test_a_text_whose_prompt_an_encoder_reads_begins_anew(start: Start, tokenizer: Tokenizer) -> None:
    groups = [GroupInfo(CacheKind.FULL, None, 8), GroupInfo(CacheKind.ENCODER, None, 8)]
    ids: list[int] = tokenizer.encode("fox").ids

    def choose(new: NewSequence, position: int) -> int:
        return ids[position - len(new.prompt_ids)]

    rig = await start(FakeShards(replace(INFO, groups=groups, start_token_id=1), choose=choose))
    request = rig.request(prompt="the dog", new=len(ids), prompt_logprobs=True)
    async with rig.engine.generate(request) as generation:
        events = [event async for event in generation]
    (only,) = generation.prompt
    assert (only.token.id, only.token.text, only.token.logprob) == (1, "<|turn|>", None)
    assert events[-1].finish is not None and events[-1].finish.text == "fox"


async def test_what_can_never_run_is_refused(start: Start) -> None:
    rig = await start()
    with pytest.raises(ValidationError, match="max_batch_total_tokens"):
        await rig.events(rig.request(new=5000))
    assert rig.engine.waiting == 0


async def test_permits_are_limited_and_given_back(start: Start) -> None:
    rig = await start(max_concurrent_requests=2)
    with rig.engine.permit(), rig.engine.permit():
        with pytest.raises(OverloadedError, match="Model is overloaded"), rig.engine.permit():
            pass
        await rig.engine.health()  # the probe needs no permit
    with rig.engine.permit():
        rig.engine.begin_drain()
        with pytest.raises(ShuttingDownError), rig.engine.permit():
            pass
        assert len(await rig.events(rig.request())) == 8, "what is inside goes on"
    with pytest.raises(UnhealthyError, match="shutting down"):
        await rig.engine.health()


async def test_health_generates_a_token_until_one_has_succeeded(start: Start) -> None:
    rig = await start()
    await asyncio.gather(rig.engine.health(), rig.engine.health(), rig.engine.health())
    assert len(rig.shards.plans) == 1, "probes do not pile up"
    await rig.engine.health()
    assert len(rig.shards.plans) == 1


async def test_a_failed_sequence_fails_alone_and_health_probes_again(start: Start) -> None:
    rig = await start(FakeShards(INFO, step_seconds=0.002))
    rig.shards.model.failures[0] = "out of memory"
    fine = asyncio.create_task(rig.events(rig.request(new=5)))
    with pytest.raises(GenerationError, match=r"^out of memory$"):
        await rig.events(rig.request(new=5))
    assert len(await fine) == 5
    assert rig.count('tgi_batch_inference_failure{method="prefill"}') == 1
    rig.shards.model.failures[2] = "again"
    with pytest.raises(GenerationError):
        await rig.events(rig.request())
    sent = len(rig.shards.plans)
    await rig.engine.health()
    assert len(rig.shards.plans) == sent + 1
    assert not rig.engine.failed.is_set()


async def test_the_death_of_the_shards_ends_everything(start: Start) -> None:
    rig = await start(FakeShards(INFO, step_seconds=0.005), max_batch_size=1)
    await rig.engine.health()
    tasks = [asyncio.create_task(rig.events(rig.request(new=500))) for _ in range(3)]
    await asyncio.sleep(0.02)
    rig.shards.kill("shard 1 died: signal 9")
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["shard 1 died: signal 9"] * 3
    assert all(isinstance(result, GenerationError) for result in results)
    assert rig.engine.failed.is_set()
    with pytest.raises(GenerationError, match="shard 1 died"):
        await rig.events(rig.request())
    with pytest.raises(UnhealthyError, match="shard 1 died"):
        await rig.engine.health()


async def test_shards_that_die_idle_are_noticed(start: Start) -> None:
    rig = await start()
    rig.shards.kill()
    await asyncio.wait_for(rig.engine.failed.wait(), 1)


async def test_stopping_ends_what_is_left(tokenizer: Tokenizer) -> None:
    rig = Rig(tokenizer, FakeShards(INFO, step_seconds=0.01), BatchingOptions())
    await rig.engine.start()
    task = asyncio.create_task(rig.events(rig.request(new=500)))
    await asyncio.sleep(0.03)
    assert await rig.engine.stop(), "all that was sent is worked on"
    with pytest.raises(GenerationError, match="stopped"):
        await task


async def test_stopping_at_once_leaves_nothing_behind(tokenizer: Tokenizer, recwarn: pytest.WarningsRecorder) -> None:
    rig = Rig(tokenizer, FakeShards(INFO), BatchingOptions())
    await rig.engine.start()
    await rig.engine.stop()
    del rig
    gc.collect()
    assert not recwarn.list, "a coroutine was never awaited"


async def test_shards_that_hang_are_unhealthy(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgi_server.engine.engine.LAST_STEPS", 0.05)
    shards = FakeShards(INFO, step_seconds=60)
    engine = Engine(shards, BatchingOptions(), tokenizer, Metrics(1024, 2048), health_timeout=0.05)
    await engine.start()
    for answer in await asyncio.gather(engine.health(), engine.health(), return_exceptions=True):
        assert isinstance(answer, UnhealthyError) and "no step was done" in str(answer)
    assert not await engine.stop(), "a plan is still in flight"


async def test_batch_metrics(start: Start) -> None:
    rig = await start(max_waiting_tokens=0)
    await rig.events(rig.request(new=3))
    assert rig.count('tgi_batch_inference_count{method="prefill"}') == 1
    assert rig.count('tgi_batch_inference_count{method="decode"}') == 2
    assert rig.count('tgi_batch_inference_success{method="decode"}') == 2
    assert rig.count('tgi_batch_inference_duration_count{method="decode"}') == 2
    assert rig.count('tgi_batch_forward_duration_count{method="prefill"}') == 1
    assert rig.count("tgi_batch_next_size_sum") == 1
    assert rig.count('tgi_batch_concat{reason="wait_exceeded"}') == 0
    async with rig.engine.generate(rig.request(new=60)) as first:
        await first.drain()
        await rig.events(rig.request(new=2))
    assert rig.count('tgi_batch_concat{reason="wait_exceeded"}') == 1
    assert rig.count("tgi_queue_size") == 0


async def test_only_waits_for_the_router_are_counted(start: Start) -> None:
    rig = await start(FakeShards(INFO, step_seconds=0.001))
    for _ in range(2):
        await rig.events(rig.request(new=4))
        await asyncio.sleep(0.01)  # no work: the device waits for a request
    assert rig.count('tgi_batch_forward_duration_count{method="decode"}') == 6
    assert rig.count('tgi_batch_wait_duration_count{method="decode"}') == 6
    assert rig.count('tgi_batch_wait_duration_count{method="prefill"}') == 0
    async with rig.engine.generate(rig.request(new=60)) as first:
        await first.drain()
        await rig.events(rig.request(new=2))
    assert rig.count('tgi_batch_wait_duration_count{method="prefill"}') == 1, "while another one was running"


async def test_a_batch_that_ends_early_leaves_no_wait(start: Start, tokenizer: Tokenizer) -> None:
    rig = await start(FakeShards(INFO, step_seconds=0.001, choose=spell(tokenizer, " jumps")))
    for _ in range(2):
        await rig.events(rig.request(new=50, ignore_eos=False))
        await asyncio.sleep(0.01)
    assert rig.count('tgi_batch_forward_duration_count{method="prefill"}') == 2
    assert rig.count('tgi_batch_wait_duration_count{method="prefill"}') == 0


async def test_a_late_plan_is_counted(start: Start) -> None:
    rig = await start(FakeShards(INFO, step_seconds=0.001))
    async with rig.engine.generate(rig.request(new=200)) as generation:
        await generation.drain()
        time.sleep(0.05)  # a router that is busy with something else
        async for _ in generation:
            pass
    assert rig.count('tgi_batch_wait_duration_sum{method="decode"}') > 0.03


async def test_prefix_cache_metrics(start: Start) -> None:
    rig = await start()
    prompt = "the dog " * 30
    length = len(rig.request(prompt).prompt_ids)
    texts = [[event.token for event in await rig.events(rig.request(prompt))] for _ in range(2)]
    assert texts[0] == texts[1]
    await rig.events(rig.request(prompt, prompt_logprobs=True))
    assert rig.count("tgi_prefix_cache_query_tokens") == 2 * length, "who wants the prompt's scores does not ask"
    assert rig.count("tgi_prefix_cache_hit_tokens") == (length - 1) // 16 * 16 > 0
    without = await start(prefix_caching=False)
    await without.events(without.request())
    assert "prefix_cache" not in without.metrics.render()


async def test_chunks_are_counted_as_prefill(start: Start) -> None:
    rig = await start(prefill_chunk_tokens=16)
    request = rig.request("the dog " * 30, new=3)
    assert len(await rig.events(request)) == 3
    assert rig.count('tgi_batch_inference_count{method="prefill"}') == -(-len(request.prompt_ids) // 16)
    assert rig.count('tgi_batch_inference_count{method="decode"}') == 2


async def test_shards_that_guess_bring_the_same_text_in_fewer_steps(start: Start) -> None:
    texts, steps = [], []
    for draft in (0, 3):
        rig = await start(FakeShards(replace(INFO, draft_width=draft)), max_batch_size=3)
        requests = [rig.request(prompt="fox" * (1 + n % 5), new=15 + n, top_n_tokens=2) for n in range(8)]
        texts.append(await asyncio.gather(*(rig.events(request) for request in requests)))
        steps.append(len(rig.shards.plans))
        assert (rig.engine.running, rig.count("tgi_batch_current_max_tokens")) == (0, 0)
    assert texts[0] == texts[1] and steps[1] < steps[0] * 0.6


async def test_a_stop_sequence_in_the_middle_of_a_step(start: Start, tokenizer: Tokenizer) -> None:
    choose = spell(tokenizer, " jumps over the lazy dog")
    rig = await start(FakeShards(replace(INFO, draft_width=30), choose=choose))
    events = await rig.events(rig.request(new=50, stop_sequences=("over",)))
    assert events[-1].finish is not None
    assert (events[-1].finish.text, events[-1].finish.generated_tokens) == (" jumps over", len(events))


async def test_layers_with_windows_make_no_difference(start: Start) -> None:
    texts = []
    for group in (INFO.groups[0], GroupInfo(CacheKind.WINDOW, 20, 12)):
        rig = await start(FakeShards(replace(INFO, groups=[group])), prefill_chunk_tokens=16)
        requests = [rig.request(prompt="the dog " * n, new=60) for n in range(1, 9)]
        texts.append(await asyncio.gather(*(rig.events(request) for request in requests)))
    assert texts[0] == texts[1]


async def test_what_a_generation_found_in_the_cache_is_told(start: Start) -> None:
    rig = await start()
    request = rig.request("the dog " * 30)
    cached = []
    for _ in range(2):
        async with rig.engine.generate(request) as first, rig.engine.generate(request) as second:
            assert first.cached_tokens == 0, "it has not started"
            for generation in (first, second):
                while await generation.drain():
                    pass
        cached.append((first.cached_tokens, second.cached_tokens))
    blocks = (len(request.prompt_ids) - 1) // 16 * 16
    assert cached == [(0, blocks), (blocks, blocks)]
    assert rig.shards.plans[0].counts == [len(request.prompt_ids), len(request.prompt_ids) - blocks]


@pytest.mark.parametrize(
    ("cacheable", "wanted", "told"),
    [
        (True, None, "INFO prefix caching: on"),
        (True, True, "INFO prefix caching: on"),
        (True, False, "INFO prefix caching: off, prefix_caching=false"),
        (False, None, "INFO prefix caching: off, keys and values depend on the length"),
        (False, True, "WARNING prefix_caching has no effect with this model: keys and values depend on the length"),
    ],
)
async def test_whether_prefixes_are_cached_is_told(
    start: Start, caplog: pytest.LogCaptureFixture, cacheable: bool, wanted: bool | None, told: str
) -> None:
    with caplog.at_level("INFO", "tgi_server.engine"):
        rig = await start(FakeShards(replace(INFO, prefix_cacheable=cacheable)), prefix_caching=wanted)
    for _ in range(2):
        await rig.events(rig.request("the dog " * 30))
    (record,) = caplog.records
    level, _, message = told.partition(" ")
    assert record.levelno == getattr(logging, level) and record.getMessage().startswith(message)
    assert ("prefix_cache" in rig.metrics.render()) is (cacheable and wanted is not False)


async def test_what_became_of_guesses_is_counted(start: Start) -> None:
    rig = await start(FakeShards(replace(INFO, draft_width=3)))
    events = await rig.events(rig.request("the dog " * 4, new=40))
    text = rig.metrics.render()
    counts = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    steps, skipped = counts["tgi_request_skipped_tokens_count"], counts["tgi_request_skipped_tokens_sum"]
    assert skipped + steps == len(events) == 40 and skipped > 0
    bounds = [key for key in counts if key.startswith("tgi_request_skipped_tokens_bucket")]
    assert len(bounds) == 5 and 'le="3"' in bounds[3]
    guessed, accepted = (
        [counts[f'tgi_speculate_{what}_tokens{{position="{p}"}}'] for p in (1, 2, 3)]
        for what in ("guessed", "accepted")
    )
    assert sum(accepted) == skipped and sorted(accepted, reverse=True) == accepted
    assert all(right <= made for right, made in zip(accepted, guessed, strict=True)) and 'position="4"' not in text
    plain = await start(FakeShards(INFO))
    await plain.events(plain.request("the dog", new=4))
    assert "skipped" not in plain.metrics.render() and "speculate" not in plain.metrics.render()
