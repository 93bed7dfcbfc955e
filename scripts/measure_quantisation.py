"""What each method of quantisation does to a model. See scripts/measure-quantisation."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scripts.quantisation import memory, page, perplexity, speed
from scripts.quantisation.contenders import BASELINE, OURS, THEIRS, Contender, chosen, groups
from scripts.quantisation.models import DEMO, LARGE, MODELS, Model
from scripts.quantisation.results import Results
from scripts.quantisation.servers import llama, ours, running
from scripts.quantisation.speed import Asked

DOCS = Path(__file__).parents[1] / "docs"


@dataclass
class Measurement:
    """The command line, ours and llama.cpp's that are measured, and the numbers so far."""

    given: argparse.Namespace
    contenders: Sequence[Contender]
    rivals: Sequence[Contender]
    results: Results

    def model(self, name: str) -> Model:
        """One of the two."""
        return Model(name, self.given.work)

    def keep(self) -> None:
        """After each number that took long: what is stopped goes on from there."""
        self.results.write(self.given.json)

    def checkpoints(self) -> None:
        """Make what the other parts serve."""
        for model in map(self.model, MODELS):
            for each in self.contenders:
                model.make(each)
            for rival in self.rivals:
                model.make_file(rival.kind or "", self.given.llama_server.parent / "llama-quantize")

    def weights(self) -> None:
        """Bytes that a loaded model keeps."""
        for model in map(self.model, MODELS):
            for each in self.contenders:
                size = memory.weight_bytes(model, each)
                print(f"{model.name}, {each.name}: {size / 1e6:.1f} MB", file=sys.stderr)
                self.results.put("weights", model.name, each.name, {"bytes": size})
        self.keep()

    def perplexity(self) -> None:
        """On the text, of the demo model."""
        for each in self.contenders:
            value = perplexity.served(self.model(DEMO), each)
            print(f"{each.name}: perplexity {value:.4f}", file=sys.stderr)
            self.results.put("perplexity", DEMO, each.name, {"perplexity": round(value, 4)})
            self.keep()

    def bitsandbytes(self) -> None:
        """The same of what the bitsandbytes package makes of the model."""
        python = perplexity.python_with_bitsandbytes(self.given.bitsandbytes_python, self.given.work)
        for kind, value in perplexity.by_bitsandbytes(self.model(DEMO), python).items():
            print(f"the package's {kind}: perplexity {value:.4f}", file=sys.stderr)
            self.results.put("package", DEMO, kind, {"perplexity": round(value, 4)})
        self.keep()

    def starts(self) -> None:
        """Of the demo model; the large one is started for its speed anyway."""
        seconds = memory.without_caches(self.model(DEMO), self.contenders[0])
        self.results.put("without caches", DEMO, BASELINE, {"seconds": seconds})
        for name, values in memory.starts(self.model(DEMO), self.contenders, self.given.rounds[0]).items():
            self.results.put("starts", DEMO, name, values)
        self.keep()

    def speed_demo(self) -> None:
        """Tokens a second of the demo model."""
        self._speed(self.model(DEMO), [*self.contenders, *self.rivals])

    def speed_large(self) -> None:
        """The same of the large one, and its starts: in two runs, as not all of them fit into memory."""
        for group in groups([*self.contenders, *self.rivals]):
            self._speed(self.model(LARGE), group)

    def _speed(self, model: Model, contenders: Sequence[Contender]) -> None:
        given = self.given
        with ExitStack() as stack:
            asked = [Asked(each.name, self._start(stack, model, each)) for each in contenders]
            rates = speed.rates(asked, rounds(given), given.new_tokens)
        self.results.add_speeds(model.name, rates, {"new_tokens": given.new_tokens})
        self.keep()

    def _start(self, stack: ExitStack, model: Model, each: Contender) -> int:
        """Its port. One by one: while a server starts those before it have nothing to do."""
        print(f"{model.name} model: {each.name} starts", file=sys.stderr)
        if each.kind is not None:
            return stack.enter_context(llama(self.given.llama_server, model.file(each.kind)))
        server = ours(model, each)
        seconds = stack.enter_context(running(server))
        if model.name == LARGE:
            self.results.put("starts", model.name, each.name, {"second": round(seconds, 2), **memory.memory(server)})
        return server.port

    def page(self) -> None:
        """Write the document."""
        self.given.page.write_text(page.written(self.results))


PARTS: dict[str, Callable[[Measurement], None]] = {
    "checkpoints": Measurement.checkpoints, "weights": Measurement.weights, "perplexity": Measurement.perplexity,
    "bitsandbytes": Measurement.bitsandbytes, "starts": Measurement.starts, "speed-demo": Measurement.speed_demo,
    "speed-large": Measurement.speed_large, "page": Measurement.page,
}  # fmt: skip


NAMES = ", ".join(repr(each.name) if " " in each.name else each.name for each in [*OURS, *THEIRS])


def rounds(given: argparse.Namespace) -> dict[int, int]:
    """Of each number of clients; ValueError for too few or too many."""
    each = given.rounds * len(given.clients) if len(given.rounds) == 1 else given.rounds
    if len(each) != len(given.clients) or min(each) < 1:
        raise ValueError("--rounds: expected one number from 1 on, or as many as there are in --clients")
    return dict(zip(given.clients, each, strict=True))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="measure-quantisation", description=__doc__)
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    made.add_argument("--contenders", nargs="+", metavar="NAME", help=f"of {NAMES} [all]")
    made.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="requests at a time [1 8 32]")
    made.add_argument(
        "--rounds", type=int, nargs="+", default=[3], help="in turns, medians count: for all, or each of --clients [3]"
    )
    made.add_argument("--new-tokens", type=int, default=128, help="of a request [128]")
    made.add_argument("--llama-server", type=Path, metavar="PATH", help="llama.cpp's, llama-quantize beside it")
    made.add_argument("--bitsandbytes-python", type=Path, metavar="PATH", help="that has the package; made if need be")
    made.add_argument("--work", type=Path, default=Path("build/quantisation"), help="for what is made [%(default)s]")
    made.add_argument(
        "--json", type=Path, default=DOCS / "quantisation.json", help="the numbers [docs/quantisation.json]"
    )
    made.add_argument("--page", type=Path, default=DOCS / "quantisation.md", help="the document [docs/quantisation.md]")
    return made


def main() -> None:
    given = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Error: stopped"))  # and what was started with it
    given.work = given.work.absolute()
    given.work.mkdir(parents=True, exist_ok=True)
    try:
        all_chosen = chosen(given.contenders)
        rounds(given)
    except ValueError as error:
        sys.exit(f"Error: {error}")
    own = [each for each in all_chosen if each.kind is None]
    rivals = [each for each in all_chosen if each.kind is not None and given.llama_server is not None]
    measurement = Measurement(given, own, rivals, Results.read(given.json))
    for name in PARTS:
        if name in given.only:
            PARTS[name](measurement)


if __name__ == "__main__":
    main()
