from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.unit.simulate.synthetic import INFO
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.workload import Workload
from tgi_server.config.schema import BatchingOptions
from tgi_server.simulate.costs import Overheads, Shape
from tgi_server.simulate.shards import Simulated
from tgi_server.simulate.world import Load, simulate


@dataclass
class Steps:
    """A prompt token takes 1 ms, whoever decodes takes 10 ms together; remembers the shapes."""

    shapes: list[Shape]

    def seconds(self, shape: Shape) -> float:
        self.shapes.append(shape)
        return 0.001 * shape.prompt_tokens + (0.01 if shape.rows else 0.0)


def run(overheads: Overheads | None = None, batching: Any = None, **asked: Any) -> tuple[list[Simulated], list[Shape]]:
    work, steps = Workload.of(BenchOptions(**asked)), Steps([])
    load = Load(work.clients[0], work.closed, work.requests, work.duration, work.time_limit)
    options = BatchingOptions(**(batching or {}))
    ids = lambda request: request.prompt_ids(256)  # noqa: E731
    return simulate(options, INFO, steps, overheads or Overheads(), work.asked("run"), load, ids), steps.shapes


def test_one_request() -> None:
    (record,), shapes = run(Overheads(before=0.5, after=0.25), requests=1, prompt_tokens="30", new_tokens=3)
    assert record.arrivals == pytest.approx([0.78, 0.79, 0.80])
    assert [record.start, record.end] == pytest.approx([0.0, 0.80])
    assert (record.tokens, record.prompt_tokens, record.error) == (3, 30, None)
    assert shapes[:3] == [Shape(30, 465, 0, 0, 1), Shape(0, 0, 1, 31), Shape(0, 0, 1, 32)]


def test_clients_wait_for_their_answers() -> None:
    records, shapes = run(clients="3", duration=2.0, prompt_tokens="40", new_tokens=20)
    assert len(records) > 6
    for record in records[3:]:
        assert min(abs(record.start - other.end) for other in records) < 1e-9
    assert max(record.start for record in records) < 2.0
    assert max(shape.rows for shape in shapes) == 3


def test_chunks_beside_those_who_decode() -> None:
    _, shapes = run(clients="4", requests=12, prompt_tokens="100", new_tokens=20, batching={"prefill_chunk_tokens": 64})
    assert max(shape.prompt_tokens for shape in shapes) == 64
    assert any(shape.rows and shape.prompt_tokens and not shape.ends for shape in shapes)


def test_arrivals_that_wait_for_nobody() -> None:
    records, _ = run(request_rate=100.0, requests=50, prompt_tokens="20", new_tokens=10)
    assert len(records) == 50 and not any(record.error for record in records)
    assert records[-1].start < records[0].end * 20
    few, _ = run(clients="2", request_rate=100.0, requests=50, prompt_tokens="20", new_tokens=10)
    assert [record.start for record in few] == [record.start for record in records], "due at the same moments"
    late = few[-1]
    assert late.sent > late.start


def test_the_servers_limits() -> None:
    records, _ = run(requests=2, prompt_tokens="300", new_tokens=3, batching={"max_input_length": 200})
    assert [record.error for record in records] == ["status 422: 300 prompt tokens and 3 new ones"] * 2
    records, _ = run(clients="4", requests=4, prompt_tokens="9", new_tokens=3, batching={"max_concurrent_requests": 3})
    assert [record.error for record in records].count("status 429: too many requests") == 1
    records, _ = run(clients="2", time_limit=1, requests=3, prompt_tokens="9", new_tokens=500)
    assert {(record.error, record.end) for record in records} == {("not done after 1 s", 1.0)}
