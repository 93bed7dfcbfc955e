"""Where ranks meet."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psutil
from torch.distributed import HashStore  # type: ignore[attr-defined]  # documented, but not to type checkers

from tests.integration.server import free_port
from tgi_server.layers.parallel import Group, _meeting


def test_ranks_meet_where_nobody_else_comes() -> None:
    port = free_port()
    store = _meeting(0, 1, "localhost", port)
    try:
        found = [c.laddr for c in psutil.Process().net_connections() if c.status == "LISTEN" and c.laddr.port == port]
        assert [address.ip for address in found] in (["127.0.0.1"], ["::1"])
        other = _meeting(1, 1, "localhost", port)
        other.set("a", "b")
        assert store.get("a") == b"b"
    finally:
        del store


def test_ranks_wait_for_the_last_one_to_come() -> None:
    store = HashStore()
    groups = [Group(rank, 2, store) for rank in range(2)]
    with ThreadPoolExecutor(1) as thread:
        early = thread.submit(groups[0].gather, "loaded")
        time.sleep(0.1)
        assert not early.done()
        groups[1].gather("loaded")
        early.result(10)


def test_ranks_that_fail_alike_for_ever_leave_little_in_the_store() -> None:
    store = HashStore()
    groups = [Group(rank, 2, store) for rank in range(2)]
    with ThreadPoolExecutor(2) as threads:
        for place in ("layers", "logits", "layers", "layers"):
            assert all(threads.map(lambda group, place=place: group.agree(place), groups))
        assert store.num_keys() == 2
