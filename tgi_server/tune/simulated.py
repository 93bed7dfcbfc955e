"""Candidates under loads, simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from tgi_server.bench.completion import Record
from tgi_server.bench.summary import Summary, summarise
from tgi_server.bench.workload import Workload
from tgi_server.cache.kinds import without_effect
from tgi_server.config.options import concerns
from tgi_server.config.schema import BatchingOptions, ServerConfig
from tgi_server.errors import TgiError
from tgi_server.jobs.base import Task
from tgi_server.simulate import predict
from tgi_server.simulate.kept import decisive
from tgi_server.sweep.points import Point
from tgi_server.tune.guard import verdict
from tgi_server.tune.options import TuneOptions, limits
from tgi_server.tune.scoring import Load, Probe
from tgi_server.tune.space import Candidate
from tgi_server.tune.work import run_number, work


class Simulator(Protocol):
    """See `simulate.predict.Simulator`."""

    def records(self, config: ServerConfig, work: Workload, clients: int, run: int) -> Sequence[Record]:
        """What happens to each request."""


@dataclass
class Simulated:
    """Simulates candidates (`scoring.Evaluate`).

    What steps cost is measured once for all that differ in batching only: a step's time depends on what is in it.

    Attributes:
        options: of the search.
        learn: finds out what steps of a task cost; raises TgiError where that cannot be known.
        look: raises what is to end the search.
    """

    options: TuneOptions
    learn: Callable[[Task], Simulator]
    look: Callable[[], None] = lambda: None
    _known: dict[tuple[str, ...], Simulator | TgiError] = field(default_factory=dict)

    def __call__(self, candidate: Candidate, load: Load, repeat: int, beat: float | None = None) -> Probe:
        """See `scoring.Evaluate`; nothing is ended early here."""
        asked = work(self.options, load, repeat)
        try:
            predict.check(candidate.task.run.config, asked)
            simulator = self._simulator(candidate.task)
            records = simulator.records(candidate.task.run.config, asked, load.clients, run_number(load, repeat))
        except TgiError as error:
            self.look()
            return Probe(None, error=str(error))
        summary = summarise(load.clients, records, asked.duration)
        return Probe(summary, verdict(records, limits(self.options), not load.closed))

    def expected(self, point: Point) -> Summary | None:
        """What a point's first measurement would say; None where that cannot be known."""
        load = Load(point.work.clients[0], point.work.rate, point.work.speed)
        return self(Candidate(point.settings, point.task), load, 1).summary

    def _simulator(self, task: Task) -> Simulator:
        kind = tuple(f"{name}={value}" for name, value in decisive(_plain(task.run.config)).items())
        if kind not in self._known:
            try:
                self._known[kind] = self.learn(task)
            except TgiError as error:  # it would be the same the next time, minutes later
                self._known[kind] = error
        found = self._known[kind]
        if isinstance(found, TgiError):
            raise found
        return found


def _plain(config: ServerConfig) -> ServerConfig:
    """The configuration with the defaults of the batching options that decide nothing about most models' caches."""
    names = [each.name for each in fields(BatchingOptions)]
    free = [name for name in names if "shard" not in concerns(name) or name in without_effect(())]
    defaults: dict[str, Any] = {name: getattr(ServerConfig, name) for name in free}
    return replace(config, **defaults)
