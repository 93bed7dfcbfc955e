"""Traces of requests, as a real collector on the loopback gets them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.collector import Collector, attributes, collecting
from tests.router_app import Router, says, started
from tests.unit.router.native.test_native import post
from tgi_server.telemetry import tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


async def closed(router: Router) -> None:
    """What the end of serving does."""
    await router.app.startup()
    await router.app.shutdown()


def service(collector: Collector) -> str:
    (request,) = collector.requests
    (resource,) = request.resource_spans
    name: str
    (name,) = [entry.value.string_value for entry in resource.resource.attributes if entry.key == "service.name"]
    return name


async def test_a_span_for_each_request(collector: Collector) -> None:
    async with started(says("Paris."), otlp_endpoint=collector.endpoint) as router:
        parameters = {"seed": 2**64 - 1, "do_sample": True, "top_k": 3}
        before = time.time_ns()
        await post(router, "/generate", {"inputs": "the fox", "parameters": parameters})
        await post(router, "/generate_stream", {"inputs": "the fox", "parameters": {"max_new_tokens": 2}})
        body = {"messages": [{"role": "user", "content": "secret"}], "stream": True, "max_tokens": 9}
        await post(router, "/v1/chat/completions", body)
        await closed(router)
    assert service(collector) == "text-generation-inference.router"
    assert list(collector.spans) == ["POST /generate", "POST /generate_stream", "POST /v1/chat/completions"]
    whole, stream, chat = collector.spans.values()
    assert before <= whole.start_time_unix_nano < whole.end_time_unix_nano <= time.time_ns()
    assert whole.kind == Span.SPAN_KIND_SERVER and whole.status.code == Status.STATUS_CODE_UNSET
    names = {"total_time", "validation_time", "queue_time", "inference_time", "time_per_token"}
    assert all(0 <= attributes(whole)[name] < 5 for name in names)
    assert attributes(whole)["generated_tokens"] == 3 and attributes(whole)["finish_reason"] == "eos_token"
    assert attributes(whole)["seed"] == str(2**64 - 1) and attributes(whole)["prompt_tokens"] > 1
    assert json.loads(attributes(whole)["parameters"]) == parameters
    assert attributes(stream)["finish_reason"] == "length" and "seed" not in attributes(stream)
    assert "secret" not in attributes(chat)["parameters"]


async def test_failures_and_clients_that_go_away(collector: Collector) -> None:
    async with started(otlp_endpoint=collector.endpoint, otlp_service_name="shop") as router:
        await post(router, "/generate", {"inputs": ""})
        router.shards.model.failures[0] = "out of memory"
        await post(router, "/generate_stream", {"inputs": "x"})
        await closed(router)
    assert service(collector) == "shop"
    refused, failed = collector.spans.values()
    assert {span.status.code for span in (refused, failed)} == {Status.STATUS_CODE_ERROR}
    assert "`inputs` cannot be empty" in refused.status.message and "out of memory" in failed.status.message
    assert [attributes(span)["error.type"] for span in (refused, failed)] == ["validation", "generation"]


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def told(collector: Collector, parent: Span) -> list[str]:
    """The names of the parts of a span, which lie within it."""
    parts = collector.below(parent)
    for part in parts:
        assert part.trace_id == parent.trace_id and part.kind == Span.SPAN_KIND_INTERNAL
        assert parent.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano
        assert part.end_time_unix_nano <= parent.end_time_unix_nano
        told(collector, part)
    return [part.name for part in parts]


PHASES = ["validation", "queue", "prefill", "decode"]


async def test_the_parts_of_a_request_follow_each_other_and_add_up(collector: Collector) -> None:
    async with started(step_seconds=0.02, otlp_endpoint=collector.endpoint) as router:
        parameters = {"max_new_tokens": 5, "temperature": 0.5, "top_p": 0.9}
        await post(router, "/generate", {"inputs": "the quick brown fox", "parameters": parameters})
        await post(router, "/generate_stream", {"inputs": "the fox", "parameters": {"max_new_tokens": 3}})
        await closed(router)
    for span, tokens in zip(collector.spans.values(), (5, 3), strict=True):
        assert told(collector, span) == PHASES
        validation, queue, prefill, decode = parts = collector.below(span)
        for one, next_one in pairwise(parts):
            assert abs(one.end_time_unix_nano - next_one.start_time_unix_nano) < 10
        whole = attributes(span)
        assert sum(map(seconds, parts)) <= seconds(span) < sum(map(seconds, parts)) + 0.5
        assert seconds(validation) == pytest.approx(whole["validation_time"], abs=0.05)
        assert seconds(queue) == pytest.approx(whole["queue_time"], abs=1e-4)
        assert seconds(prefill) + seconds(decode) == pytest.approx(whole["inference_time"], abs=1e-4)
        assert seconds(prefill) + seconds(decode) > 0.019 * tokens
        assert attributes(prefill)["tgi.steps"] == 1 and attributes(decode)["tgi.steps"] == tokens - 1
        assert attributes(prefill)["prompt_tokens"] == whole["gen_ai.usage.input_tokens"]
        assert attributes(decode)["generated_tokens"] == whole["gen_ai.usage.output_tokens"] == tokens
        for phase in (prefill, decode):
            assert told(collector, phase) == ["shard 0"]
            (shard,) = collector.below(phase)
            worked = attributes(phase)["tgi.forward_time"]
            assert worked == pytest.approx(0.02 * attributes(phase)["tgi.steps"], rel=1e-6)
            # the router may hear of the first token when the next step is half done already
            assert seconds(shard) == pytest.approx(min(worked, seconds(phase)), abs=1e-6)


async def test_attributes_have_the_names_of_the_conventions(collector: Collector) -> None:
    async with started(says("Paris."), otlp_endpoint=collector.endpoint, model_id="served") as router:
        body = {"messages": [{"role": "user", "content": "secret"}], "model": "asked", "temperature": 0.5, "seed": 7}
        await post(router, "/v1/chat/completions", {**body, "stream": True, "max_tokens": 9})
        await post(router, "/generate", {"inputs": "the fox", "parameters": {"max_new_tokens": 3}})
        await closed(router)
    chat, generate = map(attributes, collector.spans.values())
    wanted: dict[str, Any] = {
        "operation.name": "chat", "provider.name": "tgi_server", "request.model": "asked", "response.model": "served",
        "request.temperature": 0.5, "request.seed": 7, "request.max_tokens": 9, "request.stream": True,
        "usage.output_tokens": 3,
    }  # fmt: skip
    assert {name: chat[f"gen_ai.{name}"] for name in wanted} == wanted
    assert chat["gen_ai.response.finish_reasons"].values[0].string_value == "eos_token"
    assert 0 < chat["gen_ai.response.time_to_first_chunk"] < 5
    assert chat["http.route"] == "/v1/chat/completions" and chat["http.request.method"] == "POST"
    assert generate["gen_ai.operation.name"] == "text_completion" and generate["gen_ai.request.model"] == "served"
    assert "gen_ai.request.temperature" not in generate and "gen_ai.response.time_to_first_chunk" not in generate
    assert "secret" not in str(collector.every) and "Paris" not in str(collector.every)


async def test_each_candidate_has_its_own_parts(collector: Collector) -> None:
    async with started(otlp_endpoint=collector.endpoint) as router:
        parameters = {"max_new_tokens": 2, "best_of": 2, "do_sample": True}
        await post(router, "/generate", {"inputs": "x", "parameters": parameters})
        await post(router, "/v1/completions", {"prompt": "x", "n": 3, "max_tokens": 2})
        await closed(router)
    for span, texts in zip(collector.spans.values(), (2, 3), strict=True):
        assert sorted(told(collector, span)) == sorted(["validation", *PHASES[1:] * texts])
        numbers = [attributes(part)["tgi.candidate"] for part in collector.below(span) if part.name == "decode"]
        assert sorted(numbers) == [*range(texts)]
        assert attributes(span)["gen_ai.usage.output_tokens"] == 2 * texts
        assert attributes(span)["gen_ai.request.choice.count"] == texts


async def test_the_part_that_failed_is_told(collector: Collector) -> None:
    async with started(otlp_endpoint=collector.endpoint) as router:
        await post(router, "/generate", {"inputs": ""})
        router.shards.model.failures[0] = "out of memory"
        await post(router, "/v1/completions", {"prompt": "x"})
        await closed(router)
    refused, failed = collector.spans.values()
    assert told(collector, refused) == ["validation"] and told(collector, failed) == PHASES[:3]
    (validation,), (_, queue, prefill) = collector.below(refused), collector.below(failed)
    assert "cannot be empty" in validation.status.message and "out of memory" in prefill.status.message
    assert queue.status.code == Status.STATUS_CODE_UNSET


async def test_a_defect_ends_the_span(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    async with started(otlp_endpoint=collector.endpoint) as router:
        monkeypatch.setattr(router.engine, "generate", lambda *given, **named: 1 / 0)
        await post(router, "/generate", {"inputs": "the fox"})
        await closed(router)
    (span,) = collector.spans.values()
    assert span.status.code == Status.STATUS_CODE_ERROR and "ZeroDivisionError" in span.status.message
    assert attributes(span)["error.type"] == "incomplete_generation"


async def test_a_client_that_goes_away_ends_the_span(collector: Collector) -> None:
    async with started(step_seconds=0.02, otlp_endpoint=collector.endpoint) as router:
        body = {"inputs": "x", "parameters": {"max_new_tokens": 500}}
        headers = {"content-type": "application/json"}
        async with router.app.test_client().request("/generate", method="POST", headers=headers) as connection:
            await connection.send(json.dumps(body).encode())
            await connection.send_complete()
            while len(router.shards.plans) < 4:
                await asyncio.sleep(0.01)
            await connection.disconnect()
        while router.engine.running:
            await asyncio.sleep(0.01)
        await closed(router)
    (span,) = collector.spans.values()
    assert span.status.code == Status.STATUS_CODE_ERROR and span.status.message == "the client went away"
    assert attributes(span)["error.type"] == "dropped" and told(collector, span) == PHASES
    assert 0 < attributes(span)["gen_ai.usage.output_tokens"] < 500
    assert seconds(collector.below(span)[3]) < 5


async def test_every_api_goes_on_with_the_trace_of_its_caller(collector: Collector) -> None:
    said = [{"role": "user", "content": "x"}]
    bodies = {
        "/": {"inputs": "x"}, "/generate": {"inputs": "x"}, "/generate_stream": {"inputs": "x"},
        "/v1/completions": {"prompt": "x"}, "/v1/chat/completions": {"messages": said},
        "/v1/responses": {"input": "x"}, "/v1/messages": {"messages": said, "max_tokens": 3},
        "/invocations": {"inputs": "x"},
    }  # fmt: skip
    async with started(says("Paris."), otlp_endpoint=collector.endpoint) as router:
        for path, body in bodies.items():
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            response = await router.app.test_client().post(path, json=body, headers=headers)
            assert response.status_code == 200
            await response.get_data()
        await closed(router)
    assert list(collector.spans) == [f"POST {path}" for path in bodies]
    for span in collector.spans.values():
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert told(collector, span) == PHASES


async def test_the_trace_of_the_caller_goes_on(collector: Collector) -> None:
    async with started(otlp_endpoint=collector.endpoint) as router:
        for path, header in (
            ("/generate", f"00-{TRACE}-{PARENT}-01"), ("/v1/completions", "nonsense"), ("/", f"00-{TRACE}-{PARENT}-00"),
        ):  # fmt: skip
            body = {"inputs": "x", "prompt": "x"}
            await router.app.test_client().post(path, json=body, headers={"traceparent": header})
        await closed(router)
    assert list(collector.spans) == ["POST /generate", "POST /v1/completions"], "the last caller is not sampled"
    known, new = collector.spans.values()
    assert (known.trace_id.hex(), known.parent_span_id.hex()) == (TRACE, PARENT)
    assert new.trace_id.hex() != TRACE and new.parent_span_id == b""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@pytest.fixture(params=["silent", "absent"])
def broken(request: pytest.FixtureRequest, collector: Collector) -> str:
    """The endpoint of a collector that does not answer."""
    collector.answering.clear()
    return collector.endpoint if request.param == "silent" else "http://127.0.0.1:9"


@pytest.mark.alone
async def test_requests_do_not_wait_for_the_collector(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
    async with started(says("Paris."), otlp_endpoint=broken) as router:
        for _ in range(10):
            with at_most(5):
                assert (await post(router, "/generate", {"inputs": "x"}))[0] == 200


@pytest.mark.alone
def test_the_end_waits_little_for_the_collector(broken: str) -> None:
    tracer = tracing.OtlpTracer(broken, "router", flush_seconds=0.2)
    for _ in range(3000):
        tracer.begin("x", {}).end({})
    with at_most(5):
        tracer.close()
    assert "traces" not in [thread.name for thread in threading.enumerate()]
