import socket
from pathlib import Path
from typing import Any

import pytest

from tgi_server.errors import ConfigError
from tgi_server.rpc.fake import FAKE_INFO, FakeModel
from tgi_server.rpc.server import Remote, _Shard, serve


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/shard-0", "shard_uds_path: .*missing is not a directory that this user can write to"),
        ("x" * 120, r"shard_uds_path: .*x is longer than a socket's path may be \(107 bytes\)"),
    ],
)
def test_a_path_that_cannot_be_a_socket_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        serve(str(tmp_path / name), FAKE_INFO, FakeModel().step, lambda: None, 0)


def test_a_port_for_other_nodes_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"node_port: this shard cannot listen on {address}"):
            serve(str(tmp_path / "s"), FAKE_INFO, FakeModel().step, lambda: None, 0, remote=Remote(address, "key"))


def test_the_answers_to_a_router_that_has_left_before_it_was_let_in_end_at_once() -> None:
    class Gone:
        def is_active(self) -> bool:
            return True

        def add_callback(self, callback: Any) -> bool:
            return False  # it would never be called

    shard, context = _Shard(FAKE_INFO, 0), Gone()
    assert list(shard._steps(iter(()), context)) == []
