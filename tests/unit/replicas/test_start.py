"""What is refused before anything starts, and what Ray is started with."""

from __future__ import annotations

from typing import Any

import pytest

from tgi_server.config.schema import ServerConfig
from tgi_server.errors import ConfigError, UsageError
from tgi_server.replicas import start
from tgi_server.replicas.options import RayOptions


@pytest.mark.parametrize(
    ("options", "config", "words"),
    [
        ({"replicas": 2, "max_replicas": 3}, {}, "replicas: cannot be used with max_replicas"),
        ({}, {"sharded": True}, "set num_shard"),
        ({}, {"ngrok": True}, "ngrok: cannot be used with job=ray"),
        ({}, {"record_traffic": "file"}, "record_traffic: cannot be used with job=ray"),
        ({}, {"max_input_length": 3000}, "set max_input_length to at most"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        start.check(RayOptions(**options), ServerConfig(**config), {})


def test_what_other_machines_decide_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "find_spec", lambda name: name)
    monkeypatch.setattr(start, "accelerators", lambda: 0)
    config = ServerConfig(enable_cuda_graphs=True)
    start.check(RayOptions(ray_address="auto"), config, {})
    with pytest.raises(ConfigError, match="enable_cuda_graphs"):
        start.check(RayOptions(), config, {})


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tgi-server\[ray\]'") as caught:
        start.check(RayOptions(), ServerConfig(), {})
    assert not isinstance(caught.value, UsageError) and "\n" not in str(caught.value)


def test_our_own_ray_is_closed_to_who_does_not_know_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "of the hub")
    one, other = (start._variables(RayOptions()) for _ in range(2))
    assert one["RAY_AUTH_MODE"] == "token" and len(one["RAY_AUTH_TOKEN"]) == 64
    assert one["RAY_AUTH_TOKEN"] != other["RAY_AUTH_TOKEN"]
    assert one["RAY_USAGE_STATS_ENABLED"] == "0"
    assert one["HF_TOKEN"] == "of the hub"
    assert "RAY_AUTH_TOKEN" not in start._variables(RayOptions(ray_address="auto"))
