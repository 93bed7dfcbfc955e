"""What cannot be looked for is refused before anything starts."""

from __future__ import annotations

import re

import pytest

from tgi_server.config import cli, load
from tgi_server.errors import UsageError
from tgi_server.sweep.objective import Objective
from tgi_server.tune.main import aim


@pytest.mark.parametrize(("argv", "words"), [
    (["objective=goodput"], "objective=goodput: counts requests that keep limits; give one, slo.ttft_p95_ms=500"),
    (["objective=goodput", "slo.itl_p95_ms=50", "request_rate=2"], "request_rate=2: objective=goodput looks for the"),
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


@pytest.mark.parametrize(("argv", "clients", "rate"), [
    ([], (), None),
    (["clients=4,8"], (4, 8), None),
    (["request_rate=2"], (), 2.0),
    (["objective=latency"], (1,), None),
    (["objective=latency", "request_rate=2"], (), 2.0),
    (["objective=goodput", "slo.ttft_p95_ms=500", "clients=64"], (64,), None),
])  # fmt: skip
def test_loads(argv: list[str], clients: tuple[int, ...], rate: float | None) -> None:
    run = load.composition(cli.parse(["job=tune", "max_concurrent_requests=32", *argv], {}))
    job = load.instantiate(run.config.job)
    job.check(run.config, run.origins)
    found = aim(job, run.config)
    assert (found.clients, found.rate, found.most, found.budget) == (clients, rate, 32, 900.0)
    assert found.objective is Objective[job.objective.name]
