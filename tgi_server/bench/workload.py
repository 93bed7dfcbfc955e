"""What is asked of a server: prompts, how many at a time, when."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, cycle
from pathlib import Path
from typing import Any, TypeVar

from tgi_server.bench import prompts, sampling
from tgi_server.bench import traffic as traffics
from tgi_server.bench.options import BenchOptions, Texts
from tgi_server.errors import UsageError
from tgi_server.traffic import Traffic

_AT_A_TIME = 256
"""Requests under way in an open loop where `clients` is not given."""
_SECONDS = 10.0
"""Length of a measurement where neither `requests` nor `duration` is given."""
_NEW_TOKENS = 128
_TOO_LARGE = 1 << 63
"""JSON, in requests and in the file of the results, has no numbers from here on."""


_T = TypeVar("_T")


@dataclass(frozen=True)
class Request:
    """One request of a run.

    Attributes:
        number: from 0 on, in the order in which requests are due.
        new_tokens: how many to generate.
        at: seconds from the beginning of the run to its arrival; None in a closed loop.
        pieces: what its prompt is made of, as (origin, up to this token); prompts of one run begin with the same tokens
            as far as their pieces agree. Empty where the prompt is a text whose number of tokens nobody has counted.
        after: number of the earlier request whose conversation it goes on; a closed loop sends it when that is done.
        run: which run's tokens these are: other runs have others.
        written: the prompt, where it is not made of `pieces`.
    """

    number: int
    new_tokens: int
    at: float | None
    pieces: tuple[tuple[int, int], ...]
    after: int | None
    run: str
    written: str | None = None

    @property
    def prompt_tokens(self) -> int | None:
        """Length of the prompt, each word one token; None where it is not known."""
        return self.pieces[-1][1] if self.pieces else None

    @cached_property
    def text(self) -> str:
        """The prompt."""
        return " ".join(self._chosen(prompts.WORDS)) if self.written is None else self.written

    def prompt_ids(self, vocabulary: int) -> list[int]:
        """Token ids below `vocabulary` for a prompt of these lengths, which begin alike where the texts do."""
        return self._chosen(range(vocabulary))

    def _chosen(self, choices: Sequence[_T]) -> list[_T]:
        chosen: list[_T] = []
        for origin, stop in self.pieces:
            # an origin's token at a place is the same whoever has it
            chosen += random.Random(f"{self.run} {origin}").choices(choices, k=stop)[len(chosen) :]
        return chosen


@dataclass(frozen=True)
class Workload:
    """One kind of work, the same for every server and every number of clients.

    Attributes:
        clients: requests at a time, one measurement each.
        rate: arrivals a second at random moments, None for others.
        speed: how many times as fast as the traffic says requests arrive. Where this and `rate` are None the loop is
            closed: a client sends when its last answer is complete.
        prompts: texts of a file; empty: they are made up.
        kind: what of, `lengths` (fewest, most) of them if it is random words.
        duration: seconds in which new requests are sent.
        sampling: what requests say about the choice of tokens.
        traffic: lengths and arrivals; None: `prompts`, `kind`, `lengths` and `new_tokens` say what requests are.
    """

    clients: tuple[int, ...]
    rate: float | None
    prompts: tuple[str, ...]
    kind: Texts
    lengths: tuple[int, int]
    new_tokens: int
    requests: int | None
    duration: float | None
    warmup: int | None
    time_limit: float
    seed: int
    sampling: Mapping[str, Any]
    speed: float | None = None
    traffic: Traffic | None = None

    @classmethod
    def of(cls, options: BenchOptions) -> Workload:
        """The work that the options describe. Raises UsageError."""
        rate, speed = options.request_rate, _speed(options)
        open_loop = rate or speed
        clients = numbers("clients", options.clients) if options.clients else ((_AT_A_TIME if open_loop else 1),)
        if open_loop and len(clients) > 1:
            cause = "request_rate" if rate else "traffic_speed"
            raise UsageError(f"clients={options.clients}: with {cause} one number, the most requests at a time")
        _check_prompts(options)
        for name in ("requests", "warmup", "new_tokens", "seed", "sampling_seed", "top_k"):
            if (getattr(options, name) or 0) >= _TOO_LARGE:
                raise UsageError(f"{name}={getattr(options, name)}: too large")
        unlimited = options.requests is None and options.duration is None
        return cls(
            clients=clients,
            rate=rate,
            prompts=_lines(options.prompts) if options.prompts else (),
            kind=options.workload,
            lengths=_lengths(options.prompt_tokens or "80"),
            new_tokens=options.new_tokens or _NEW_TOKENS,
            requests=options.requests,
            duration=_SECONDS if unlimited else options.duration,
            warmup=options.warmup,
            time_limit=options.time_limit,
            seed=options.seed,
            sampling=sampling.fields(options),
            speed=speed,
            traffic=None if options.traffic is None else traffics.find(options.traffic),
        )

    @property
    def closed(self) -> bool:
        """Whether requests wait for answers instead of having moments of their own."""
        return self.rate is None and self.speed is None

    def asked(self, run: str) -> Iterator[Request]:
        """Requests without end, in the order in which they are due. Runs of other names have other words."""
        own, salt = self.traffic, f"{self.seed} {run}"
        moments = poisson(self.rate, self.seed) if self.rate else None
        requests = self._without_traffic(run, salt) if own is None else _played(own, self.speed, salt)
        for request in requests:
            yield request if moments is None else replace(request, at=next(moments))

    def _without_traffic(self, run: str, salt: str) -> Iterator[Request]:
        texts = self.texts(run)
        for number, text in enumerate(texts):
            words = not self.prompts and self.kind is Texts.random
            pieces = ((number, text.count(" ") + 1),) if words else ()
            yield Request(number, self.new_tokens, None, pieces, None, salt, text)

    def texts(self, run: str) -> Iterator[str]:
        """Prompts without end. Those made up differ from run to run, so that no cache of an earlier run helps."""
        made = _made(self.kind, self.lengths, random.Random(f"{self.seed} {run}"))
        return cycle(self.prompts) if self.prompts else made


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Times of arrivals, in seconds and without end: independent of each other, `rate` a second on average."""
    random_gap = random.Random(seed)
    moment = 0.0
    while True:
        moment += random_gap.expovariate(rate)
        yield moment


