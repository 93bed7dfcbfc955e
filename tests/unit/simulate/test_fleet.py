"""Several replicas behind one address."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from tests.unit.simulate.test_world import Costs, ids, one
from tgi_server.bench.workload import Request, poisson
from tgi_server.config.schema import BatchingOptions
from tgi_server.rpc.fake import FAKE_INFO
from tgi_server.simulate import fleet, shards
from tgi_server.simulate.costs import Overheads
from tgi_server.simulate.options import Routing, SimulateOptions
from tgi_server.simulate.routing import Fleet
from tgi_server.simulate.shards import Simulated
from tgi_server.simulate.world import Load, simulate
from tgi_server.types import CacheKind, GroupInfo

SYSTEM, OWN = 512, 128
COSTS = Costs(0.01, 0.001, 0.002)


def shared(prompts: int, rate: float | None = None, new: int = 12) -> Iterator[Request]:
    """Requests of which each begins with one of some system prompts; `written` says with which, and its number."""
    chance, moments = random.Random(1), poisson(rate or 1.0, 2)
    for number in count():
        at = next(moments) if rate else None
        yield Request(number, new, at, (), None, "a test", written=f"{chance.randrange(prompts)} {number}")


def tokens(request: Request) -> list[int]:
    system, number = map(int, request.text.split())
    return [*range(1000 * system, 1000 * system + SYSTEM), *range(10**6 + 1000 * number, 10**6 + 1000 * number + OWN)]


def run(servers: Fleet, load: Load, asked: Iterator[Request], blocks: int = 512, **options: Any) -> list[Simulated]:
    info = replace(FAKE_INFO, groups=[GroupInfo(CacheKind.FULL, None, blocks)])
    overheads = Overheads(0.003, 0.001)
    return simulate(BatchingOptions(**options), info, COSTS, overheads, asked, load, tokens, fleet=servers)


@pytest.mark.parametrize("routing", Routing)
@pytest.mark.parametrize("closed", [False, True])
def test_every_request_is_answered_once(routing: Routing, closed: bool) -> None:
    load = Load(40, closed, requests=300)
    records = run(Fleet(5, routing), load, shared(30, None if closed else 60.0))
    assert len(records) == 300
    for record in records:
        assert (record.error, record.tokens, len(record.arrivals)) == (None, 12, 12)
        assert record.start < record.arrivals[0] < record.end == record.arrivals[-1]
        assert record.arrivals == sorted(record.arrivals)
        assert 0 <= record.cached_tokens <= SYSTEM
    told = fleet.Shared.of(records, 5)
    assert 0 < told.fewest <= 60 <= told.most and 0 < told.cached < SYSTEM / (SYSTEM + OWN)


@pytest.mark.parametrize("routing", Routing)
def test_looking_ahead_changes_nothing(routing: Routing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of equal steps that are taken in one go, and each step by itself."""

    def once() -> list[Simulated]:
        return run(Fleet(3, routing), Load(20, False, duration=20), shared(9, 15.0, new=60), waiting_served_ratio=0.3)

    quick = once()
    monkeypatch.setattr(shards.Shards, "alike", False)
    assert quick == once()
    assert len({record.replica for record in quick}) == 3


def test_one_replica_is_the_server_alone() -> None:
    load = Load(9, requests=60)
    alone = run(Fleet(), load, shared(9))
    for routing in Routing:
        assert run(Fleet(1, routing, margin=0, routers=3), load, shared(9)) == alone


def test_replicas_by_turns_are_servers_of_their_own() -> None:
    """Each second request of an open loop, at one server."""
    info = replace(FAKE_INFO, groups=[GroupInfo(CacheKind.FULL, None, 4096)])

    def asked(step: int) -> Iterator[Request]:
        moments = poisson(0.5, 7)
        for number, at in zip(range(40), moments, strict=False):
            if number % step == 0:
                yield one(number, 1000 * number, 10, 9, at)
        yield one(40, 0, 1, 1, math.inf)

    def records(step: int, servers: Fleet) -> list[Simulated]:
        load = Load(1000, closed=False)
        return simulate(BatchingOptions(), info, Costs(), Overheads(), asked(step), load, ids, fleet=servers)

    both = records(1, Fleet(2, Routing.round_robin))
    assert [record for record in both if record.replica == 0] == records(2, Fleet())


def test_prompts_that_begin_alike_meet() -> None:
    """More system prompts than one replica's cache holds, fewer than all of them hold together."""

    def cached(routing: Routing, routers: int = 1) -> float:
        load = Load(8, requests=600)
        return fleet.Shared.of(run(Fleet(4, routing, routers=routers), load, shared(24)), 4).cached

    by_prefix, by_turns = cached(Routing.prefix), cached(Routing.round_robin)
    most = SYSTEM / (SYSTEM + OWN)
    assert by_prefix > 0.85 * most and by_turns < 0.5 * most
    assert by_turns < cached(Routing.prefix, routers=8) < by_prefix, "who does not know of it sends it elsewhere first"


def test_the_margin_bounds_what_one_replica_has_more() -> None:
    def fewest(margin: float) -> int:
        return fleet.Shared.of(run(Fleet(2, Routing.prefix, margin), Load(6, requests=60), shared(1)), 2).fewest

    assert fewest(margin=6) == 0, "all for the one that has seen the only system prompt"
    assert fewest(margin=0) > 20


def test_the_least_loaded_replica_gets_the_next() -> None:
    records = run(Fleet(3, Routing.least_loaded), Load(3, requests=3), shared(1))
    assert {record.replica for record in records} == {0, 1, 2}


def test_limits_are_those_of_each_replica() -> None:
    records = run(Fleet(3, Routing.round_robin), Load(8, requests=8), shared(9), max_concurrent_requests=2)
    assert [record.error for record in records].count("status 429: too many requests") == 2


def test_the_load_of_each_replica() -> None:
    whole = SimulateOptions(replicas=4, clients="2,3", requests=5)
    assert fleet.work(whole) == fleet.work(replace(whole, replicas=1))
    each = fleet.work(replace(whole, per_replica=True))
    assert (each.clients, each.requests, each.rate) == ((8, 12), 20, None)
    assert fleet.work(SimulateOptions(replicas=4, per_replica=True, request_rate=0.5)).rate == 2.0
    assert fleet.work(SimulateOptions(replicas=4, per_replica=True, traffic="chat")).speed == 4.0
