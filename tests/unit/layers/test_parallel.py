"""Where ranks meet."""

from __future__ import annotations

import psutil

from tests.integration.server import free_port
from tgi_server.layers.parallel import _meeting


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
