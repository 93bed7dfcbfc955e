"""Memory that nobody uses is given back while nobody asks."""

from __future__ import annotations

import asyncio

import pytest

from tgi_server import host
from tgi_server.router.memory import returned_when_idle

MIB = 2**20


async def test_after_a_burst_once_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, busy, returned = 100 * MIB, True, list[int]()

    def give_back() -> None:
        nonlocal resident
        returned.append(resident)
        resident = 110 * MIB

    monkeypatch.setattr(host, "resident_memory", lambda: resident)
    monkeypatch.setattr(host, "return_memory", give_back)
    async with returned_when_idle(lambda: not busy, seconds=0.001):
        await asyncio.sleep(0.05)  # so that the first look is at 100 MiB
        resident = 500 * MIB
        await asyncio.sleep(0.05)
        assert not returned, "somebody asks"
        busy = False
        while not returned:
            await asyncio.sleep(0.001)
        resident = 130 * MIB
        await asyncio.sleep(0.05)
    assert returned == [500 * MIB], "20 MiB more are not worth it"
