"""Where the ranks of a model live: arithmetic that launcher, router and shards share. Stdlib only."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from tgi_server.config.schema import ShardOptions
from tgi_server.types import Placement


def local_ranks(options: ShardOptions, num_shard: int) -> range:
    """The ranks of this node; each node has equally many."""
    each = num_shard // options.num_nodes
    return range(options.node_rank * each, (options.node_rank + 1) * each)


def socket_path(options: ShardOptions, rank: int) -> str:
    """The unix socket of a rank, on its own node."""
    return f"{options.shard_uds_path}-{rank}"


def node_port(options: ShardOptions) -> int:
    """Where the launcher of node 0 listens for the others."""
    return options.master_port + 1 if options.node_port is None else options.node_port


def placements(options: ShardOptions, num_shard: int, hosts: Sequence[str] = ()) -> list[Placement]:
    """Where each rank lives.

    Args:
        options: those of any node.
        num_shard: ranks of all nodes.
        hosts: IP address of each node; not needed where there is only one.
    """
    each = num_shard // options.num_nodes
    found = []
    for rank in range(num_shard):
        node, device = divmod(rank, each)
        address = (
            _address(hosts[node], node_port(options) + 1 + device) if node else f"unix:{socket_path(options, rank)}"
        )
        found.append(Placement(rank, node, device, address))
    return found


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if isinstance(ip_address(host.partition("%")[0]), IPv6Address) else f"{host}:{port}"
