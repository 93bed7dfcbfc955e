"""Shards whose steps take what a function says, and which notice what a real one would choke on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from tgi_server.rpc.fake import FAKE_INFO
from tgi_server.simulate.costs import Shape
from tgi_server.types import CacheKind, NewSequence, Outcome, Plan, ShardInfo

INFO = replace(FAKE_INFO, efficient_tokens=256)


@dataclass
class _Known:
    new: NewSequence
    computed: int
    length: int


class SyntheticShards:
    """`Shards` of which each step is `seconds` of its shape long, though no time passes.

    Attributes:
        known: sequences that no plan has finished yet.
        failing: the message of a failure of every step from now on; None for none.
    """

    def __init__(self, seconds: Callable[[Shape], float], info: ShardInfo = INFO) -> None:
        self.known: dict[int, _Known] = {}
        self.shapes: list[Shape] = []
        self.failing: str | None = None
        self._seconds = seconds
        self._info = info
        self._outcomes: deque[Outcome] = deque()
        self._ever: set[int] = set()

    async def connect(self) -> ShardInfo:
        return self._info

    async def send(self, plan: Plan) -> None:
        for id in plan.finished:
            del self.known[id]
        for new in plan.new:
            self._add(new)
        self._outcomes.append(self._step(plan))

    async def receive(self) -> Outcome:
        return self._outcomes.popleft()

    async def health(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def _add(self, new: NewSequence) -> None:
        assert new.id not in self._ever
        self._ever.add(new.id)
        for group, table in zip(self._info.groups, new.blocks, strict=True):
            assert all(0 <= block < group.num_blocks for block in table)
            assert len(table) * 16 >= new.max_length - 1 or group.kind is CacheKind.STATE
        assert new.cached % 16 == 0 and new.cached < len(new.prompt_ids) < new.max_length
        self.known[new.id] = _Known(new, new.cached, len(new.prompt_ids))

    def _step(self, plan: Plan) -> Outcome:
        if not plan.ids:
            return Outcome(plan.step, [], [], [], [])
        shape = self._shape(plan)
        self.shapes.append(shape)
        failed = {} if self.failing is None else dict.fromkeys(plan.ids, self.failing)
        nanoseconds = round(self._seconds(shape) * 1e9)
        return Outcome(
            plan.step, plan.ids, [1] * len(plan.ids), [0] * len(plan.ids), [0.0] * len(plan.ids),
            failed=failed, forward_ns=nanoseconds, wait_ns=40_000,
        )  # fmt: skip

    def _shape(self, plan: Plan) -> Shape:
        tokens = pairs = rows = context = ends = 0
        for id, count in zip(plan.ids, plan.counts, strict=True):
            each = self.known[id]
            if each.computed >= len(each.new.prompt_ids):
                assert count == 1
                rows, context = rows + 1, context + each.length
            else:
                tokens += count
                pairs += sum(range(each.computed + 1, each.computed + count + 1))
                ends += each.computed + count == len(each.new.prompt_ids)
            each.computed += count
            assert each.computed <= each.length < each.new.max_length
            each.length += 1
        return Shape(tokens, pairs, rows, context, ends)
