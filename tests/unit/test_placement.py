"""Where the ranks of a model live."""

from __future__ import annotations

from tgi_server.config.schema import ShardOptions
from tgi_server.placement import local_ranks, placements
from tgi_server.types import Placement


def test_one_node() -> None:
    assert placements(ShardOptions(shard_uds_path="/run/shard"), 3) == [
        Placement(rank, 0, rank, f"unix:/run/shard-{rank}") for rank in range(3)
    ]
    assert local_ranks(ShardOptions(), 3) == range(3)


def test_several_nodes() -> None:
    options = ShardOptions(shard_uds_path="/run/shard", num_nodes=3, node_rank=2, master_port=29500)
    assert local_ranks(options, 6) == range(4, 6)
    assert placements(options, 6, ["10.0.0.1", "10.0.0.2", "fd00::3"]) == [
        Placement(0, 0, 0, "unix:/run/shard-0"),
        Placement(1, 0, 1, "unix:/run/shard-1"),
        Placement(2, 1, 0, "10.0.0.2:29502"),
        Placement(3, 1, 1, "10.0.0.2:29503"),
        Placement(4, 2, 0, "[fd00::3]:29502"),
        Placement(5, 2, 1, "[fd00::3]:29503"),
    ]


def test_ports_may_be_chosen_and_names_say_where_a_rank_is() -> None:
    here, there = placements(ShardOptions(num_nodes=2, node_port=4000), 2, ["10.0.0.1", "10.0.0.2"])
    assert (here.name, there.name) == ("shard 0", "shard 1 (node 1, 10.0.0.2:4001)")
