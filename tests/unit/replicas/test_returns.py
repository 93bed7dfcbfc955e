"""Answers that are brought to where they are expected."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from tgi_server.replicas.call import Back, Head
from tgi_server.replicas.returns import Arrived, Returns, bringing

HEAD = Head(418, [(b"x-a", b"\xff 1"), (b"x-a", b"2")])


async def whole(arrived: Arrived) -> bytes:
    return b"".join([piece async for piece in arrived.body()])


async def bring(back: Back, *pieces: bytes) -> None:
    async with bringing(back, HEAD) as writer:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()


@pytest.mark.parametrize("host", [None, "127.0.0.1", "::1"])
async def test_each_answer_comes_to_who_expects_it(host: str | None) -> None:
    returns = Returns()
    async with returns.listening(host):

        async def ask(number: int) -> bytes:
            async with returns.expected() as (back, arriving):
                tasks.append(asyncio.ensure_future(bring(back, *[b"%d," % number] * number)))
                arrived = await arriving
                assert arrived.head == HEAD
                return await whole(arrived)

        tasks: list[asyncio.Future[None]] = []
        answers = await asyncio.gather(*(ask(number) for number in range(20)))
        assert answers == [b"%d," % number * number for number in range(20)]
        await asyncio.gather(*tasks)
    assert not returns._expected


async def test_only_this_user_gets_in_and_nothing_is_left() -> None:
    returns = Returns()
    async with returns.listening(None):
        path = Path(returns.address.removeprefix("unix:"))
        assert path.is_socket() and path.parent.stat().st_mode & 0o077 == 0
    assert not path.parent.exists()


async def test_strangers_bring_nothing() -> None:
    returns = Returns()
    async with returns.listening("127.0.0.1"), returns.expected() as (back, arriving):
        host, _, port = back.address.rpartition(":")
        for line in (b"GET / HTTP/1.1\r\n\r\n", b"\n\n", b"x" * (3 << 20) + b"\n", b"\xff\n{}\n"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(line)
            with suppress(ConnectionResetError):  # it did not even read all
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        assert not arriving.done()
        await bring(back, b"yes")
        assert await whole(await arriving) == b"yes"
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{back.ticket}\n".encode())  # which is good for one answer
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_who_goes_away_is_written_to_no_more() -> None:
    returns, ended = Returns(), asyncio.Event()

    async def endless(back: Back) -> None:
        try:
            async with bringing(back, HEAD) as writer:
                while True:
                    writer.write(b"x" * 1000)
                    await writer.drain()
                    await asyncio.sleep(0)
        except ConnectionError:
            ended.set()

    async with returns.listening(None):
        async with returns.expected() as (back, arriving):
            task = asyncio.ensure_future(endless(back))
            async for piece in (await arriving).body():
                assert piece
                break
        await asyncio.wait_for(ended.wait(), 10)
        await task


async def test_who_reads_slowly_is_waited_for() -> None:
    returns, written = Returns(), 0

    async def much(back: Back) -> None:
        nonlocal written
        async with bringing(back, HEAD) as writer:
            for _ in range(1000):
                writer.write(b"x" * 100_000)
                await writer.drain()
                written += 100_000

    async with returns.listening(None), returns.expected() as (back, arriving):
        task = asyncio.ensure_future(much(back))
        arrived = await arriving
        await asyncio.sleep(0.5)
        assert written < 30 << 20
        assert len(await whole(arrived)) == 100_000_000
        await task


async def test_a_dead_replica_that_does_not_say_so() -> None:
    returns = Returns()
    async with returns.listening("127.0.0.1"), returns.expected() as (back, arriving):
        host, _, port = back.address.rpartition(":")
        with socket.create_connection((host, int(port))) as silent:
            silent.sendall(back.ticket.encode() + b'\n{"status": 200, "headers": []}\nsome')
            arrived = await arriving
            body = arrived.body()
            assert await anext(body) == b"some"
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.add_done_callback(arrived.hang_up_if_failed)
            done.set_exception(RuntimeError("dead"))
            with pytest.raises(StopAsyncIteration):
                await asyncio.wait_for(anext(body), 5)
