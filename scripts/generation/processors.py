"""What the choice of a token costs by itself: the operation `sample` on made-up scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median

import torch
from torch import Tensor

from scripts.generation import ways
from tests.sampling import rows_of
from tgi_server.bench import sampling
from tgi_server.bench.options import BenchOptions
from tgi_server.kernels.row import Needs
from tgi_server.kernels.table import best
from tgi_server.types import SamplingParams

ROWS = ways.CLIENTS
VOCABULARY = 49152
PROMPT, HISTORY = 80, 200
"""Tokens of each text before the one that is chosen, and how many of them are the prompt."""
SECONDS = 10.0
"""For each number of rows."""
SKEW = 1.5
"""How much less likely than the one before it the next likeliest token is: by its place to this power."""


def parameters(fields: Mapping[str, object]) -> SamplingParams:
    """Those of a request with these fields of the load generator."""
    sent = dict(sampling.fields(BenchOptions(**fields)))  # type: ignore[arg-type]
    del sent["ignore_eos"]
    return SamplingParams(do_sample=sent.pop("temperature") > 0, seed=7, **sent)


def scores(rows: int) -> Tensor:
    """float32 `[rows, VOCABULARY]`: a few tokens are likely, as after real texts, and anywhere in the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    falling = -SKEW * torch.arange(1, VOCABULARY + 1).log() + torch.randn(rows, VOCABULARY, generator=generator) / 2
    places = torch.stack([torch.randperm(VOCABULARY, generator=generator) for _ in range(rows)])
    return falling.gather(1, places)


def measured(seconds: float = SECONDS) -> dict[str, dict[str, float]]:
    """Microseconds a token of each way, by the number of rows; medians of calls in turns."""
    found: dict[str, dict[str, float]] = {name: {} for name in ways.SAMPLING}
    sample = best("sample", Needs(device=torch.device("cpu"), dtype=torch.float32)).run
    for rows in ROWS:
        for name, times in _times(sample, rows, seconds).items():
            found[name][str(rows)] = round(1e6 * median(times) / rows, 1)
    return found


def _times(sample: Callable[..., object], rows: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of single calls."""
    fresh, made = scores(rows), {name: parameters(fields) for name, fields in ways.SAMPLING.items()}
    texts = list(_texts(rows))
    given = {name: rows_of([each] * rows, texts, [PROMPT] * rows) for name, each in made.items()}
    times: dict[str, list[float]] = {name: [] for name in given}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not times[ways.GREEDY]:
        for name, each in given.items():
            logits = fresh.clone()
            begin = time.perf_counter()
            sample(logits, each)
            times[name].append(time.perf_counter() - begin)
    return times


def _texts(rows: int) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(rows):
        yield torch.randint(VOCABULARY, (HISTORY,), generator=generator).tolist()
