from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.unit.simulate.synthetic import INFO
from tgi_server.bench.completion import Record
from tgi_server.bench.workload import Workload
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ModelError
from tgi_server.simulate import learn
from tgi_server.simulate.costs import Loaded, MeasuredCosts, Overheads
from tgi_server.simulate.learn import Observed
from tgi_server.simulate.world import Load, simulate

OPTIONS = BatchingOptions(max_concurrent_requests=16)
COSTS = MeasuredCosts([1, 16, 256], [0.03, 0.05, 0.5], pair=1e-6, position=4e-6, choice=2e-4, between=5e-5)
WORKS = learn.works(OPTIONS)


def records(costs: Loaded, overheads: Overheads, work: Workload, clients: int) -> Sequence[Record]:
    load = Load(clients, requests=work.requests)
    return simulate(OPTIONS, INFO, costs, overheads, work.asked("run"), load, lambda request: request.prompt_ids(256))


@pytest.mark.parametrize(("step", "token"), [(0.002, 0.0005), (0.0, 0.001), (0.003, 0.0), (0.0, 0.0)])
def test_what_a_real_run_takes_longer_is_found(step: float, token: float) -> None:
    true = Loaded(COSTS, step, token), Overheads(before=0.004)
    real = [Observed.of(clients, records(*true, work, clients)) for clients, work in WORKS]
    loaded, overheads = learn.fit(COSTS, WORKS, real, records)
    assert (loaded.step, loaded.token) == pytest.approx((step, token), abs=2e-5)
    assert overheads.before == pytest.approx(0.004, abs=1e-3)


def test_a_real_run_that_was_faster_takes_nothing_off() -> None:
    faster = Loaded(MeasuredCosts([1, 256], [0.01, 0.1], 0.0, 0.0, 0.0))
    real = [Observed.of(clients, records(faster, Overheads(), work, clients)) for clients, work in WORKS]
    assert learn.fit(COSTS, WORKS, real, records) == (Loaded(COSTS), Overheads())


@pytest.mark.parametrize(("points", "expected"), [
    ([(1, 0.3), (8, 1.0)], (0.2, 0.1)), ([(1, 0.3), (8, 0.1)], (0.2, 0.0)), ([(1, -1.0), (8, -2.0)], (0.0, 0.0)),
    ([(1, 0.4)], (0.4, 0.0)), ([(1, 0.0), (8, 0.7)], (0.0, 5.6 / 65)),
])  # fmt: skip
def test_a_line_without_negative_parts(points: list[tuple[int, float]], expected: tuple[float, float]) -> None:
    assert learn.line(points) == pytest.approx(expected)


def test_small_servers_get_small_runs() -> None:
    ((clients, work),) = learn.works(BatchingOptions(max_batch_size=1, max_input_length=8, max_total_tokens=12))
    assert clients == 1
    assert work.lengths == (1, 1) and work.new_tokens <= 6


def test_a_run_that_failed_says_why() -> None:
    with pytest.raises(ModelError, match="status 500"):
        Observed.of(1, [Record(0.0, error="status 500: broken")])
