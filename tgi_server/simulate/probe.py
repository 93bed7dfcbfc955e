"""Measures what steps cost: `python -m tgi_server.simulate.probe SECONDS`, a `Launch` on standard input.

For a while it is the router of running shards: it sends plans with made-up sequences and reads how long they took. What
is found out comes as the JSON of `Findings`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from tgi_server.config import load
from tgi_server.config.schema import BatchingOptions, Launch
from tgi_server.errors import ModelError
from tgi_server.launcher import job
from tgi_server.placement import placements
from tgi_server.rpc.client import GrpcShards, Shards
from tgi_server.simulate import grid
from tgi_server.simulate.costs import Sample
from tgi_server.simulate.findings import Findings
from tgi_server.simulate.fit import fit
from tgi_server.simulate.grid import STEPS, Scene
from tgi_server.types import BLOCK_SIZE, CacheKind, GroupInfo, NewSequence, Outcome, Plan, SamplingParams, ShardInfo

BUDGET = 45.0
"""Seconds that it takes, where nothing else is said."""
_FIRST_ID = 1 << 62
"""Of made-up sequences: a router that comes later counts from 0 on."""
_BLOCKS = 512
"""Blocks of the cache that sequences share; of more memory than caches of processors have."""
_ROUNDS, _SHARE = 3, 0.05
"""After some rounds, scenes that have had this share of the time are left out, so that short steps are measured more
often."""
_LONGEST = 0.1
"""Share of the time that one step may take; longer ones are not measured, but go on as those before."""
_STAGE = "Measuring what steps cost"


@dataclass
class _Timed:
    """The steps of a scene so far, in seconds."""

    seconds: list[float] = field(default_factory=list)

    def sample(self, scene: Scene) -> Sample:
        first, last = scene.shape(0), scene.shape(scene.steps - 1)
        shape = replace(first, context=(first.context + last.context) // 2)
        return Sample(shape, median(self.seconds), len(self.seconds))


class Prober:
    """Measures steps at connected shards.

    Args:
        info: what they told when they were connected.
    """

    def __init__(self, shards: Shards, options: BatchingOptions, info: ShardInfo) -> None:
        self._shards = shards
        self._info = info
        self._scenes = grid.scenes(options, info)
        self._timed = {scene: _Timed() for scene in self._scenes}
        self._waits: list[float] = []
        self._numbers = itertools.count(_FIRST_ID)
        self._steps = itertools.count()
        self._chance = random.Random(0)
        self._places = itertools.count()
        self._written = 1

    async def measure(self, budget: float, report: job.Report) -> Findings:
        """All scenes once, and again in turns as long as there is time.

        Args:
            budget: seconds.

        Raises:
            ModelError: a step failed.
            GenerationError: a shard is gone.
        """
        began = time.monotonic()
        for scene in self._round(began, budget):
            report(_STAGE, min(1.0, (time.monotonic() - began) / budget))
            await self._play(scene)
        samples = [timed.sample(scene) for scene, timed in self._timed.items() if timed.seconds]
        return Findings(self._info, samples, fit(samples, between=median(self._waits)))

    def _round(self, began: float, budget: float) -> Iterator[Scene]:
        """Forwards and backwards: what else happens on the machine meets all of them."""
        yield self._scenes[-1]  # does not count: the first steps after a pause are slow
        self._timed[self._scenes[-1]] = _Timed()
        self._waits.clear()
        for turn in itertools.count():
            for scene in self._scenes[:: -1 if turn % 2 else 1]:
                if turn and time.monotonic() - began >= budget:
                    return
                if self._wanted(scene, turn, budget):
                    yield scene

    def _wanted(self, scene: Scene, turn: int, budget: float) -> bool:
        seconds = self._timed[scene].seconds
        if not turn:
            return not self._too_long(scene, budget)
        return bool(seconds) and (turn < _ROUNDS or sum(seconds) <= _SHARE * budget)

    def _too_long(self, scene: Scene, budget: float) -> bool:
        """A prompt of which a step would take too much of the time, by what the one before it took."""
        tokens = scene.shape(0).prompt_tokens
        shorter = [(each.shape(0).prompt_tokens, timed) for each, timed in self._timed.items() if timed.seconds]
        known = max(((size, timed.seconds[0]) for size, timed in shorter if size), default=None)
        return known is not None and tokens / known[0] * known[1] > _LONGEST * budget

    async def _play(self, scene: Scene) -> None:
        plans = list(self._plans(scene))
        for plan in plans:
            await self._shards.send(plan)
        outcomes = [await self._shards.receive() for _ in plans]
        for outcome in outcomes:
            if outcome.failed:
                raise ModelError(f"a step that was to be measured failed: {next(iter(outcome.failed.values()))}")
        self._take(scene, outcomes[-scene.steps - 1 : -1])

    def _take(self, scene: Scene, outcomes: Sequence[Outcome]) -> None:
        for step, outcome in enumerate(outcomes):
            self._timed[scene].seconds.append(outcome.forward_ns / 1e9)
            if step:  # the plan was there already
                self._waits.append(outcome.wait_ns / 1e9)

    def _plans(self, scene: Scene) -> Iterator[Plan]:
        """The sequences begin, their steps, and all are forgotten."""
        decoding = [self._sequence(scene.context - 1) for _ in range(scene.rows)]
        running = [new.id for new in decoding]
        if decoding:
            yield self._plan(decoding, [len(new.prompt_ids) - new.cached for new in decoding])
        gone: list[int] = []
        for _ in range(scene.steps):
            new = [self._sequence(piece.cached + piece.tokens, piece.cached) for piece in scene.pieces]
            counts = [1] * len(running) + [piece.tokens for piece in scene.pieces]
            yield self._plan(new, counts, running, gone)
            gone = [each.id for each in new]
        yield self._plan([], [], finished=[*running, *gone])

    def _plan(
        self, new: list[NewSequence], counts: list[int], running: Sequence[int] = (), finished: Sequence[int] = ()
    ) -> Plan:
        ids = [*running, *(each.id for each in new)]
        return Plan(next(self._steps), ids, counts, new, list(finished))

    def _sequence(self, length: int, cached: int | None = None) -> NewSequence:
        """A prompt; of all but its last token it is said that they are in the cache already, if nothing else is."""
        if cached is None:
            cached = length - 1 if grid.skips(self._info) else 0
        ids = self._chance.choices(range(self._info.vocab_size), k=length)
        most = length + STEPS + 2
        blocks = [self._table(group, most, fresh=not cached) for group in self._info.groups]
        return NewSequence(next(self._numbers), ids, blocks, SamplingParams(), most, cached)

    def _table(self, group: GroupInfo, positions: int, fresh: bool) -> list[int]:
        """Blocks in turn. What is in them does not matter, so some may be those of others too; but something has to
        be: memory that was never written is not there and takes no time to read."""
        most = min(group.num_blocks, _BLOCKS)
        if group.kind is CacheKind.STATE:
            return [next(self._places) % most]
        places = [next(self._places) for _ in range(-(-positions // BLOCK_SIZE))]
        if fresh:
            self._written = min(_BLOCKS, max(self._written, places[-1] + 1))
        return [place % min(most, self._written) for place in places]


def unmeasurable(info: ShardInfo) -> str | None:
    """Why steps of these shards cannot be simulated, if they cannot."""
    if info.draft_width:
        return "nobody knows beforehand which guessed tokens are right: what guesses cannot be simulated (speculate=0)"
    if info.start_token_id is not None:
        return "models whose prompts an encoder reads cannot be simulated"
    return None


async def probe(launch: Launch, budget: float, report: job.Report) -> Findings:
    """See `Prober`. Raises UnhealthyError where the shards do not answer."""
    shards = GrpcShards(placements(launch.config, launch.resolved.num_shard))
    try:
        info = await shards.connect()
        if reason := unmeasurable(info):
            raise ModelError(reason)
        found = await Prober(shards, launch.config, info).measure(budget, report)
        return replace(found, model_dir=launch.resolved.model_dir)
    finally:
        await shards.close()


def main() -> None:
    """Raises what `job.perform` does not tell its caller."""
    budget = float(sys.argv[1]) if len(sys.argv) > 1 else BUDGET
    launch = load.read(sys.stdin)
    job.perform(lambda report: asyncio.run(probe(launch, budget, report)).to_json())


if __name__ == "__main__":
    main()
