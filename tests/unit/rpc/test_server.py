from pathlib import Path

import pytest

from tgi_server.errors import ConfigError
from tgi_server.rpc.fake import FAKE_INFO, FakeModel
from tgi_server.rpc.server import serve


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
