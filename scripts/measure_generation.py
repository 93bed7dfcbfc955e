"""What sampling costs, and what guessing ahead brings. See scripts/measure-generation."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.generation import page, processors, texts, ways
from scripts.generation.guesses import Tally
from scripts.quantisation import speed
from scripts.quantisation.results import Rates, Results
from scripts.quantisation.servers import MOST_CLIENTS, running
from scripts.quantisation.speed import Asked
from tests.integration.server import Server

DOCS = Path(__file__).parents[1] / "docs"
ROOM = 512
"""Tokens of cache a client: the longest prompt, the new tokens and guesses."""
QUICK: Mapping[str, object] = {"clients": [1, 2], "rounds": 1, "new_tokens": 8}


@contextmanager
def served(*options: str) -> Iterator[Server]:
    """A server of the demo model that is ready, with room for all clients."""
    server = Server("model=smollm2", f"max_batch_total_tokens={MOST_CLIENTS * ROOM}", *options)
    with running(server):
        yield server


@dataclass
class Measurement:
    """The command line, and the numbers so far."""

    given: argparse.Namespace
    results: Results

    def sampling(self) -> None:
        """Each way to choose tokens, of one server."""
        with served(f"dtype={self.given.dtype}") as server:
            asked = [Asked(name, server.port, fields, ways.TURNS) for name, fields in ways.SAMPLING.items()]
            rates = speed.rates(asked, self._rounds, self.given.new_tokens)
        self._keep_rates("sampling", rates)

    def speculation(self) -> None:
        """Each way to guess, in a server of its own, on each kind of work."""
        with ExitStack() as stack:
            ports = {name: self._start(stack, options) for name, options in ways.SPECULATION.items()}
            for workload in self.given.workloads:
                tally = Tally()
                asked = [Asked(name, port, ways.WORKLOADS[workload], ways.TURNS) for name, port in ports.items()]
                rates = speed.rates(asked, self._rounds, self.given.new_tokens, tally.told)
                self._keep_rates(workload, rates)
                for name in ports:
                    self.results.put("guesses", workload, name, {"clients": tally.results(name)})
                self._keep()

    def texts(self) -> None:
        """Whether guessing changes texts: one server after the other, in float32."""
        prompts = texts.prompts(2 if self.given.quick else 2 * texts.TOGETHER)
        expected: dict[str, list[str]] = {}
        for name, options in ways.SPECULATION.items():
            with served("dtype=float32", *options) as server:
                alone, together = (
                    texts.written(server.client, prompts, self.given.new_tokens, count) for count in (1, texts.TOGETHER)
                )
            expected = expected or alone
            found = [texts.compared(each, expected) for each in (alone, together)]
            self.results.put("texts", "float32", name, {key: sum(each[key] for each in found) for key in found[0]})
            print(f"{name}: {found} as without guesses", file=sys.stderr)
            self._keep()

    def processors(self) -> None:
        """The choice alone, without a model."""
        seconds = 1.0 if self.given.quick else processors.SECONDS
        for name, costs in processors.measured(seconds).items():
            self.results.put("processors", "cpu", name, costs)
        self._keep()

    def page(self) -> None:
        """Write the section."""
        self.given.page.write_text(page.written(self.results, self.given.page.read_text()))

    def _start(self, stack: ExitStack, options: list[str]) -> int:
        """Its port. One by one: while a server starts those before it have nothing to do."""
        print(f"{' '.join(options)} starts", file=sys.stderr)
        return stack.enter_context(served(f"dtype={self.given.dtype}", *options)).port

    @property
    def _rounds(self) -> Mapping[int, int]:
        return dict.fromkeys(self.given.clients, self.given.rounds)

    def _keep_rates(self, name: str, rates: Rates) -> None:
        about = {"new_tokens": self.given.new_tokens, "dtype": self.given.dtype}
        self.results.add_speeds(name, rates, about)
        self._keep()

    def _keep(self) -> None:
        """After each number that took long: what is stopped goes on from there."""
        self.results.write(self.given.json)


PARTS: dict[str, Callable[[Measurement], None]] = {
    "sampling": Measurement.sampling, "speculation": Measurement.speculation, "texts": Measurement.texts,
    "processors": Measurement.processors, "page": Measurement.page,
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="measure-generation", description=__doc__)
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    made.add_argument(
        "--workloads", nargs="+", choices=ways.WORKLOADS, default=list(ways.WORKLOADS), metavar="NAME",
        help=f"of {', '.join(ways.WORKLOADS)} [all]",
    )  # fmt: skip
    made.add_argument("--clients", type=int, nargs="+", default=list(ways.CLIENTS), help="requests at a time [1 8 32]")
    made.add_argument("--rounds", type=int, default=3, help="in turns; medians count [%(default)s]")
    made.add_argument("--new-tokens", type=int, default=128, help="of a request [%(default)s]")
    made.add_argument("--dtype", default="float32", help="of the servers whose speed is measured [%(default)s]")
    made.add_argument("--quick", action="store_true", help="to try it out: 2 clients, 8 tokens, one round")
    made.add_argument("--json", type=Path, default=DOCS / "generation.json", help="numbers [docs/generation.json]")
    made.add_argument("--page", type=Path, default=DOCS / "benchmarks.md", help="document [docs/benchmarks.md]")
    return made


def main() -> None:
    given = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Error: stopped"))  # and what was started with it
    if given.quick:
        vars(given).update(QUICK)
    measurement = Measurement(given, Results.read(given.json))
    for name in PARTS:
        if name in given.only:
            PARTS[name](measurement)


if __name__ == "__main__":
    main()
