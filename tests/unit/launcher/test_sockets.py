"""Ports and shard sockets: conflicts are found early, live sockets are never taken."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.server import free_port
from tgi_server.config.schema import NetworkOptions, ShardOptions
from tgi_server.errors import ConfigError
from tgi_server.launcher import sockets


@pytest.mark.parametrize("hostname", ["127.0.0.1", "0.0.0.0", "::1", "::", "localhost"])
def test_bind(hostname: str) -> None:
    with sockets.bind(NetworkOptions(hostname=hostname, port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):  # bound, not listening
            socket.create_connection(("localhost", port), timeout=1)
        listener.listen()
        socket.create_connection(("127.0.0.1" if hostname == "::" else hostname, port), timeout=1).close()
        with pytest.raises(ConfigError, match=f"port={port}: another program"):
            sockets.bind(NetworkOptions(hostname=hostname, port=port))


@pytest.mark.parametrize("hostname", ["203.0.113.7", "no such host", "ü" * 100])
def test_not_an_address_of_this_machine(hostname: str) -> None:
    with pytest.raises(ConfigError, match="hostname="):
        sockets.bind(NetworkOptions(hostname=hostname, port=0))


def test_claims_hold_until_closed(tmp_path: Path) -> None:
    network, shards = NetworkOptions(port=3999), ShardOptions(shard_uds_path=str(tmp_path / "shard"))
    with sockets.claim_port(network), sockets.claim_paths(shards):
        with pytest.raises(ConfigError, match="port=3999"):
            sockets.claim_port(network)
        with pytest.raises(ConfigError, match="shard_uds_path"):
            sockets.claim_paths(ShardOptions(shard_uds_path=f"{tmp_path}/../{tmp_path.name}/shard"))
        sockets.claim_port(NetworkOptions(port=3998)).close()
    sockets.claim_port(network).close()
    with sockets.claim_port(NetworkOptions(port=0)):
        pass


def test_stale_sockets_are_removed_and_live_ones_refused(tmp_path: Path) -> None:
    options = ShardOptions(shard_uds_path=str(tmp_path / "shard"))
    paths = sockets.shard_paths(options, range(2))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(paths[0]))
        server.listen()
        with pytest.raises(ConfigError, match=r"shard_uds_path=.*another server"):
            sockets.clear(options, paths)
    assert sockets.is_socket(paths[0])
    sockets.clear(options, paths)
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    options = ShardOptions(shard_uds_path=str(tmp_path / "shard"))
    paths = sockets.shard_paths(options, range(1))
    paths[0].write_text("mine")
    with pytest.raises(ConfigError, match="no socket"):
        sockets.clear(options, paths)
    assert paths[0].read_text() == "mine"


def test_sockets_of_other_users_are_no_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ShardOptions(shard_uds_path=str(tmp_path / "shard"))
    (path,) = sockets.shard_paths(options, range(1))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    (tmp_path / "link").symlink_to(path)
    assert sockets.is_socket(path) and not sockets.is_socket(tmp_path / "link")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert not sockets.is_socket(path)
    monkeypatch.setattr(Path, "unlink", lambda path: path.rmdir())  # fails, as in /tmp for what is another's
    with pytest.raises(ConfigError, match="belongs to another user"):
        sockets.clear(options, [path])


def test_a_symbolic_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    options = ShardOptions(shard_uds_path=str(tmp_path / "shard"))
    (path,) = sockets.shard_paths(options, range(1))
    path.symlink_to("/nowhere/at/all")
    with pytest.raises(ConfigError, match="no socket"):
        sockets.clear(options, [path])


@pytest.mark.parametrize(("mode", "warned"), [(0o700, False), (0o1777, False), (0o777, True)])
def test_a_directory_open_to_all_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    tmp_path.chmod(mode)
    options = ShardOptions(shard_uds_path=str(tmp_path / "shard"))
    sockets.clear(options, sockets.shard_paths(options, range(1)))
    assert ("other users can put sockets" in caplog.text) == warned


def test_a_missing_directory_is_made_for_this_user_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o2777)  # as Kubernetes makes an emptyDir
    options = ShardOptions(shard_uds_path=str(tmp_path / "own" / "shard"))
    sockets.clear(options, sockets.shard_paths(options, range(1)))
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700
    assert not caplog.text


def test_a_directory_of_another_user_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ShardOptions(shard_uds_path=str(tmp_path / "shard"))
    found = tmp_path.stat()
    monkeypatch.setattr(Path, "stat", lambda *_, **__: os.stat_result([*found[:4], 12345, *found[5:]]))
    sockets.clear(options, sockets.shard_paths(options, range(1)))
    assert "other users can put sockets" in caplog.text


@pytest.mark.parametrize(("address", "kept"), [("localhost", True), ("127.0.0.1", True), ("192.0.2.1", False)])
def test_shards_that_meet_at_a_loopback_address_stay_there(address: str, kept: bool) -> None:
    found = sockets.private_interface(ShardOptions(master_addr=address))
    assert found == ({"GLOO_SOCKET_IFNAME": "lo"} if kept else {})


def test_shards_of_several_nodes_use_the_interface_of_their_address(caplog: pytest.LogCaptureFixture) -> None:
    options = ShardOptions(num_nodes=2, node_rank=1)
    for address in ("127.0.0.1", "::1"):
        found = sockets.interfaces(options, ["192.0.2.1", address])
        assert found == {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}
    assert sockets.interfaces(options, ["127.0.0.1", "203.0.113.9"]) == {}
    assert "203.0.113.9: no interface of this node has it; set GLOO_SOCKET_IFNAME" in caplog.text


def test_node_0_listens_on_an_address_of_its_own() -> None:
    port = free_port()
    with sockets.listen("127.0.0.1", port):
        for address in ("127.0.0.1", "203.0.113.9", "no such host"):
            with pytest.raises(ConfigError, match=rf"node_port={port}: node 0 cannot listen there on {address} \("):
                sockets.listen(address, port)
    assert sockets.is_loopback("localhost") and sockets.is_loopback("::1")
    assert not sockets.is_loopback("192.0.2.1") and not sockets.is_loopback("no such host")


def test_impossible_prefixes() -> None:
    for prefix, words in [
        ("/nowhere/at/all", "no files can be made"),
        ("/tmp/" + "x" * 110, "too long .* by 14 bytes"),
    ]:
        options = ShardOptions(shard_uds_path=prefix)
        with pytest.raises(ConfigError, match=f"shard_uds_path={prefix}: {words}"):
            sockets.clear(options, sockets.shard_paths(options, range(1)))


def test_the_longest_prefix_leaves_room_for_the_name_that_a_shard_begins_with() -> None:
    options = ShardOptions(shard_uds_path="/tmp/" + "x" * 96)
    (path,) = sockets.shard_paths(options, range(1))
    sockets.clear(options, [path])
    with socket.socket(socket.AF_UNIX) as shard:
        shard.bind(f"{path}.new")
    Path(f"{path}.new").unlink()
    with pytest.raises(OSError, match="too long"), socket.socket(socket.AF_UNIX) as shard:
        shard.bind(f"{path}x.new")


def test_master_port() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"master_port={port}"):
            sockets.check_master_port(ShardOptions(master_port=port))
    sockets.check_master_port(ShardOptions(master_port=port))


@pytest.mark.parametrize(("address", "works"), [
    ("localhost", True), ("127.0.0.1", True), ("203.0.113.9", False), ("no.such.host.invalid", False),
])  # fmt: skip
def test_master_address(address: str, works: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ShardOptions(master_addr=address, master_port=port)
    if works:
        sockets.check_master_port(options)
    else:
        with pytest.raises(ConfigError, match=f"master_addr={address}: .*localhost works"):
            sockets.check_master_port(options)
        with pytest.raises(ConfigError, match=f"master_addr={address}: .*is node_rank=0 right here"):
            sockets.check_master_port(replace(options, num_nodes=2))
