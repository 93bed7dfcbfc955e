"""Connections counted by client."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tgi_server.router.http.clients import Clients


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::2:3", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_who_is_one_client(first: str, second: str, same: bool) -> None:
    clients = Clients(1)
    place = clients.admit(first)
    assert place is not None
    assert (clients.admit(second) is None) == same
    clients.leave(place)
    assert not same or clients.admit(second) is not None


@pytest.mark.parametrize(("most", "address"), [(None, "192.0.2.1"), (1, "")])
def test_no_limit(most: int | None, address: str) -> None:
    clients = Clients(most)
    assert all(clients.admit(address) is not None for _ in range(9))


def test_descriptors_are_not_few() -> None:
    code = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, r.getrlimit(r.RLIMIT_NOFILE)[1]));"
        "from tgi_server.router.http.clients import allow_many; allow_many();"
        "soft, hard = r.getrlimit(r.RLIMIT_NOFILE); print(soft == hard)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
