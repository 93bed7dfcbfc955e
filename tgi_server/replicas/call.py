"""What travels between the front and a replica. Stdlib only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"transfer-encoding", b"upgrade",
}  # fmt: skip
"""Headers that are about a connection, not about what goes over it (RFC 9110, section 7.6.1)."""


@dataclass(frozen=True)
class Back:
    """Where the front waits for an answer.

    Attributes:
        address: `unix:PATH` or `HOST:PORT`.
        ticket: says which answer it is, and that it is a replica that brings it.
    """

    address: str
    ticket: str


@dataclass(frozen=True)
class Call:
    """A request of a client.

    Attributes:
        target: path and query, as the client wrote them.
        keys: of the prompt's beginning (`prompt.keys`); none where nothing is generated.
        back: where the answer is to be brought, if not to who calls.
    """

    method: str
    target: str
    headers: Headers
    body: bytes
    keys: list[int] = field(default_factory=list)
    back: Back | None = None


@dataclass(frozen=True)
class Head:
    """The beginning of an answer; what follows it are pieces of the body."""

    status: int
    headers: Headers


def passed_on(headers: Iterable[tuple[bytes, bytes]], *left_out: bytes) -> Headers:
    """The headers that go on to the next connection, but for those `left_out`."""
    found = list(headers)
    named = {name.strip().lower() for key, value in found if key.lower() == b"connection" for name in value.split(b",")}
    dropped = _HOP_BY_HOP | named | set(left_out)
    return [(key, value) for key, value in found if key.lower() not in dropped]
