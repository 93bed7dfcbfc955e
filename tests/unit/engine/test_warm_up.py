"""The largest step is run before anybody asks for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.router_app import TOKENIZER
from tgi_server.config.schema import BatchingOptions
from tgi_server.engine.engine import Engine
from tgi_server.engine.warm_up import worst_prompts
from tgi_server.errors import ConfigError
from tgi_server.rpc.fake import FAKE_INFO, FakeShards
from tgi_server.telemetry.metrics import Metrics

GPU = replace(FAKE_INFO, device_type="cuda", efficient_tokens=100, vocab_size=TOKENIZER.get_vocab_size())


@pytest.mark.parametrize(
    ("options", "prompts"),
    [
        ({"max_input_length": 60, "max_total_tokens": 100}, [60, 39, 60]),
        ({"max_input_length": 60, "max_total_tokens": 100, "max_batch_prefill_tokens": 130}, [60, 10, 60]),
        ({"max_input_length": 60, "max_total_tokens": 100, "max_batch_prefill_tokens": 60}, [60]),
        ({"max_input_length": 500, "max_total_tokens": 900}, [99, 500]),
        ({"max_input_length": 60, "max_total_tokens": 100, "max_batch_size": 2}, [39, 60]),
        ({"max_input_length": 60, "max_total_tokens": 100, "prefill_chunk_tokens": 64}, [4, 60]),
        ({"max_input_length": 60, "max_total_tokens": 100, "prefill_chunk_tokens": 32}, [32]),
    ],
)
async def test_all_of_it_in_one_step(options: dict[str, Any], prompts: list[int]) -> None:
    given = BatchingOptions(**options)
    assert worst_prompts(given, GPU) == prompts
    shards = FakeShards(GPU)
    engine = Engine(shards, given, TOKENIZER, Metrics(60, 100))
    await engine.start()
    (plan,) = shards.plans
    assert plan.counts == prompts and all(new.sampling.prompt_logprobs for new in plan.new)
    assert not engine.running
    await engine.stop()


async def test_a_processor_runs_nothing() -> None:
    shards = FakeShards(replace(GPU, device_type="cpu"))
    engine = Engine(shards, BatchingOptions(), TOKENIZER, Metrics(60, 100))
    await engine.start()
    assert not shards.plans
    await engine.stop()


async def test_a_step_that_does_not_fit_stops_the_start() -> None:
    shards = FakeShards(GPU)
    shards.model.failures[0] = "out of memory"
    engine = Engine(shards, BatchingOptions(max_input_length=60), TOKENIZER, Metrics(60, 100))
    with pytest.raises(ConfigError, match=r"max_batch_prefill_tokens=4096: a step of 159 .*: out of memory; a smaller"):
        await engine.start()
    await engine.stop()
