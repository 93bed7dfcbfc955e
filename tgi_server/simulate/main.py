"""`job=simulate`: costs measured or read, loads simulated, and the table."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import tgi_server
from tgi_server import api_keys
from tgi_server.bench import main as bench
from tgi_server.bench import report
from tgi_server.bench.load import Run
from tgi_server.bench.progress import Progress
from tgi_server.bench.summary import Summary, summarise
from tgi_server.bench.workload import Workload
from tgi_server.config import describe
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import UsageError
from tgi_server.jobs.base import Context, Task
from tgi_server.simulate import fleet, predict
from tgi_server.simulate.kept import Learned
from tgi_server.simulate.options import SimulateOptions
from tgi_server.simulate.predict import Predictor, Simulator
from tgi_server.simulate.routing import Fleet
from tgi_server.telemetry import logging as log

logger = logging.getLogger(__name__)


def check(options: SimulateOptions, config: ServerConfig) -> None:
    """See `tgi_server.jobs.simulate.Simulate.check`."""
    if options.target is not None:
        raise UsageError(
            f"target={options.target}: only the configured server can be simulated, as it is measured step by step"
        )
    predict.check(config, fleet.work(options))
    Fleet.of(options)
    api_keys.read(config)
    if not options.known:
        bench.own_address(config)
    for name, path in (("output", options.output), ("costs", options.costs_path)):
        if path is not None:
            report.check_output(name, Path(path))


@dataclass(frozen=True)
class _Done:
    """One task done: its runs, one a number of clients, and the seconds that these took, and their prompts."""

    task: Task
    work: Workload
    runs: Sequence[Run]
    shared: Sequence[fleet.Shared]
    took: float
    prompts: float

    @property
    def summaries(self) -> list[Summary]:
        return [summarise(run.clients, run.records, self.work.duration) for run in self.runs]

    @property
    def seconds(self) -> float:
        """On the simulated clock."""
        return sum(max((record.end for record in run.records), default=0.0) for run in self.runs)


def run(tasks: Sequence[Task], context: Context) -> None:
    """See `tgi_server.jobs.simulate.Simulate.perform`."""
    for task in tasks:
        check(task.job, task.run.config)
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as directory:
        log.setup(tasks[0].run.config, "simulate")
        done = [_simulated(task, _simulator(task, context, Path(directory))) for task in tasks]
    _tell(done)
    for each in done:
        _write(each)


def _simulator(task: Task, context: Context, directory: Path) -> Simulator:
    """One that knows what the task's steps cost, which is measured where it is not known."""
    options: SimulateOptions = task.job
    config = task.run.config
    path = options.costs_path
    look = predict.until(context.stop)
    with _progress(bar=not config.json_output) as tell:
        if path is None:
            return Predictor(context.stage, directory, options.cost_seconds, look).learn(task, tell)
        if not path.exists():
            predict.measured(context.stage, task, options.cost_seconds, tell).write(path)
    return Simulator(Learned.read(path, config), look)


@contextlib.contextmanager
def _progress(bar: bool) -> Iterator[Callable[[str, float], None]]:
    progress = Progress("measuring what steps cost", bar=bar)
    try:
        yield lambda stage, part: progress.show(part, [])
    finally:
        progress.finish()


def _simulated(task: Task, simulator: Simulator) -> _Done:
    work, servers = fleet.work(task.job), Fleet.of(task.job)
    began, before = time.perf_counter(), simulator.prompt_seconds
    made = [
        simulator.records(task.run.config, work, clients, number, servers)
        for number, clients in enumerate(work.clients)
    ]
    prompts = simulator.prompt_seconds - before
    took = time.perf_counter() - began - prompts
    runs = [Run(clients, records) for clients, records in zip(work.clients, made, strict=True)]
    return _Done(task, work, runs, [fleet.Shared.of(records, servers.replicas) for records in made], took, prompts)


def _tell(done: Sequence[_Done]) -> None:
    """One table of all points, and how fast that was."""
    summaries = [summary for each in done for summary in each.summaries]
    lines = report.table(summaries).split("\n")
    if any(each.task.job.replicas > 1 for each in done):
        more = fleet.table([shared for each in done for shared in each.shared])
        lines = [*(f"{line}  {beside}" for line, beside in zip(lines, more, strict=False)), lines[-1]]
    if len(done) > 1:
        settings = describe.varied([each.task.run.config for each in done])
        names = [" ".join(words) for each, words in zip(done, settings, strict=True) for _ in each.runs]
        width = max(map(len, names))
        lines = [f"{name:<{width}}  {line}" for name, line in zip(["", *names, ""], lines, strict=True)]
    print("\n".join(line.rstrip() for line in lines))
    for summary in summaries:
        if summary.first_error:
            print(f"{summary.clients} clients: {summary.failed} failed; the first: {summary.first_error}")
    seconds, took = sum(each.seconds for each in done), sum(each.took for each in done)
    prompts = sum(each.prompts for each in done)
    print(f"simulated {seconds:.0f} s in {took:.2f} s, {seconds / took:.0f} times faster than the clock", end="; ")
    print(f"to make and tokenise the prompts took {prompts:.2f} s")


def _write(done: _Done) -> None:
    options: SimulateOptions = done.task.job
    if options.output is None:
        return
    facts = {
        "version": tgi_server.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "simulated": True,
        "model": done.task.run.config.model_id,
        "workload": asdict(done.work),
    }
    report.write(Path(options.output), facts, done.runs, done.summaries)
