"""Several running servers on the same work, in turns, as a Markdown table: `python -m tgi_server.bench.compare`."""

from __future__ import annotations

import argparse
import asyncio
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from tgi_server.bench.http import BenchError, Target
from tgi_server.bench.load import find_model, measure
from tgi_server.bench.machine import facts
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.report import check_output, number
from tgi_server.bench.summary import Summary, summarise
from tgi_server.bench.workload import Workload
from tgi_server.errors import TgiError, UsageError


@dataclass
class Contender:
    """One server and its measurements, `summaries[clients]` one a round."""

    name: str
    target: Target
    model: str | None = None
    summaries: dict[int, list[Summary]] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print or write the table, and write the medians where asked to; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(words)
    try:
        work = _work(arguments)
        contenders = list(_contenders(arguments.servers))
        for option, path in (("--output", arguments.output), ("--json", arguments.json)):
            if path is not None:
                check_output(option, path)
        asyncio.run(_measure(contenders, work, arguments.rounds))
        command = shlex.join(["./scripts/compare", *words])
        text = markdown(contenders, work, arguments.rounds, command)
        if arguments.output is None:
            print(text, end="")
        else:
            arguments.output.write_text(text, encoding="utf-8")
        if arguments.json is not None:
            arguments.json.write_bytes(orjson.dumps({"command": command, "machine": facts(), **medians(contenders)}))
    except KeyboardInterrupt:
        print("Error: stopped before everything was measured", file=sys.stderr)
        return 1
    except (TgiError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compare", description=__doc__)
    parser.add_argument("servers", nargs="+", metavar="NAME=URL[#MODEL]", help="the first is compared with the others")
    parser.add_argument("--clients", default="1,8,32", help="requests at a time [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, of which the median counts")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds a measurement [%(default)s]")
    parser.add_argument("--prompt-tokens", default="80", help="roughly; one length, or two: 64-256 [%(default)s]")
    parser.add_argument("--new-tokens", type=int, default=128, help="tokens to generate a request [%(default)s]")
    parser.add_argument("--output", type=Path, help="Markdown file; standard output when not given")
    parser.add_argument("--json", type=Path, help="file for the medians, which plot-clients draws")
    return parser


def _work(arguments: argparse.Namespace) -> Workload:
    if arguments.rounds < 1 or not 0 < arguments.duration < math.inf or arguments.new_tokens < 1:
        raise UsageError("--rounds, --duration and --new-tokens must be positive and finite")
    options = BenchOptions(
        clients=arguments.clients,
        duration=arguments.duration,
        prompt_tokens=arguments.prompt_tokens,
        new_tokens=arguments.new_tokens,
    )
    work = Workload.of(options)
    if len(set(work.clients)) < len(work.clients):
        raise UsageError(f"--clients={arguments.clients}: a number is there twice")
    return work


def _contenders(servers: Sequence[str]) -> Iterator[Contender]:
    names = [server.partition("=")[0] for server in servers]
    if len(set(names)) < len(names):
        raise UsageError("each server needs a name of its own")
    for server in servers:
        name, _, place = server.partition("=")
        url, _, model = place.partition("#")
        if not name or "|" in name or not url:  # a table has the names between bars
            raise UsageError(f"{server}: servers are written NAME=URL or NAME=URL#MODEL, and names without |")
        yield Contender(name, Target.parse(url), model or None)


async def _measure(contenders: Sequence[Contender], work: Workload, rounds: int) -> None:
    """A B A B ...: what else happens on the machine meets all of them."""
    for contender in contenders:
        contender.model = contender.model or await find_model(contender.target)
    for round in range(rounds):
        for clients in work.clients:
            for contender in contenders:
                summary = await _one(contender, work, clients, round)
                contender.summaries.setdefault(clients, []).append(summary)
                rate = number(summary.tokens_per_second)
                print(f"round {round + 1}, {clients} clients, {contender.name}: {rate} tokens/s", file=sys.stderr)


async def _one(contender: Contender, work: Workload, clients: int, round: int) -> Summary:
    run = round * len(work.clients) + work.clients.index(clients)
    measured = await measure(contender.target, contender.model, work, clients, run, lambda *_: None)
    summary = summarise(clients, measured.records, work.duration)
    if summary.first_error:
        raise BenchError(f"{contender.name}: {summary.failed} requests failed; the first: {summary.first_error}")
    if not summary.tokens_per_second:
        raise BenchError(f"{contender.name}: no token came in time; --duration is too short")
    return summary


def markdown(contenders: Sequence[Contender], work: Workload, rounds: int, command: str) -> str:
    """The page: machine, command, medians and ratios."""
    head = ["clients", "server", "tokens/s", f"{contenders[0].name} is", "first token p50", "between tokens p50", "p99"]
    rows = [_row(contenders[0], contender, clients) for clients in work.clients for contender in contenders]
    lines = [
        f"Medians of {rounds} rounds in turns, {datetime.now(UTC):%Y-%m-%d}; times in ms.",
        "",
        *(f"* {name}: {value}" for name, value in {**facts(), **_sizes(contenders)}.items()),
        f"* Command: `{command}`",
        "",
        *(f"| {' | '.join(cells)} |" for cells in [head, ["---:"] * len(head), *rows]),
    ]
    return "\n".join(lines) + "\n"


def _sizes(contenders: Sequence[Contender]) -> Mapping[str, str]:
    """Mean lengths as each server counts them: where they differ, the servers did not do the same work."""
    sizes = {}
    for contender in contenders:
        all_summaries = [summary for summaries in contender.summaries.values() for summary in summaries]
        told = [summary.prompt_tokens for summary in all_summaries if summary.prompt_tokens is not None]
        new = number(median(summary.new_tokens for summary in all_summaries), 0)
        prompt = number(median(told) if told else None, 0)
        sizes[contender.name] = f"{contender.model or 'model not named'}, {prompt} tokens in, {new} out"
    return sizes


def _row(first: Contender, contender: Contender, clients: int) -> list[str]:
    mine, others = first.summaries[clients], contender.summaries[clients]
    # Of one round each, then the median: a slow minute of the machine is in both numbers.
    ratios = [a.tokens_per_second / b.tokens_per_second for a, b in zip(mine, others, strict=True)]
    ratio = "" if contender is first else f"{median(ratios):.2f} times"
    run = _median(contender, clients)
    times = [run["first_token"]["p50"], run["between_tokens"]["p50"], run["between_tokens"]["p99"]]
    rate = number(run["tokens_per_second"])
    return [str(clients), contender.name, rate, ratio, *(number(1000 * value) for value in times)]


def medians(contenders: Sequence[Contender]) -> dict[str, Any]:
    """The numbers of the table, for programs: the runs of each server, named as `job=bench` names them; in seconds."""
    runs = {each.name: [_median(each, clients) for clients in each.summaries] for each in contenders}
    return {"servers": {name: {"runs": each} for name, each in runs.items()}}


def _median(contender: Contender, clients: int) -> dict[str, Any]:
    rounds = contender.summaries[clients]
    return {
        "clients": clients,
        "tokens_per_second": median(summary.tokens_per_second for summary in rounds),
        "first_token": {"p50": median(summary.first_token.p50 for summary in rounds)},
        "between_tokens": {
            "p50": median(summary.between_tokens.p50 for summary in rounds),
            "p99": median(summary.between_tokens.p99 for summary in rounds),
        },
    }


if __name__ == "__main__":
    sys.exit(main())
