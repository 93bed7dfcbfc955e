"""How an answer comes back from its replica: over a connection of its own, as it is written. No Ray in here.

Ray carries the request, and tells when it is done or its replica is dead. For each token of the answer it would take
more than half a millisecond of the front's time, and it does not wait where a client is slow.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tgi_server.launcher.leftovers import Leftovers
from tgi_server.replicas.call import Back, Head

_UNIX = "unix:"
_LONGEST = 1 << 20
"""Bytes of the beginning of an answer, which is one line."""
_READ = 1 << 16
"""Most bytes that are passed on at a time."""
_PATIENCE = 5.0
"""Seconds that who connects has to say which answer it brings."""


@dataclass(frozen=True)
class Arrived:
    """An answer that has begun."""

    head: Head
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def hang_up_if_failed(self, done: asyncio.Future[None]) -> None:
        """Who brings it is known to be dead, though its machine may not have said so."""
        if done.cancelled() or done.exception() is not None:
            self.writer.transport.abort()

    async def body(self) -> AsyncGenerator[bytes, None]:
        """What there is of its body, as it comes. Whether that is all of it, only Ray knows."""
        with suppress(ConnectionError):
            while piece := await self.reader.read(_READ):
                yield piece


class Returns:
    """The front's side.

    Attributes:
        address: where it listens; see `Back`.
        directory: of this user alone, gone when this process is, whatever ends it; None when it listens on a host.
    """

    def __init__(self) -> None:
        self.address = ""
        self.directory: Path | None = None
        self._expected: dict[str, asyncio.Future[Arrived]] = {}

    @asynccontextmanager
    async def listening(self, host: str | None) -> AsyncIterator[None]:
        """Until the end, on `host` at a port that the system chooses; without a host only this user's processes get in.

        Raises OSError.
        """
        if host is not None:
            server = await asyncio.start_server(self._take, host, 0, limit=_LONGEST)
            self.address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
            async with server:
                yield
            return
        directory = self.directory = Path(tempfile.mkdtemp(prefix="tgi-front-"))
        leftovers = Leftovers([directory])
        try:
            path = str(directory / "answers")
            self.address = f"{_UNIX}{path}"
            async with await asyncio.start_unix_server(self._take, path, limit=_LONGEST):
                yield
        finally:
            await asyncio.to_thread(leftovers.close)
            shutil.rmtree(directory, ignore_errors=True)

    @asynccontextmanager
    async def expected(self) -> AsyncIterator[tuple[Back, asyncio.Future[Arrived]]]:
        """Where a replica is to bring an answer, and that answer once it has begun; hung up at the end."""
        back = Back(self.address, secrets.token_hex(16))
        arriving = self._expected[back.ticket] = asyncio.get_running_loop().create_future()
        try:
            yield back, arriving
        finally:
            self._expected.pop(back.ticket, None)
            if not arriving.cancel() and not arriving.cancelled():
                arriving.result().writer.transport.abort()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody has connected: whose answer is it?"""
        arriving = None
        with suppress(ValueError, OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                ticket = await reader.readline()
                arriving = self._expected.pop(ticket.decode("latin-1").rstrip("\n"), None)
                head = None if arriving is None else _read(await reader.readline())
            if arriving is not None and head is not None and not arriving.done():
                arriving.set_result(Arrived(head, reader, writer))
                return
        writer.close()


@asynccontextmanager
async def bringing(back: Back, head: Head) -> AsyncIterator[asyncio.StreamWriter]:
    """The replica's side: where the body of an answer is to be written. Raises OSError."""
    if back.address.startswith(_UNIX):
        _, writer = await asyncio.open_unix_connection(back.address.removeprefix(_UNIX))
    else:
        host, _, port = back.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"{back.ticket}\n".encode() + _written(head))
        yield writer
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    finally:
        writer.close()


def _written(head: Head) -> bytes:
    headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in head.headers]
    return json.dumps({"status": head.status, "headers": headers}).encode() + b"\n"


def _read(line: bytes) -> Head:
    said = json.loads(line)
    return Head(said["status"], [(key.encode("latin-1"), value.encode("latin-1")) for key, value in said["headers"]])
