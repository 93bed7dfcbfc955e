"""The addresses a server occupies: its port and its shards' sockets. Conflicts are found before any slow work."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import socket
import stat
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from tgi_server.config.schema import NetworkOptions, ShardOptions
from tgi_server.errors import ConfigError
from tgi_server.placement import node_port, socket_path

logger = logging.getLogger(__name__)

_SIOCGIFCONF = 0x8912
"""Asks Linux for the IPv4 addresses of all interfaces."""
_IFREQ = struct.Struct("16s4x4s16x")
"""One of them: the interface's name, then the address (netdevice(7))."""
_LONGEST_PATH = 107 - len(".new")
"""Bytes: the kernel takes 107, and a shard's socket has a longer name until it answers (`rpc.server`)."""


def bind(options: NetworkOptions) -> socket.socket:
    """A socket bound to the server's address. It does not listen yet: until the model is loaded, nobody is let wait.

    Raises:
        ConfigError: the address is in use, not of this machine, or not allowed.
    """
    listener, address = _resolve(options)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            # The wildcard takes IPv4 as well, whatever the system's own default is.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(options.hostname != "::"))
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(_bind_problem(error, options)) from error
    return listener


def _resolve(options: NetworkOptions) -> tuple[socket.socket, Any]:
    try:
        found = socket.getaddrinfo(options.hostname, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"hostname={options.hostname}: not an address ({error})") from error
    family, kind, protocol, _, address = found[0]
    return socket.socket(family, kind, protocol), address


def _bind_problem(error: OSError, options: NetworkOptions) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port={options.port}: another program uses this port on {options.hostname}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"hostname={options.hostname}: not an address of this machine"
    return f"port={options.port}: cannot be used on {options.hostname} ({os.strerror(error.errno or 0)})"


def check_master_port(options: ShardOptions) -> None:
    """Raises ConfigError when the port where the shards are to meet is taken, or its address is not of this machine."""
    _check_master_address(options)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", options.master_port))
        except OSError as error:
            raise ConfigError(
                f"master_port={options.master_port}: another program uses this port, where the shards would meet"
            ) from error


def _check_master_address(options: ShardOptions) -> None:
    name = options.master_addr
    try:
        family, kind, _, _, address = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError as error:
        works = "localhost works" if options.num_nodes == 1 else "it is node 0's: is node_rank=0 right here?"
        reason = f"this machine has no such address, where all shards would meet; {works}"
        raise ConfigError(f"master_addr={name}: {reason}") from error


def interfaces(options: ShardOptions, hosts: Sequence[str]) -> dict[str, str]:
    """Environment that has shards speak to each other on the interface that has this node's address among `hosts`.

    That is the loopback one where there is one node.
    """
    if not hosts:
        return private_interface(options)
    host = hosts[options.node_rank]
    name = interface(host)
    if name is None:
        logger.warning("%s: no interface of this node has it; set GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME", host)
        return {}
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}  # to NCCL eth1 would mean eth10 as well


def private_interface(options: ShardOptions) -> dict[str, str]:
    """Environment that keeps shards which meet at a loopback address from listening on others.

    gloo would take the address that the machine's name stands for, which in containers is the one that others see.
    """
    address = socket.getaddrinfo(options.master_addr, 0, type=socket.SOCK_STREAM)[0][4][0]
    names = {name for _, name in socket.if_nameindex()}
    return {"GLOO_SOCKET_IFNAME": "lo"} if ip_address(address).is_loopback and "lo" in names else {}


