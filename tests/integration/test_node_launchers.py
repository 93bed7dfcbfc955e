"""Two launchers with small programs in place of shards and router, on this machine's own address: how both end."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.integration.server import free_port
from tests.integration.test_launcher import DRAIN, SERVE, Launcher, Start
from tests.integration.test_launcher import start as start  # the fixture

SLOW_DRAIN = """
def drain(*_):
    print("draining", flush=True)
    time.sleep(1)
    print("drained", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, drain)
time.sleep(60)
"""


def own_address() -> str:
    """An IPv4 address of this machine that other machines could reach."""
    up = (name for name, found in psutil.net_if_stats().items() if found.isup)
    addresses = psutil.net_if_addrs()
    found = (each.address for name in up for each in addresses[name] if each.family == socket.AF_INET)
    outside = next((address for address in found if not address.startswith("127.")), None)
    return outside or pytest.skip("this machine has the loopback interface only")


def node_port() -> int:
    """A free port with a free one behind it, which the shard of the other node gets."""
    port = free_port()
    return port if free_port() == port + 1 else node_port()


def pair(start: Start, directory: Path, router: str = DRAIN) -> tuple[Launcher, Launcher]:
    """Both launchers of a service, once it serves."""
    (directory / "config.json").write_text("{}")
    shared = [
        f"model_id={directory}", "dtype=float32", "num_nodes=2", f"master_addr={own_address()}",
        f"master_port={free_port()}", f"node_port={node_port()}", "node_timeout=5", "node_start_timeout=30",
    ]  # fmt: skip
    other = start(SERVE, router, *shared, "node_rank=1", NODE_TOKEN="0123456789abcdef")
    first = start(SERVE, router, *shared, NODE_TOKEN="0123456789abcdef")
    first.until("router serves", 30)
    other.until("the shards of this node are ready", 30)
    return first, other


def test_a_signal_to_any_node_ends_all_in_order(start: Start, tmp_path: Path) -> None:
    first, other = pair(start, tmp_path, SLOW_DRAIN)
    assert "shard 0" in first.output and "shard 1" in other.output and "router" not in other.output.split("ready")[0]
    other.process.send_signal(signal.SIGTERM)
    first.until("draining")
    assert other.child("shard.py").is_running(), "requests need it until they are done"
    assert first.ends(0) == "" == other.ends(0)
    assert f"node 1 ({own_address()}, shard 1) is to stop, so the whole service is" in first.output
    assert "drained" in first.output


def test_a_shard_that_dies_is_named_on_both_nodes(start: Start, tmp_path: Path) -> None:
    first, other = pair(start, tmp_path)
    other.child("shard.py").kill()
    words = "shard 1 was ended by signal 9 (killed: often because memory ran out)"
    assert other.ends(1) == f"Error: {words}\n"
    assert first.ends(1) == f"Error: node 1 ({own_address()}, shard 1): {words}\n"
