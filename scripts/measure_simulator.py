"""The simulator's error on points of the demo model, as a Markdown table. See scripts/measure-simulator."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from tests.integration.server import free_port
from tgi_server.bench import main as bench
from tgi_server.bench.load import measure
from tgi_server.bench.machine import facts
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.summary import Percentiles, Summary, summarise
from tgi_server.bench.workload import Workload, numbers
from tgi_server.config import cli, load
from tgi_server.errors import TgiError
from tgi_server.jobs.base import Task
from tgi_server.launcher import prepare
from tgi_server.launcher.stage import Stage
from tgi_server.launcher.supervise import Programs, StopSignals
from tgi_server.simulate.error import QUANTITIES, TOLERANCE, Errors, compare, doubt
from tgi_server.simulate.predict import Predictor

VARIANTS = ("max_waiting_tokens=5", "max_waiting_tokens=20", "max_batch_size=4", "prefill_chunk_tokens=128")
"""Ways to let requests in."""


@dataclass
class Point:
    """One variant with one number of clients: what was measured and what was simulated, one a repeat."""

    variant: str
    task: Task
    work: Workload
    measured: list[Summary] = field(default_factory=list)
    simulated: list[Summary] = field(default_factory=list)


def main() -> int:
    arguments = _parser().parse_args()
    stop = StopSignals()
    stop.install()
    try:
        with tempfile.TemporaryDirectory(prefix="tgi") as directory:
            text = _measured(arguments, Path(directory), stop)
    except TgiError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(text) if arguments.output is None else arguments.output.write_text(text + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="measure-simulator", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each point, in turns [%(default)s]")
    parser.add_argument("--duration", type=float, default=15.0, help="seconds of each [%(default)s]")
    parser.add_argument("--clients", default="2,8,16", help="requests at a time [%(default)s]")
    parser.add_argument("--prompt-tokens", default="64-256", help="roughly [%(default)s]")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens to generate a request [%(default)s]")
    parser.add_argument("--cost-seconds", type=float, default=45.0, help="for the costs of steps [%(default)s]")
    parser.add_argument(
        "--variants", nargs="+", default=VARIANTS, help="options, several joined by commas [%(default)s]"
    )
    parser.add_argument("--output", type=Path, help="Markdown file; standard output when not given")
    return parser


def _measured(arguments: argparse.Namespace, directory: Path, stop: StopSignals) -> str:
    """Everything, as the page."""
    common = [
        "model=smollm2", "job=bench", f"port={free_port()}", "hostname=127.0.0.1", f"master_port={free_port()}",
        f"shard_uds_path={directory}/shard", "max_concurrent_requests=16", "log_level=warn",
    ]  # fmt: skip
    points = [_point(variant, clients, common, arguments) for variant in arguments.variants
              for clients in numbers("clients", arguments.clients)]  # fmt: skip
    loads = [os.getloadavg()[0]]
    with Stage(points[0].task.arguments, Programs(), prepare.fetched, stop) as stage:
        predictor = Predictor(stage, directory, arguments.cost_seconds)
        for repeat in range(arguments.repeats):
            for variant in arguments.variants:
                some = [point for point in points if point.variant == variant]
                predictor.learn(some[0].task, lambda *_: None)
                _measure(stage, some, repeat)
            loads.append(os.getloadavg()[0])
    seconds, took = _simulate(predictor, points)
    return _page(points, arguments, loads, seconds, took)


def _point(variant: str, clients: int, common: Sequence[str], arguments: argparse.Namespace) -> Point:
    parsed = cli.parse([*common, *variant.split(",")], {})
    run = load.composition(parsed)
    work = Workload.of(
        BenchOptions(
            clients=str(clients), duration=arguments.duration, prompt_tokens=arguments.prompt_tokens,
            new_tokens=arguments.new_tokens,
        )
    )  # fmt: skip
    return Point(variant, Task(run, load.instantiate(run.config.job), parsed), work)


def _measure(stage: Stage, points: Sequence[Point], repeat: int) -> None:
    """All numbers of clients of one variant."""

    def work() -> None:
        for number, point in enumerate(points):
            (clients,) = point.work.clients
            target, _ = bench.target_of(BenchOptions(), point.task.run.config)
            run = repeat * len(points) + number
            made = asyncio.run(measure(target, None, point.work, clients, run, lambda *_: None))
            point.measured.append(summarise(clients, made.records, point.work.duration))
            rate = point.measured[-1].tokens_per_second
            print(f"repeat {repeat + 1}, {point.variant}, {clients} clients: {rate:.1f} tokens/s", file=sys.stderr)

    stage.beside(points[0].task.run, work)


def _simulate(predictor: Predictor, points: Sequence[Point]) -> tuple[float, float]:
    """The same again, simulated; returns the seconds that were simulated and those that it took."""
    seconds = took = 0.0
    for point in points:
        same = [each for each in points if each.variant == point.variant]
        simulator = predictor.learn(point.task, lambda *_: None)
        (clients,) = point.work.clients
        for repeat in range(len(point.measured)):
            run = repeat * len(same) + same.index(point)
            began = time.perf_counter()
            records = simulator.records(point.task.run.config, point.work, clients, run)
            took += time.perf_counter() - began
            seconds += max(record.end for record in records)
            point.simulated.append(summarise(clients, records, point.work.duration))
    return seconds, took


def middle(summaries: Sequence[Summary]) -> Summary:
    """The median of what is compared."""

    def percentiles(name: str) -> Percentiles:
        return Percentiles(*(median(getattr(getattr(each, name), part) for each in summaries)
                             for part in ("p50", "p95", "p99")))  # fmt: skip

    return replace(
        summaries[0], tokens_per_second=median(each.tokens_per_second for each in summaries),
        first_token=percentiles("first_token"), between_tokens=percentiles("between_tokens"),
        whole=percentiles("whole"),
    )  # fmt: skip


def _page(
    points: Sequence[Point], arguments: argparse.Namespace, loads: Sequence[float], seconds: float, took: float
) -> str:
    measured, simulated = ([middle(each) for each in some]
                           for some in ([p.measured for p in points], [p.simulated for p in points]))  # fmt: skip
    errors = compare(measured, simulated)
    head = ["options", "clients", *(f"{name}: measured, simulated" for name in QUANTITIES)]
    rows = [_row(*each) for each in zip(points, measured, simulated, strict=True)]
    told = {**facts(), "Load average, before and after each round": ", ".join(f"{load:.1f}" for load in loads)}
    return "\n".join(
        [
            f"Medians of {arguments.repeats} rounds in turns, {arguments.duration:g} s a point, prompts of "
            f"{arguments.prompt_tokens} tokens, {arguments.new_tokens} new ones; latencies in ms.",
            "",
            *(f"* {name}: {value}" for name, value in told.items()),
            "",
            *(f"| {' | '.join(cells)} |" for cells in [head, ["---", *["---:"] * (len(head) - 1)], *rows]),
            "",
            *_conclusions(errors),
            f"* Simulated {seconds:.0f} s in {took:.2f} s, {seconds / took:.0f} times faster than the clock.",
        ]
    )


def _row(point: Point, measured: Summary, simulated: Summary) -> list[str]:
    cells = []
    for name, value in QUANTITIES.items():
        real, made = value(measured), value(simulated)
        scale = 1 if name == "tokens/s" else 1000
        cells.append(f"{scale * real:.1f}, {scale * made:.1f} ({100 * (made / real - 1):+.0f} %)")
    return [f"`{point.variant}`", str(measured.clients), *cells]


def _conclusions(errors: Errors) -> list[str]:
    within, medians = errors.within(), errors.medians()
    lines = [
        f"* {name}: {within[name]} of {errors.points} within {100 * TOLERANCE:.0f} %, median error "
        f"{100 * medians[name]:.1f} %, Kendall's tau {errors.taus[name]:.2f}"
        for name in QUANTITIES
    ]  # fmt: skip
    everything = f"* All of them within {100 * TOLERANCE:.0f} %: {errors.all_within()} of {errors.points} points."
    return [*lines, everything, f"* {doubt(errors) or 'Nothing speaks against trusting it.'}"]


if __name__ == "__main__":
    sys.exit(main())
