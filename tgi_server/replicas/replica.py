"""A replica: an actor of Ray that runs a server as its child and passes requests on to it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import aiohttp
from ray import serve
from yarl import URL

from tgi_server.config.schema import ServerConfig
from tgi_server.replicas.call import Call, Head, passed_on
from tgi_server.replicas.child import ReplicaFailedError, ServerChild
from tgi_server.replicas.returns import bringing

_HOST = "http://replica"
"""The socket decides where requests go; clients' own Host headers are passed on."""
_ADDED = (aiohttp.hdrs.ACCEPT, aiohttp.hdrs.ACCEPT_ENCODING, aiohttp.hdrs.CONTENT_TYPE, aiohttp.hdrs.USER_AGENT)
"""Headers that the HTTP library would add by itself."""
_OF_THE_FRONT = (b"date", b"access-control-allow-origin", b"vary")
"""Headers of answers that the front adds itself."""
_LAST_WORDS = 0.5
"""Seconds in which those who wait for an answer of a server that died are told so."""


class Replica:
    """One server. The methods are called by Ray Serve.

    Args:
        threads: processors that its shards compute with together.
        place: a directory for its sockets, which somebody removes; None for one of its own.
    """

    async def __init__(self, config: ServerConfig, threads: int, place: Path | None) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        self._name = serve.get_replica_context().replica_id.unique_id
        self._child = ServerChild(config, threads, self._die, place)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(self._child.path), limit=0),
            timeout=aiohttp.ClientTimeout(),
            auto_decompress=False,
            skip_auto_headers=_ADDED,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        try:
            await self._child.until(self._answers)
        except BaseException:
            await self._session.close()
            self._child.stop()
            raise

    async def __call__(self, call: Call) -> None:
        """Bring the answer to where it is expected (`call.back`), as it comes; done when all of it is there.

        Cancelling this ends the request at the server, and so does the front when it hangs up.

        Raises:
            ReplicaFailedError: the server does not answer, or not to the end.
        """
        assert call.back is not None
        async with self._answer(call) as (head, body), bringing(call.back, head) as writer:
            async for piece in body:
                writer.write(piece)
                await writer.drain()

    async def whole(self, call: Call) -> tuple[Head, bytes]:
        """The answer itself. Raises ReplicaFailedError."""
        async with self._answer(call) as (head, body):
            return head, b"".join([piece async for piece in body])

    async def metrics(self) -> tuple[str, str]:
        """Its name, and what its server says of itself at /metrics."""
        async with self._session.get(f"{_HOST}/metrics") as answer:
            return self._name, await answer.text()

    async def lines(self) -> tuple[str, list[str]]:
        """Its name, and the lines of its server's log since the last call."""
        return self._name, self._child.take_lines()

    async def check_health(self) -> None:
        """Raise ReplicaFailedError unless the server says that it is well."""
        if not await self._answers():
            raise ReplicaFailedError(f"replica {self._name} is not well")

    def __del__(self) -> None:
        """Called by Ray Serve when the last request is done."""
        if hasattr(self, "_child"):
            self._child.stop()

    @asynccontextmanager
    async def _answer(self, call: Call) -> AsyncIterator[tuple[Head, AsyncIterator[bytes]]]:
        try:
            async with self._asked(call) as answer:
                head = Head(answer.status, passed_on(answer.raw_headers, *_OF_THE_FRONT))
                yield head, answer.content.iter_any()
        except aiohttp.ClientError as error:
            raise ReplicaFailedError(f"its server: {error}") from None

    def _asked(self, call: Call) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.request(
            call.method,
            URL(_HOST + call.target, encoded=True),
            headers=[(key.decode("latin-1"), value.decode("latin-1")) for key, value in call.headers],
            data=call.body or None,
            allow_redirects=False,
        )

    async def _answers(self) -> bool:
        try:
            async with self._session.get(f"{_HOST}/health") as answer:
                return answer.status == HTTPStatus.OK
        except aiohttp.ClientError:
            return False

    def _die(self) -> None:
        """The server has ended: so does this process, and Ray starts another replica in its place."""
        threading.Timer(_LAST_WORDS, os._exit, [1]).start()
        for line in self._child.take_lines():  # which nobody will ask for any more; Ray keeps them in a file
            print(line)
        sys.stdout.flush()
