"""How many connections each client has open."""

from __future__ import annotations

import resource
from collections import Counter
from ipaddress import IPv6Address, ip_address

_NETWORK = 64
"""Bits of an IPv6 address that are one client's: it may choose the others as it likes."""


class Clients:
    """Counts connections by where they come from.

    Args:
        most: connections that one client may have open; None for any number.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def admit(self, address: str) -> str | None:
        """Take a place for a connection from there; returns what gives it back (`leave`), None where it has too many.

        Connections that come over a unix socket, as those through a tunnel, have no address (""), and no limit.
        """
        client = _client(address) if address and self._most is not None else ""
        if client and self._most is not None and self._open[client] >= self._most:
            return None
        self._open[client] += 1
        return client

    def leave(self, client: str) -> None:
        """Give a place back."""
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]


def _client(address: str) -> str:
    """Whose address it is."""
    found = ip_address(address.partition("%")[0])
    if not isinstance(found, IPv6Address):
        return address
    return str(found.ipv4_mapped or int(found) >> (128 - _NETWORK))


def allow_many() -> None:
    """Let this process have as many descriptors as the system allows it: each connection takes one.

    By default it is 1024, which clients that only connect would use up.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
