"""What measurements would say, without them."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from tokenizers import Tokenizer

from tgi_server import tokenizer_file
from tgi_server.bench import main as bench
from tgi_server.bench.completion import Record
from tgi_server.bench.http import BenchError
from tgi_server.bench.load import measure, warm_up_requests
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.summary import Summary, summarise
from tgi_server.bench.workload import Request, Workload
from tgi_server.cache.lengths import is_open
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import UsageError
from tgi_server.jobs.base import Stage, Stop, Task
from tgi_server.simulate import learn
from tgi_server.simulate.costs import Overheads, StepCosts
from tgi_server.simulate.findings import Findings
from tgi_server.simulate.kept import Learned, decisive, place
from tgi_server.simulate.routing import Fleet
from tgi_server.simulate.shards import Simulated
from tgi_server.simulate.world import Load, simulate

PROBE = "tgi_server.simulate.probe"
SECONDS = 45.0
"""How long steps are measured, where nothing else is said."""
_KEPT = 8
"""Loads whose requests are remembered."""
_RUNS = "Measuring what passes around the steps"

Report = Callable[[str, float], None]
"""Takes the name of the running stage and how much of it is done, from 0 to 1."""


def check(config: ServerConfig, work: Workload) -> None:
    """Raise UsageError for what cannot be simulated, as far as the options tell."""
    if config.speculate:
        raise UsageError(
            f"speculate={config.speculate}: cannot be simulated, as nobody knows beforehand which guesses are right"
        )
    if is_open(config):
        raise UsageError("max_total_tokens=auto: cannot be simulated, as the lengths are not known yet; give numbers")
    if "response_format" in work.sampling:
        raise UsageError("response_format: cannot be simulated, as texts may end before new_tokens")


def until(stop: Stop) -> Callable[[], None]:
    """What raises BenchError once a stop was asked for."""

    def look() -> None:
        if stop.requested:
            raise BenchError("stopped before everything was simulated")

    return look


def _never() -> None:
    """See `until`."""


class Predictor:
    """Simulates the configured server under a load, once it is known what its steps cost.

    Args:
        stage: where servers run.
        directory: for the files of what was measured, which are used again.
        seconds: how long steps are measured.
        look: called for each request of a simulation; may raise to end that.
    """

    def __init__(
        self, stage: Stage, directory: Path, seconds: float = SECONDS, look: Callable[[], None] = _never
    ) -> None:
        self._stage = stage
        self._directory = directory
        self._seconds = seconds
        self._look = look
        self._known: dict[tuple[tuple[str, str], ...], Simulator] = {}

    def learn(self, task: Task, report: Report) -> Simulator:
        """Measure what a task's steps cost, unless that is known for its options already.

        Raises:
            ModelError: that cannot be measured, or not simulated.
            ConfigError: the file cannot be written, or read again.
            ChildFailedError, StoppedError: see `Stage.beside`.
        """
        config = task.run.config
        key = _key(config)
        if key not in self._known:
            learned = self._kept(config)
            if learned is None:
                learned = measured(self._stage, task, self._seconds, report)
                self._directory.mkdir(parents=True, exist_ok=True)
                general = place(self._directory, config)
                learned.write(place(self._directory, config, exact=True) if general.exists() else general)
            self._known[key] = Simulator(learned, self._look)
        return self._known[key]

    def _kept(self, config: ServerConfig) -> Learned | None:
        """What was measured for these options, or for others that make no difference to the model."""
        for path in (place(self._directory, config), place(self._directory, config, exact=True)):
            if path.exists() and (learned := Learned.of(path)).misfit(config) is None:
                return learned
        return None

    def predict(self, task: Task, work: Workload, run: int = 0) -> Summary:
        """What measuring a task would say; `learn` has been called for it.

        Args:
            work: with one number of clients.
            run: see `bench.load.measure`.

        Raises UsageError for what cannot be simulated.
        """
        config = task.run.config
        check(config, work)
        (clients,) = work.clients
        records = self._known[_key(config)].records(config, work, clients, run)
        return summarise(clients, records, work.duration)


def _key(config: ServerConfig) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(decisive(config).items()))


class Simulator:
    """Simulates loads on what was learned of one model on one machine.

    Args:
        look: called for each request of a simulation; may raise to end that.
    """

    def __init__(self, learned: Learned, look: Callable[[], None] = _never) -> None:
        self._learned = learned
        self._prompts = Prompts(learned.findings, look)

    @property
    def prompt_seconds(self) -> float:
        """Seconds that it took so far to make prompts up and to tokenise them."""
        return self._prompts.seconds

    def records(
        self, config: ServerConfig, work: Workload, clients: int, run: int, fleet: Fleet | None = None
    ) -> list[Simulated]:
        """What happens to each request; see `bench.load.measure` for the arguments.

        Args:
            fleet: the servers; by default one.
        """
        known = self._learned
        return simulated(
            config, known.findings, known.loaded, known.overheads, self._prompts, work, clients, run, fleet
        )


def measured(stage: Stage, task: Task, seconds: float, report: Report) -> Learned:
    """Measure a task's steps, and then what passes around them; see `Predictor.learn`."""
    config = task.run.config
    findings = Findings.from_json(stage.ask_shards(task.run, PROBE, str(seconds), report=report))
    works, prompts = learn.works(config), Prompts(findings)
    target, _ = bench.target_of(BenchOptions(), config)

    async def runs() -> list[learn.Observed]:
        found = []
        for number, (clients, work) in enumerate(works):
            report(_RUNS, number / len(works))
            made = await measure(target, None, work, clients, number, lambda *_: None)
            found.append(learn.Observed.of(clients, made.records))
        return found

    def simulate(costs: StepCosts, overheads: Overheads, work: Workload, clients: int) -> Sequence[Record]:
        run = [each for each, _ in works].index(clients)
        return simulated(config, findings, costs, overheads, prompts, work, clients, run)

    real = stage.beside(task.run, lambda: asyncio.run(runs()))
    loaded, overheads = learn.fit(findings.costs, works, real, simulate)
    return Learned(decisive(config), findings, loaded, overheads)


