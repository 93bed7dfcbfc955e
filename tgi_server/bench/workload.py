"""What is asked of a server: prompts, how many at a time, when."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any

from tgi_server.bench import prompts, sampling
from tgi_server.bench.options import BenchOptions, Texts
from tgi_server.errors import UsageError

_AT_A_TIME = 256
"""Requests under way in an open loop where `clients` is not given."""
_SECONDS = 10.0
"""Length of a measurement where neither `requests` nor `duration` is given."""
_TOO_LARGE = 1 << 63
"""JSON, in requests and in the file of the results, has no numbers from here on."""


@dataclass(frozen=True)
class Workload:
    """One kind of work, the same for every server and every number of clients.

    Attributes:
        clients: requests at a time, one measurement each.
        rate: arrivals a second; None is a closed loop, where a client sends when its last answer is complete.
        prompts: texts of a file; empty: they are made up.
        kind: what of, `lengths` (fewest, most) of them if it is random words.
        duration: seconds in which new requests are sent.
        sampling: what requests say about the choice of tokens.
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

    @classmethod
    def of(cls, options: BenchOptions) -> Workload:
        """The work that the options describe. Raises UsageError."""
        rate = options.request_rate
        clients = numbers("clients", options.clients) if options.clients else ((_AT_A_TIME if rate else 1),)
        if rate and len(clients) > 1:
            raise UsageError(f"clients={options.clients}: with request_rate one number, the most requests at a time")
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
            new_tokens=options.new_tokens,
            requests=options.requests,
            duration=_SECONDS if unlimited else options.duration,
            warmup=options.warmup,
            time_limit=options.time_limit,
            seed=options.seed,
            sampling=sampling.fields(options),
        )

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


def numbers(name: str, text: str) -> tuple[int, ...]:
    """`8`, `1,8,32` or `[1, 8, 32]` as numbers. Raises UsageError."""
    inner = re.fullmatch(r"\s*\[(.*)\]\s*", text)
    items = (inner[1] if inner else text).split(",")
    if not all(re.fullmatch(r"\s*0*[1-9]\d{0,5}\s*", item) for item in items):
        raise UsageError(f"{name}={text}: expected a number from 1 on, or several: 1,8,32")
    return tuple(int(item) for item in items)


def _check_prompts(options: BenchOptions) -> None:
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
