"""Ray Serve's request router as it is called: who gets a request, and what is under way where."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

_factory = logging.getLogRecordFactory()
pytest.importorskip("ray.serve.request_router", reason="Ray Serve is not installed")
logging.setLogRecordFactory(_factory)  # Ray's adds a field to what all tests log

from tgi_server.replicas.call import Call  # noqa: E402
from tgi_server.replicas.router import PrefixRouter  # noqa: E402

REPLICAS: list[Any] = [SimpleNamespace(replica_id=name) for name in "abc"]


def made(prefixes: bool = True, margin: int = 8) -> PrefixRouter:
    router = PrefixRouter.__new__(PrefixRouter)  # the rest of it needs a cluster
    router.initialize_state(prefixes, margin)
    return router


def request(number: int, *keys: int) -> Any:
    return SimpleNamespace(
        args=[Call("POST", "/", [], b"", list(keys))],
        metadata=SimpleNamespace(internal_request_id=str(number)),
        routing_context=SimpleNamespace(should_backoff=False),
        future=asyncio.get_running_loop().create_future(),
    )


async def chosen(router: PrefixRouter, asked: Any) -> str:
    [[replica]] = await router.choose_replicas(REPLICAS, asked)
    return str(replica.replica_id)


async def test_requests_follow_the_beginnings_of_others() -> None:
    router = made()
    ones, others = range(20), range(100, 120)
    first = await chosen(router, request(0, *ones, 20))
    other = await chosen(router, request(1, *others))
    assert other != first
    assert await chosen(router, request(2, *ones, 21)) == first
    assert await chosen(router, request(3, *others, 22)) == other


async def test_without_prefixes_the_least_busy_is_chosen() -> None:
    router = made(prefixes=False)
    assert len({await chosen(router, request(number, 1, 2, 3)) for number in range(3)}) == 3


async def test_a_burst_is_spread_before_any_of_it_has_arrived() -> None:
    router = made()
    counts = Counter([await chosen(router, request(number)) for number in range(12)])
    assert set(counts.values()) == {4}


async def test_what_is_done_is_no_load_any_more_and_counts_once() -> None:
    router = made(margin=0)
    replica = await chosen(router, request(0, 1))
    assert await chosen(router, request(1, 1)) != replica
    for _ in range(2):
        router.on_request_completed(replica, "0")
    assert await chosen(router, request(2, 1)) == replica
    assert sorted(router._under_way.values()) == [1, 1]


async def test_a_request_that_is_chosen_for_again_is_counted_once() -> None:
    router = made()
    asked = request(0)
    await chosen(router, asked)
    await chosen(router, asked)
    assert sum(router._under_way.values()) == 1


async def test_a_request_that_was_refused_and_sent_elsewhere_is_done_there() -> None:
    """Ray tells of the first attempt's end when the second has been chosen for."""
    router = made(prefixes=False)
    for number in range(20):
        asked = request(number)
        first = await chosen(router, asked)
        router._under_way[first] += 1  # which makes it the busier one
        second = await chosen(router, asked)
        router._under_way[first] -= 1
        assert second != first
        router.on_request_completed(first, str(number))
        assert router._under_way[second] == 1
        router.on_request_completed(second, str(number))
    assert set(router._under_way.values()) == {0} and not router._at


async def test_a_client_that_goes_away_while_ray_wakes_up_leaves_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    async def waking(self: Any, asked: Any, *, is_retry: bool = False) -> Any:
        await chosen(self, asked)
        asked.future.set_result(REPLICAS[0])
        raise asyncio.CancelledError

    monkeypatch.setattr("ray.serve.request_router.RequestRouter._choose_replica_for_request", waking)
    router = made()
    with pytest.raises(asyncio.CancelledError):
        await router._choose_replica_for_request(request(0, 1, 2), is_retry=False)
    assert set(router._under_way.values()) == {0} and not router._at


async def test_a_replica_that_died_has_no_beginnings_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.serve.request_router.RequestRouter.on_replica_actor_died", lambda self, replica: None)
    router = made()
    first: Any = await chosen(router, request(0, 1, 2))
    second: Any = await chosen(router, request(1, 7, 8))
    router.on_replica_actor_died(first)
    assert router._affinity.matched([1, 2], first) == 0
    assert router._affinity.matched([7, 8], second) == 2


async def test_a_replica_that_runs_no_more_is_forgotten_with_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.serve.request_router.RequestRouter.update_replicas", lambda self, replicas: None)
    router = made()
    gone: Any = await chosen(router, request(0, 1, 2))
    left = [replica for replica in REPLICAS if replica.replica_id != gone]
    kept: Any = await chosen(router, request(1, 7, 8))
    router.update_replicas(left)
    assert router._affinity.matched([1, 2], gone) == 0 and router._affinity.matched([7, 8], kept) == 2
    assert router._under_way == {kept: 1}
    router.on_request_completed(gone, "0")
    assert router._under_way[gone] == 0