class Prompts:
    """What is sent, and its token ids; made once for all simulations in which the same is sent.

    Args:
        look: called for each request; may raise to end the simulation.

    Attributes:
        seconds: that it took so far to make prompts up and to tokenise them.
    """

    def __init__(self, findings: Findings, look: Callable[[], None] = _never) -> None:
        self.seconds = 0.0
        self._look = look
        self._path = Path(findings.model_dir) / "tokenizer.json"
        self._tokenizer: Tokenizer | None = None
        self._ids: dict[str, list[int]] = {}
        self._sent: deque[tuple[Workload, str, Sent]] = deque(maxlen=_KEPT)

    def asked(self, work: Workload, run: str) -> Iterator[Request]:
        """The requests of a run, without end."""
        same = replace(work, clients=(), requests=None, duration=None, warmup=None, time_limit=0.0)
        for known, name, sent in self._sent:
            if name == run and known == same:
                return sent.again()
        self._sent.append((same, run, Sent(work.asked(run))))
        return self._sent[-1][-1].again()

    def ids(self, request: Request) -> list[int]:
        """Those of its prompt. Raises ModelError where the model's tokenizer is gone."""
        self._look()
        began = time.perf_counter()
        known = self._ids.get(request.text)
        if known is None:
            tokenizer = self._tokenizer = self._tokenizer or tokenizer_file.read(self._path)
            (encoding,) = tokenizer.encode_batch_fast([request.text])
            known = self._ids[request.text] = encoding.ids
        self.seconds += time.perf_counter() - began
        return known


class Sent:
    """Requests without end that can be gone through again and again."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self._requests = requests
        self._known: list[Request] = []

    def again(self) -> Iterator[Request]:
        """From the first one on."""
        for number in count():
            if number == len(self._known):
                self._known.append(next(self._requests))
            yield self._known[number]


def simulated(
    config: ServerConfig, findings: Findings, costs: StepCosts, overheads: Overheads, prompts: Prompts,
    work: Workload, clients: int, run: int, fleet: Fleet | None = None,
) -> list[Simulated]:  # fmt: skip
    """The records of one measurement."""
    load = Load(clients, work.closed, work.requests, work.duration, work.time_limit)
    asked = prompts.asked(work, f"run {run}")
    warmup = _warmup(prompts, work, clients, run)
    return simulate(config, findings.info, costs, overheads, asked, load, prompts.ids, warmup, fleet)


def _warmup(prompts: Prompts, work: Workload, clients: int, run: int) -> tuple[Iterator[Request], Load] | None:
    """What is sent before the measurement, where the same prompts come again: nothing else is remembered of it."""
    first = warm_up_requests(work, clients)
    if not first or not work.prompts:
        return None
    own = replace(work, rate=None, speed=None)
    load = Load(min(clients, first), requests=first, time_limit=math.inf)
    return prompts.asked(own, f"warm-up {run}"), load
