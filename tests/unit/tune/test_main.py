"""What cannot be looked for is refused before anything starts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from tgi_server.config import cli, load
from tgi_server.errors import UsageError
from tgi_server.sweep.objective import Objective
from tgi_server.tune.main import aim
from tgi_server.tune.scoring import Load


@pytest.mark.parametrize(("argv", "words"), [
    (["max_total_tokens=auto"], "max_total_tokens=auto: job=tune compares what serves the same lengths"),
    (["objective=goodput"], "objective=goodput: counts requests that keep limits; give one, slo.ttft_p95_ms=500"),
    (["objective=goodput", "slo.itl_p95_ms=50", "request_rate=2"], "request_rate=2: objective=goodput looks for the"),
    (["objective=goodput", "slo.itl_p95_ms=50", "traffic=chat", "traffic_speed=2"], "traffic_speed=2: with objective"),
    (["objective=latency", "clients=1,8"], "clients=1,8: with objective=latency one number"),
    (["target=http://127.0.0.1:1"], "target=http://127.0.0.1:1: job=tune starts what it compares"),
    (["output=here.json"], "output=here.json: is for job=bench"),
    (["port=0"], "port=0: to be measured the server needs a port"),
    (["clients=0"], "clients=0: expected a number"),
])  # fmt: skip
def test_refusals(argv: list[str], words: str) -> None:
    run = load.composition(cli.parse(["job=tune", *argv], {}))
    with pytest.raises(UsageError, match=re.escape(words)):
        load.instantiate(run.config.job).check(run.config, run.origins)


@pytest.mark.parametrize(("argv", "loads", "most"), [
    ([], (), 32),
    (["traffic=agent"], (), 32),
    (["clients=4,8"], [Load(4), Load(8)], 32),
    (["request_rate=2"], [Load(32, 2.0)], 32),
    (["traffic=agent", "traffic_speed=3"], [Load(32, None, 3.0)], 32),
    (["objective=latency"], [Load(1)], 32),
    (["objective=latency", "traffic=chat"], [Load(32, None, 1.0)], 32),
    (["objective=latency", "request_rate=2", "clients=8"], [Load(8, 2.0)], 32),
    (["objective=goodput", "slo.ttft_p95_ms=500", "clients=8"], (), 8),
    (["objective=goodput", "slo.ttft_p95_ms=500", "traffic=mixed"], (), 32),
])  # fmt: skip
def test_loads(argv: list[str], loads: Sequence[Load], most: int) -> None:
    run = load.composition(cli.parse(["job=tune", "max_concurrent_requests=32", *argv], {}))
    job = load.instantiate(run.config.job)
    job.check(run.config, run.origins)
    found = aim(job, run.config)
    assert (found.loads, found.most, found.budget) == (loads, most, 900.0)
    assert found.objective is Objective[job.objective.name]
