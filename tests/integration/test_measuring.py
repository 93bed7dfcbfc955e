"""What scripts measure with: servers asked in several ways, in turns."""

from __future__ import annotations

import asyncio

from scripts.generation import ways
from scripts.quantisation import speed
from scripts.quantisation.speed import Asked
from tests.integration.listening import listening
from tests.router_app import endless
from tgi_server.types import NewSequence


async def test_one_server_asked_in_several_ways() -> None:
    seen: set[tuple[bool, float]] = set()
    told: list[tuple[str, int]] = []

    def choose(new: NewSequence, position: int) -> int:
        seen.add((new.sampling.samples, new.sampling.top_p))
        return endless(new, position)

    async with listening(choose=choose) as (router, port):
        asked = [Asked(name, port, ways.SAMPLING[name], {1: 3}) for name in ("greedy", "top-p 0.95")]
        rates = await asyncio.to_thread(
            speed.rates, asked, {1: 2, 4: 1}, 5, lambda asked, clients: told.append((asked.name, clients))
        )
        assert router.metric("tgi_request_success") == 2 * ((1 + 4) + 2 * 3 + 4)
    assert list(rates) == ["greedy", "top-p 0.95"]
    for counts in rates.values():
        assert {clients: len(each) for clients, each in counts.items()} == {"1": 2, "4": 1}
        assert min(rate for each in counts.values() for rate in each) > 0
    assert seen == {(False, 1.0), (True, 0.95)}
    measured = [each for each in told if each[1]]
    assert measured == [
        ("greedy", 1), ("top-p 0.95", 1), ("greedy", 4), ("top-p 0.95", 4), ("top-p 0.95", 1), ("greedy", 1)
    ]  # fmt: skip
