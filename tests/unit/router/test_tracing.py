"""Traces of requests, as a real collector on the loopback gets them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

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


async def test_requests_do_not_wait_for_the_collector(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
    async with started(says("Paris."), otlp_endpoint=broken) as router:
        for _ in range(10):
            with at_most(1):
                assert (await post(router, "/generate", {"inputs": "x"}))[0] == 200


def test_the_end_waits_little_for_the_collector(broken: str) -> None:
    tracer = tracing.OtlpTracer(broken, "router", flush_seconds=0.2)
    for _ in range(3000):
        tracer.begin("x", {}).end({})
    with at_most(1):
        tracer.close()
