"""What Ray Serve is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tgi_server.config.schema import ServerConfig
from tgi_server.errors import ConfigError, UsageError
from tgi_server.replicas import plan
from tgi_server.replicas.options import RayOptions


def asked(options: RayOptions, gpus: bool = False, **config: Any) -> dict[str, Any]:
    plan.check(options)
    return plan.deployment(options, ServerConfig(**config), gpus)


def test_a_fixed_number() -> None:
    made = asked(RayOptions(replicas=3, replica_cpus=4), max_concurrent_requests=10, shutdown_timeout=7)
    assert made["num_replicas"] == 3
    assert made["ray_actor_options"] == {"num_cpus": 4, "num_gpus": 0}
    assert made["max_ongoing_requests"] > 10  # it is the replica that refuses
    assert made["graceful_shutdown_timeout_s"] > 7
    assert "placement_group_bundles" not in made and "autoscaling_config" not in made
    assert asked(RayOptions())["num_replicas"] == 2


def test_a_number_that_follows_the_load() -> None:
    made = asked(RayOptions(max_replicas=5, upscale_delay=3, downscale_delay=40), max_concurrent_requests=32)
    wanted = {"min_replicas": 1, "max_replicas": 5, "target_ongoing_requests": 16, "upscale_delay_s": 3,
              "downscale_delay_s": 40}  # fmt: skip
    assert wanted.items() <= made["autoscaling_config"].items()
    assert "num_replicas" not in made
    made = asked(RayOptions(min_replicas=2, max_replicas=5, target_requests=4))
    assert made["autoscaling_config"]["min_replicas"] == 2
    assert made["autoscaling_config"]["target_ongoing_requests"] == 4


@pytest.mark.parametrize(
    ("given", "config", "gpus"),
    [
        ({}, {}, 1),
        ({}, {"num_shard": 1}, 1),
        ({}, {"num_shard": 4}, 4),
        ({}, {"num_shard": 4, "sharded": False}, 1),
        ({"replica_gpus": 2}, {}, 2),
        ({"replica_gpus": 0}, {"num_shard": 4}, 0),
    ],
)
def test_gpus(given: dict[str, Any], config: dict[str, Any], gpus: int) -> None:
    made = asked(RayOptions(replica_cpus=3, **given), True, **config)
    assert made["ray_actor_options"] == {"num_cpus": 3, "num_gpus": gpus}
    if gpus > 1:
        assert made["placement_group_bundles"] == [{"CPU": 3, "GPU": gpus}]
        assert made["placement_group_strategy"] == "STRICT_PACK"
    else:
        assert "placement_group_bundles" not in made


def test_shards_without_gpus_ask_for_none() -> None:
    assert asked(RayOptions(), num_shard=2)["ray_actor_options"]["num_gpus"] == 0


def test_processors_are_shared_evenly_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "usable_cores", lambda: 9)
    assert plan.cpus(RayOptions(replicas=2)) == 4
    assert plan.cpus(RayOptions(max_replicas=4, min_replicas=1)) == 2
    assert plan.cpus(RayOptions(replicas=20)) == 1
    assert plan.cpus(RayOptions(replicas=2, ray_address="auto")) == 1
    assert plan.cpus(RayOptions(replicas=2, ray_address="auto", replica_cpus=6)) == 6


@pytest.mark.parametrize(
    "given",
    [
        {"min_replicas": 1},
        {"target_requests": 3.0},
        {"replicas": 2, "max_replicas": 3},
        {"min_replicas": 4, "max_replicas": 3},
    ],
)
def test_what_cannot_go_together(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        plan.check(RayOptions(**given))


def test_a_start_that_would_wait_for_ever_is_refused() -> None:
    plan.check_room(RayOptions(replicas=2), ServerConfig(num_shard=2), {"CPU": 4})  # on processors
    plan.check_room(RayOptions(replicas=2), ServerConfig(num_shard=2), {"CPU": 4, "GPU": 4})
    plan.check_room(RayOptions(max_replicas=8), ServerConfig(), {"GPU": 1})  # the rest may come later
    with pytest.raises(ConfigError, match=r"2 replica\(s\) with 2 GPU\(s\) each: this machine has 3"):
        plan.check_room(RayOptions(replicas=2), ServerConfig(num_shard=2), {"CPU": 4, "GPU": 3})
    with pytest.raises(ConfigError, match="this machine has 0"):
        plan.check_room(RayOptions(replicas=2, replica_gpus=1), ServerConfig(), {"CPU": 4})
