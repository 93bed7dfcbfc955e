"""Simulated points: a load that grows with the replicas, of prompts that share their beginnings."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, count
from typing import Any

from tgi_server.bench.workload import Request, poisson
from tgi_server.config.schema import BatchingOptions
from tgi_server.simulate.costs import MeasuredCosts, Overheads
from tgi_server.simulate.fleet import Shared
from tgi_server.simulate.options import Routing
from tgi_server.simulate.routing import Fleet
from tgi_server.simulate.shards import Simulated
from tgi_server.simulate.world import Load, simulate
from tgi_server.types import CacheKind, GroupInfo, ShardInfo

FIRST_TOKEN, EACH_TOKEN = 1.0, 0.05
"""Limits in seconds that good requests keep: to the first token, and the mean of a later one."""
_SHARED = 512
"""Tokens of a system prompt."""
_OWN, _NEW = (32, 96), (32, 96)
"""Fewest and most tokens of a request's own, and generated ones."""
_MOST = 1024
"""Longest prompt and text: the numbers of prompts' tokens are this far apart."""
INFO = ShardInfo(
    dtype="bfloat16", device_type="cpu", groups=[GroupInfo(CacheKind.FULL, None, 2048)], efficient_tokens=256,
    vocab_size=49152, eos_token_ids=[2],
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """What is simulated.

    Attributes:
        rate: requests a second and replica, at random moments.
        prompts: system prompts; of rank r one is asked for in proportion to 1/r (Zipf).
        warm: seconds before those that count.
        seconds: that count.
    """

    replicas: int
    routing: str
    rate: float
    prompts: int
    margin: float = 8
    routers: int = 1
    warm: float = 15.0
    seconds: float = 25.0

    def run(self, costs: MeasuredCosts) -> dict[str, Any]:
        """What came of it, for the file."""
        began = time.perf_counter()
        records = self.records(costs)
        took = time.perf_counter() - began
        counted = [record for record in records if record.start >= self.warm]
        good = [record for record in counted if kept(record)]
        shared = Shared.of(counted, self.replicas)
        firsts = sorted(record.arrivals[0] - record.start for record in counted if record.arrivals)
        return {
            **asdict(self),
            "asked": len(counted) / self.seconds,
            "goodput": len(good) / self.seconds,
            "cached": shared.cached,
            "fewest": shared.fewest,
            "most": shared.most,
            "first_token_p95": firsts[int(0.95 * len(firsts))],
            "refused": sum(record.error is not None for record in counted),
            "took": round(took, 1),
        }

    def records(self, costs: MeasuredCosts) -> list[Simulated]:
        """What happened to each request."""
        length = self.warm + self.seconds
        load = Load(1 << 40, closed=False, duration=length, time_limit=length + 5 * FIRST_TOKEN)
        fleet = Fleet(self.replicas, Routing[self.routing], self.margin, self.routers)
        return simulate(BatchingOptions(), INFO, costs, Overheads(), self._asked(), load, _ids, fleet=fleet)

    def _asked(self) -> Iterator[Request]:
        chance, moments = random.Random(1), poisson(self.rate * self.replicas, 2)
        weights = list(accumulate(1 / rank for rank in range(1, self.prompts + 1)))
        for number in count():
            (system,) = chance.choices(range(self.prompts), cum_weights=weights)
            pieces = ((system, _SHARED), (self.prompts + number, _SHARED + chance.randint(*_OWN)))
            yield Request(number, chance.randint(*_NEW), next(moments), pieces, None, "")


def kept(record: Simulated) -> bool:
    """Whether it was answered within the limits."""
    if record.error is not None:
        return False
    first, last = record.arrivals[0], record.arrivals[-1]
    return first - record.start <= FIRST_TOKEN and last - first <= EACH_TOKEN * max(1, record.tokens - 1)


def _ids(request: Request) -> list[int]:
    """Numbers in a row for each piece, which is quicker than random ones and begins alike where those do."""
    ids: list[int] = []
    for origin, stop in request.pieces:
        ids += range(_MOST * origin + len(ids), _MOST * origin + stop)
    return ids


def same(point: Point, **changes: Any) -> Point:
    """The point with something changed."""
    return replace(point, **changes)