def interface(address: str) -> str | None:
    """The network interface that has an IP address; None where that is not to be found out."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
        return next((line.split()[-1] for line in lines if int(line.split()[0], 16) == int(found)), None)
    return next((name for name, packed in _ipv4_addresses() if packed == found.packed), None)


def _ipv4_addresses() -> Iterator[tuple[str, bytes]]:
    """Each interface with each of its addresses."""
    room = array("B", bytes(1024 * _IFREQ.size))
    place, size = room.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        filled: int = struct.unpack_from("i", fcntl.ioctl(probe, _SIOCGIFCONF, struct.pack("iP", size, place)))[0]
    for name, packed in _IFREQ.iter_unpack(room.tobytes()[:filled]):
        yield name.partition(b"\0")[0].decode().partition(":")[0], packed  # eth0:1 is an address of eth0


def is_loopback(name: str) -> bool:
    """Whether an address is of any machine itself. A name that is not known, or not yet, is taken not to be."""
    try:
        return ip_address(socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)[0][4][0]).is_loopback
    except (OSError, UnicodeError):
        return False


def is_unspecified(name: str) -> bool:
    """Whether an address stands for all of a machine: 0.0.0.0 or ::."""
    with contextlib.suppress(ValueError):
        return ip_address(name).is_unspecified
    return False


def listen(address: str, port: int) -> socket.socket:
    """Where node 0 listens for the others. Raises ConfigError when that port is taken, or not of this machine."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as held:
            listener = held.enter_context(socket.socket(family, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen()
            held.pop_all()
            return listener
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"node_port={port}: node 0 cannot listen there on {address} ({error})") from error


def check_node(options: ShardOptions, host: str, count: int) -> None:
    """Raise ConfigError unless the shards of this node can listen where the router of node 0 is to find them.

    Args:
        host: the address that node 0 sees this one as.
        count: shards of this node.
    """
    for port in range(node_port(options) + 1, node_port(options) + 1 + count):
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(place)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise ConfigError(
                        f"node 0 sees this node as {host}, which is none of its addresses: its router would look for "
                        "the shards there; put the nodes into one network, without translation of addresses"
                    ) from None
                raise ConfigError(
                    f"node_port={node_port(options)}: a shard of this node would listen on port {port} of {host}, "
                    f"which it cannot ({error.strerror})"
                ) from None


def shard_paths(options: ShardOptions, ranks: Iterable[int]) -> list[Path]:
    """The path of each rank's socket."""
    return [Path(socket_path(options, rank)) for rank in ranks]


def files(paths: list[Path]) -> list[Path]:
    """All that shards may leave on disk that are killed: their sockets, under either name."""
    return [file for path in paths for file in (path, path.with_name(f"{path.name}.new"))]


def claim_port(options: NetworkOptions) -> socket.socket:
    """Hold the server's address against other servers; see `_claim`. Port 0 is never in the way of another."""
    held = f"{options.hostname}:{options.port}" if options.port else f"process {os.getpid()}"
    return _claim(held, f"port={options.port}")


def claim_paths(options: ShardOptions) -> socket.socket:
    """Hold the prefix of the shards' sockets against other servers; see `_claim`."""
    return _claim(str(Path(options.shard_uds_path).resolve()), f"shard_uds_path={options.shard_uds_path}")


def _claim(held: str, option: str) -> socket.socket:
    """Hold a name until the result is closed.

    Nothing listens while a model loads, so a second server started meanwhile would find everything free. The claim
    is an address in Linux's abstract socket space: it leaves no file and ends with this process, however that ends.

    Raises:
        ConfigError: another server holds it.
    """
    holder = socket.socket(socket.AF_UNIX)
    if not sys.platform.startswith("linux"):
        return holder
    try:
        holder.bind("\0tgi_server/" + hashlib.sha256(os.fsencode(held)).hexdigest())
    except OSError as error:
        holder.close()
        raise ConfigError(f"{option}: another server is using it") from error
    return holder


def clear(options: ShardOptions, paths: list[Path]) -> None:
    """Remove the sockets a crashed server left, so that a socket file always means a ready shard.

    Their directory is made, for this user alone, where only that is missing.

    Raises:
        ConfigError: a path is too long, cannot be written, is no socket, or belongs to a running server.
    """
    option = f"shard_uds_path={options.shard_uds_path}"
    if (excess := max(len(os.fsencode(path)) for path in paths) - _LONGEST_PATH) > 0:
        raise ConfigError(f"{option}: too long for a socket by {excess} bytes")
    directory = paths[0].parent
    with contextlib.suppress(OSError):  # whoever cannot make it reads so below
        directory.mkdir(mode=0o700)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(f"{option}: no files can be made in {directory}")
    for path in paths:
        if path.is_socket() and _is_alive(path):
            raise ConfigError(f"{option}: another server is using {path}")
        if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{option}: {path} exists and is no socket")
    remove(paths)
    if foreign := next(filter(os.path.lexists, paths), None):
        raise ConfigError(f"{option}: {foreign} belongs to another user and cannot be removed")
    if _is_open_to_others(directory):
        logger.warning(
            "%s: other users can put sockets of theirs in the place of the shards': a private one is safe", option
        )


def _is_open_to_others(directory: Path) -> bool:
    """Whether another user than root may remove files of this one: any, or the directory's owner."""
    found = directory.stat()
    mode = found.st_mode
    return found.st_uid not in (0, os.geteuid()) or bool(mode & stat.S_IWOTH and not mode & stat.S_ISVTX)


def is_socket(path: Path) -> bool:
    """Whether there is a socket file of this user's, which means that a shard is ready; another's could be a trap."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # busy, or not ours to ask
    return True


def remove(paths: list[Path]) -> None:
    """Remove the sockets of shards that have ended."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
