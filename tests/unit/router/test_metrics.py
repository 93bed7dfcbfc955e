"""What /metrics says after requests of each outcome, held against what text-generation-inference says there."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from quart.testing.connections import HTTPDisconnectError

from tests.router_app import Router, endless, started
from tgi_server import errors
from tgi_server.telemetry.names import FAMILIES, Family

GUESSES = 3

METHOD = {"method": {"prefill", "decode"}}
FAILURES = {"overloaded", "validation", "template", "incomplete", "dropped", "generation"}
SECONDS = [0.0001 * 1.5**k for k in range(1, 36)]
INPUT = [1000 * k / 100 for k in range(1, 101)]
TOTAL = [2000 * k / 100 for k in range(1, 101)]
SIZES = list(range(1, 1025))
"""With max_input_length=1000 and max_total_tokens=2000."""

CONTRACT: list[tuple[str, str, dict[str, set[str]], list[Any] | None]] = [
    ("tgi_request_count", "counter", {}, None),
    ("tgi_request_success", "counter", {}, None),
    ("tgi_request_failure", "counter", {"err": FAILURES}, None),
    ("tgi_request_duration", "histogram", {}, SECONDS),
    ("tgi_request_validation_duration", "histogram", {}, SECONDS),
    ("tgi_request_queue_duration", "histogram", {}, SECONDS),
    ("tgi_request_inference_duration", "histogram", {}, SECONDS),
    ("tgi_request_mean_time_per_token_duration", "histogram", {}, SECONDS),
    ("tgi_request_generated_tokens", "histogram", {}, TOTAL),
    ("tgi_request_input_length", "histogram", {}, INPUT),
    ("tgi_request_max_new_tokens", "histogram", {}, TOTAL),
    ("tgi_request_skipped_tokens", "histogram", {}, list(range(GUESSES + 1))),
    ("tgi_queue_size", "gauge", {}, None),
    ("tgi_batch_current_size", "gauge", {}, None),
    ("tgi_batch_current_max_tokens", "gauge", {}, None),
    ("tgi_batch_next_size", "histogram", {}, SIZES),
    ("tgi_batch_concat", "counter", {"reason": {"backpressure", "wait_exceeded"}}, None),
    ("tgi_batch_inference_count", "counter", METHOD, None),
    ("tgi_batch_inference_success", "counter", METHOD, None),
    ("tgi_batch_inference_failure", "counter", METHOD, None),
    ("tgi_batch_inference_duration", "histogram", METHOD, SECONDS),
    ("tgi_batch_forward_duration", "histogram", METHOD, SECONDS),
    ("tgi_batch_decode_duration", "histogram", METHOD, SECONDS),
    ("tgi_batch_filter_duration", "histogram", METHOD, SECONDS),
]
"""Section by section what text-generation-inference has, but for `tgi_batch_concat_duration`: nothing is concatenated
here (docs/operating.md)."""

OF_FRONT = "tgi_replicas_"
"""What no server tells begins so."""

Series = dict[tuple[tuple[str, str], ...], float]


@dataclass
class Told:
    """What a scrape says of one metric: the values of its series, and the bounds of their buckets."""

    kind: str
    help: str
    values: Series = field(default_factory=dict)
    bounds: list[float] = field(default_factory=list)

    def labels(self) -> dict[str, set[str]]:
        values: dict[str, set[str]] = {}
        for labels in self.values:
            for name, value in labels:
                values.setdefault(name, set()).add(value)
        return values


LINE = re.compile(r'(?P<name>\w+)(?:\{(?P<labels>(?:\w+="[^"]*",?)+)\})? (?P<value>\S+)')


def read(text: str) -> dict[str, Told]:
    """The metrics in a text; each begins with its help and its kind, and is told at one place."""
    told: dict[str, Told] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("# HELP "):
            name, help = line.removeprefix("# HELP ").split(" ", 1)
            kind = next(lines).removeprefix(f"# TYPE {name} ")
            assert name not in told
            told[name] = Told(kind, help)
            continue
        match = LINE.fullmatch(line)
        assert match, line
        found = re.findall(r'(\w+)="([^"]*)"', match["labels"] or "")
        _add(told[name], match["name"].removeprefix(name), found, float(match["value"]))
    return told


def _add(told: Told, suffix: str, labels: list[tuple[str, str]], value: float) -> None:
    if told.kind != "histogram":
        assert not suffix
        told.values[tuple(labels)] = value
    elif suffix == "_bucket":
        name, bound = labels.pop()
        assert name == "le"
        if bound != "+Inf" and float(bound) not in told.bounds:
            told.bounds.append(float(bound))
    elif suffix == "_count":
        told.values[tuple(labels)] = value
    else:
        assert suffix == "_sum"


async def post(router: Router, path: str, **body: Any) -> int:
    response = await router.app.test_client().post(path, json=body)
    await response.get_data()
    return response.status_code


async def scrape(router: Router) -> dict[str, Told]:
    response = await router.app.test_client().get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return read(await response.get_data(as_text=True))


@asynccontextmanager
async def leaving(router: Router, **parameters: int) -> AsyncIterator[None]:
    """A client that has gone away at the end, before its text did."""
    headers = {"content-type": "application/json"}
    connection = router.app.test_client().request("/generate_stream", method="POST", headers=headers)
    body = {"inputs": "x " * 17, "parameters": {"max_new_tokens": 1000, **parameters}}
    with suppress(HTTPDisconnectError):
        async with connection:
            await connection.send(json.dumps(body).encode())
            await connection.send_complete()
            yield
            await connection.disconnect()


async def running(router: Router, count: int = 1) -> None:
    while router.engine.running < count:
        await asyncio.sleep(0.001)


async def together(router: Router, count: int) -> None:
    """Prompts that come while others run."""
    calls = []
    for number in range(count):
        calls.append(asyncio.create_task(post(router, "/generate", inputs=f"{number}", parameters={})))
        await asyncio.sleep(0.004)
    assert await asyncio.gather(*calls) == [200] * count


async def every_outcome(router: Router) -> None:
    """A request of each kind of end."""
    await together(router, 12)
    assert await post(router, "/generate", inputs="x" * 40, parameters={"temperature": 0}) == 422
    chat = {"model": "m", "messages": [{"role": "critic", "content": "x"}]}
    assert await post(router, "/v1/chat/completions", **chat) == 422
    newest = max(id for plan in router.shards.plans for id in plan.ids)
    router.shards.model.failures[newest + 1] = "out of memory"
    assert await post(router, "/generate", inputs="x", parameters={}) == 424
    async with leaving(router):
        await running(router)
    with pytest.MonkeyPatch.context() as patch:  # a defect: the engine lets go of a text that has not ended
        patch.setattr("tgi_server.engine.generation.Generation.over", True)
        assert await post(router, "/generate", inputs="x", parameters={}) == 500
    with ExitStack() as held:
        for _ in range(64):
            held.enter_context(router.engine.permit())
        assert await post(router, "/generate", inputs="x") == 429


def expected() -> Iterator[str]:
    """What a server with all that is here tells after requests of each outcome."""
    of_launcher = {"tgi_model_load_seconds", "tgi_shard_resident_memory_bytes", "tgi_shard_cpu_seconds"}
    return (name for name in FAMILIES if name not in of_launcher and not name.startswith(OF_FRONT))


async def test_names_kinds_labels_and_buckets_of_text_generation_inference() -> None:
    options: dict[str, Any] = {"max_input_length": 1000, "max_total_tokens": 2000, "max_concurrent_requests": 64}
    async with started(endless, 0.001, draft_width=GUESSES, max_waiting_tokens=4, **options) as router:
        await every_outcome(router)
        told = await scrape(router)
    for name, kind, labels, bounds in CONTRACT:
        assert told[name].kind == kind, name
        found = told[name].labels()
        if name == "tgi_batch_inference_failure":
            assert found["method"] == {"prefill"}  # what failed here were prompts
        elif name == "tgi_batch_concat":
            assert found["reason"] and found["reason"] <= labels["reason"]
        else:
            assert found == labels, name
        assert not bounds or told[name].bounds == pytest.approx(bounds, rel=1e-12), name
    assert set(told) == set(expected()), "what is declared and never recorded, or the other way round"
    assert all(told[name].help == FAMILIES[name].help for name in told)


def test_the_table_is_that_of_text_generation_inference() -> None:
    for name, kind, labels, _ in CONTRACT:
        family = FAMILIES[name]
        assert family.kind == kind and set(family.labels) == set(labels)
        for label, values in labels.items():
            declared = family.labels[label]
            assert isinstance(declared, tuple) and set(declared) == values


def test_every_error_has_a_label_of_the_table() -> None:
    kinds = [errors.TgiError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        FAMILIES["tgi_request_failure"].check({"err": kind.label})
    assert len(kinds) > 10


def test_names_and_helps_are_as_prometheus_wants_them() -> None:
    for family in FAMILIES.values():
        assert re.fullmatch(r"(tgi|process)_[a-z_]+", family.name)
        assert family.help.endswith(".") and "\n" not in family.help and "\\" not in family.help
        assert (family.bounds is not None) is (family.kind == "histogram")
        assert family.bounds != "seconds" or family.name.endswith("_duration")
        assert not _unbounded(family), "a label that clients choose would fill the memory of who reads it"


def _unbounded(family: Family) -> bool:
    """Whether a label may be anything, but where the configuration says what."""
    anything = [label for label, known in family.labels.items() if not isinstance(known, tuple) and known.match(" ")]
    return bool(anything) and family.name != "tgi_info"


async def test_times_to_tokens() -> None:
    async with started(step_seconds=0.02) as router:
        await post(router, "/generate", inputs="x", parameters={"max_new_tokens": 5})
        await router.engine.health()  # whose token no client waits for
        await post(router, "/v1/completions", prompt=["a", "b"], max_tokens=1, model="m")
        assert router.metric("tgi_request_first_token_duration_count") == 3
        assert router.metric("tgi_request_first_token_duration_sum") >= 0.05
        assert router.metric("tgi_request_inter_token_duration_count") == 4
        assert 0 < router.metric("tgi_request_inter_token_duration_sum") < router.metric("tgi_request_duration_sum")
        assert router.metric('tgi_batch_decode_duration_count{method="decode"}') == 4
        assert router.metric('tgi_batch_filter_duration_count{method="prefill"}') >= 2


async def test_several_tokens_of_a_step_share_its_time() -> None:
    async with started(step_seconds=0.005, draft_width=GUESSES) as router:
        await post(router, "/generate", inputs="x", parameters={"max_new_tokens": 50})
        steps = router.metric('tgi_batch_inference_count{method="decode"}')
        assert steps < 40 and router.metric("tgi_request_inter_token_duration_count") == 49
        whole = router.metric("tgi_request_inference_duration_sum")
        assert 0 < router.metric("tgi_request_inter_token_duration_sum") <= whole


async def test_state_is_told_as_it_is_when_somebody_asks() -> None:
    async with started(step_seconds=0.02, max_concurrent_requests=7, num_blocks=64) as router:
        assert router.metric("tgi_cache_usage") == router.metric("tgi_request_open") == 0
        assert router.metric('tgi_cache_blocks{group="full"}') == 64
        assert router.metric('tgi_cache_info{block_size="16",num_gpu_blocks="64"}') == 1
        async with leaving(router, max_new_tokens=100), leaving(router, max_new_tokens=100):
            await running(router, 2)
            assert (router.metric("tgi_request_open"), router.metric("tgi_request_open_limit")) == (2, 7)
            used = router.metric('tgi_cache_used_blocks{group="full"}')
            assert used > 10 and router.metric("tgi_cache_usage") == used / 64
            assert router.metric("tgi_batch_current_size") == 2 and router.metric("tgi_queue_size") == 0
        while router.engine.running:
            await asyncio.sleep(0.001)
        assert router.metric("tgi_cache_usage") == router.metric("tgi_request_open") == 0
        assert router.metric('tgi_cache_kept_blocks{group="full"}') > 0


async def test_answers_are_counted_by_route_and_status() -> None:
    async with started() as router:
        client = router.app.test_client()
        for path in ("/health", "/nowhere/1", "/nowhere/2", "/v1/models/mine", "/generate"):
            await client.get(path)
        await client.post("/generate", json={"inputs": ""})
        await client.get("/")
        await client.post("/", json={"inputs": ""})
        told = (await scrape(router))["tgi_http_responses"].values
    assert {tuple(value for _, value in labels): count for labels, count in told.items()} == {
        ("/health", "200"): 2,
        ("/", "422"): 1,
        ("other", "404"): 2,
        ("/v1/models/<path:name>", "404"): 1,
        ("other", "405"): 1,
        ("/generate", "422"): 1,
    }
