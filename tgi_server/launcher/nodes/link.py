"""A connection between the launchers of two nodes: lines of JSON, each with a proof that its writer knows the token.

Who listens in learns what is said, but neither the token nor how to say something himself: both sides throw in a number
that was never used before, and each line is signed under what these and the token make.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import socket
import threading
from pathlib import Path
from typing import Any

from tgi_server.config.schema import ShardOptions

SHORTEST_TOKEN = 16
"""Characters: who listens in can try shorter ones at leisure."""
_LONGEST = 1 << 20
"""Bytes of a line."""
_NONCE = 65
"""Bytes of the line with the number that was never used before."""

Message = dict[str, Any]


class UntrustedError(Exception):
    """The other side does not know the token."""


class Link:
    """One such connection. One thread may hear while others say something.

    Args:
        connection: its timeout is that of each `hear` and `say` from now on.
        token: the secret.
        calls: whether this side has called the other; else it was called.

    Attributes:
        other: address of the other side.

    Raises OSError or EOFError when the other side does not answer; the connection is closed then.
    """

    def __init__(self, connection: socket.socket, token: bytes, calls: bool) -> None:
        self._socket = connection
        self._lines = connection.makefile("rb")
        own = secrets.token_hex(32)
        try:
            self.other: str = connection.getpeername()[0]
            connection.sendall(f"{own}\n".encode())
            other = self._line(_NONCE).decode(errors="replace")
        except (OSError, EOFError):
            self.close()
            raise
        self._key = signed(token, f"{own} {other}" if calls else f"{other} {own}").encode()
        self._sides = ("caller", "called") if calls else ("called", "caller")
        self._said = self._heard = 0
        self._saying = threading.Lock()

    def say(self, kind: str, **content: Any) -> None:
        """Send a message. Raises OSError."""
        body = json.dumps({"kind": kind, **content})
        with self._saying:
            proof = signed(self._key, f"{self._sides[0]} {self._said} {body}")
            self._said += 1
            self._socket.sendall(f"{proof} {body}\n".encode())

    def hear(self) -> Message:
        """The next message. Raises TimeoutError, OSError, EOFError, or UntrustedError."""
        proof, _, body = self._line(_LONGEST).decode(errors="replace").partition(" ")
        expected = signed(self._key, f"{self._sides[1]} {self._heard} {body}")
        if not hmac.compare_digest(proof.encode(), expected.encode()):
            raise UntrustedError
        self._heard += 1
        message: Message = json.loads(body)
        return message

    def close(self) -> None:
        """End it; who hears is told that it is over."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes who hears
        self._lines.close()
        self._socket.close()

    def _line(self, longest: int) -> bytes:
        line = self._lines.readline(longest)
        if not line.endswith(b"\n"):
            raise EOFError
        return line.rstrip(b"\n")


def signed(key: bytes, text: str) -> str:
    """What only those can make of a text who know the key."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def token(options: ShardOptions) -> bytes:
    """The secret that the nodes share. Raises ValueError that says what is wrong with it, but not what it is."""
    text = options.node_token
    if text is None and options.node_token_file is not None:
        try:
            text = Path(options.node_token_file).expanduser().read_text().strip()
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("not a text in UTF-8") from None
    if text is None or len(text) < SHORTEST_TOKEN:
        raise ValueError(f"at least {SHORTEST_TOKEN} characters are needed, such as `openssl rand -hex 32` makes")
    return text.encode()