def _played(traffic: Traffic, speed: float | None, run: str) -> Iterator[Request]:
    """A traffic over and over, each round with words of its own."""
    size, order = len(traffic.requests), traffic.order
    places = {line: place for place, line in enumerate(order)}
    first = traffic.requests[order[0]].at
    for round in count():
        for place, line in enumerate(order):
            asked, before = traffic.requests[line], traffic.follows(line)
            at = None if speed is None else (round * traffic.period + asked.at - first) / speed
            pieces = tuple((round * size + origin, stop) for origin, stop in traffic.pieces[line])
            known = before is not None and places[before] < place
            after = round * size + places[before] if before is not None and known else None
            yield Request(round * size + place, asked.new, at, pieces, after, run)


def numbers(name: str, text: str) -> tuple[int, ...]:
    """`8`, `1,8,32` or `[1, 8, 32]` as numbers. Raises UsageError."""
    inner = re.fullmatch(r"\s*\[(.*)\]\s*", text)
    items = (inner[1] if inner else text).split(",")
    if not all(re.fullmatch(r"\s*0*[1-9]\d{0,5}\s*", item) for item in items):
        raise UsageError(f"{name}={text}: expected a number from 1 on, or several: 1,8,32")
    return tuple(int(item) for item in items)


def _speed(options: BenchOptions) -> float | None:
    """None where a traffic's own arrivals are not those asked for."""
    if options.traffic is None and options.traffic_speed is not None:
        raise UsageError(f"traffic_speed={options.traffic_speed:g}: has no effect without traffic")
    if options.request_rate is not None and options.traffic_speed is not None:
        raise UsageError("traffic_speed and request_rate exclude each other: both say when requests arrive")
    if options.traffic is None or options.request_rate is not None:
        return None
    return options.traffic_speed or (None if options.clients else 1.0)


def _check_prompts(options: BenchOptions) -> None:
    if options.traffic is not None:
        given = [name for name in ("prompts", "prompt_tokens", "new_tokens") if getattr(options, name) is not None]
        given += ["workload"] if options.workload is not Texts.random else []
        if given:
            raise UsageError(f"{given[0]} and traffic exclude each other: the traffic says what requests are")
    if options.prompts is not None and options.prompt_tokens is not None:
        raise UsageError("prompts and prompt_tokens exclude each other: prompts come from the file as they are")
    if options.workload is Texts.random:
        return
    for name in ("prompts", "prompt_tokens"):
        if getattr(options, name) is not None:
            raise UsageError(f"{name} and workload={options.workload.name} exclude each other")


def _lengths(text: str) -> tuple[int, int]:
    bounds: Sequence[str] = text.split("-")
    if len(bounds) > 2 or not all(re.fullmatch(r"0*[1-9]\d{0,6}", bound) for bound in bounds):
        raise UsageError(f"prompt_tokens={text}: expected a number from 1 on, or two: 64-256")
    fewest, most = int(bounds[0]), int(bounds[-1])
    if fewest > most:
        raise UsageError(f"prompt_tokens={text}: the first number must not be the larger one")
    return fewest, most


def _lines(path: str) -> tuple[str, ...]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").split("\n")  # not at U+2028 and the like
    except OSError as error:
        raise UsageError(f"prompts={path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"prompts={path}: not a text in UTF-8") from None
    texts = tuple(line for line in lines if line.strip())
    if not texts:
        raise UsageError(f"prompts={path}: the file has no prompts")
    return texts


def _made(kind: Texts, lengths: tuple[int, int], chance: random.Random) -> Iterator[str]:
    """Prompts without end that are made up."""
    for number in count():
        match kind:
            case Texts.random:
                yield prompts.random_words(chance, lengths)
            case Texts.ordinary:
                yield prompts.ordinary(chance)
            case Texts.repetitive:
                yield prompts.repetitive(chance, number)
