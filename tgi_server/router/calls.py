"""The life of one request between HTTP and the engine: its permits, its validation, its times."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from msgspec import Struct
from quart import request
from tokenizers import Tokenizer

from tgi_server.engine.engine import Engine
from tgi_server.engine.generation import Generation
from tgi_server.errors import IncompleteGenerationError, TgiError
from tgi_server.router.book import Book, Times
from tgi_server.router.validate import Limits, Prepared
from tgi_server.telemetry.metrics import Metrics
from tgi_server.telemetry.tracing import CONTEXT, Span, Tracer, Untraced
from tgi_server.types import Finish, GenerationRequest, Token, TokenEvent

UNTRACED = Untraced()

Prepare = Callable[[Limits, Tokenizer, int], Prepared]
"""Validation with tokenising; the integer is the seed for a client that gives none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished generation; `others` are the candidates that were less likely."""

    prompt: list[Token]
    events: list[TokenEvent]
    finish: Finish
    others: list[Answer] = field(default_factory=list)

    @property
    def mean_logprob(self) -> float:
        """Of its generated tokens."""
        return sum(event.token.logprob or 0.0 for event in self.events) / len(self.events)


@dataclass(slots=True)
class Call:
    """An admitted request. Times are seconds; `arrived` and `queued` are on the monotonic clock.

    `candidates` generate at the same time; `generation` is the one whose times are told, the likeliest of them once
    all are done.
    """

    prepared: Prepared
    candidates: list[Generation]
    arrived: float
    queued: float
    book: Book
    generation: Generation = field(init=False)
    finish: Finish | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.generation = self.candidates[0]

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt that the model sees."""
        return len(self.prepared.request.prompt_ids)

    @property
    def validation_time(self) -> float:
        """From arrival to the engine's queue."""
        return self.queued - self.arrived

    @property
    def total_time(self) -> float:
        """From arrival to now."""
        return time.monotonic() - self.arrived

    async def drain(self) -> list[TokenEvent]:
        """All events that are ready, once there is one; of a request with one candidate. Safe to cancel.

        Raises:
            GenerationError: a shard failed.
            IncompleteGenerationError: the generation is over without a last token.
        """
        events = await _drain(self.generation)
        if finish := events[-1].finish:
            self._close(finish)
        return events

    async def answer(self) -> Answer:
        """The whole generation: the likeliest candidate, of equal ones the first. Raises what `drain` raises."""
        answers = [await _whole(candidate) for candidate in self.candidates]  # they run whether or not they are read
        best = max(range(len(answers)), key=lambda index: answers[index].mean_logprob)
        self.generation = self.candidates[best]
        self._close(answers[best].finish)
        return replace(answers[best], others=answers[:best] + answers[best + 1 :])

    def _close(self, finish: Finish) -> None:
        self.finish = finish
        generation = self.generation
        times = Times(self.total_time, self.validation_time, generation.queue_time, generation.inference_time)
        self.book.finished(times, finish)


async def _drain(generation: Generation) -> list[TokenEvent]:
    events = await generation.drain()
    if not events:
        raise IncompleteGenerationError()
    return events


async def _whole(generation: Generation) -> Answer:
    events: list[TokenEvent] = []
    while not events or events[-1].finish is None:
        events += await _drain(generation)
    assert events[-1].finish is not None
    return Answer(generation.prompt, events, events[-1].finish)


class Calls:
    """Admits requests to the engine and keeps the books about them.

    Args:
        pool: the threads that tokenise and check.
        tracer: where requests leave a trace.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        limits: Limits,
        pool: ThreadPoolExecutor,
        metrics: Metrics,
        tracer: Tracer,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.pool = pool
        self.limits = limits
        self._metrics = metrics
        self._tracer = tracer

    def span(self) -> Span:
        """A span for the HTTP request that is handled now."""
        context = {name: request.headers[name] for name in CONTEXT if name in request.headers}
        return self._tracer.begin(f"{request.method} {request.path}", context)

    @asynccontextmanager
    async def begin(
        self,
        prepare: Prepare,
        parameters: Struct,
        check: Callable[[], None] | None = None,
        candidates: int = 1,
        span: Span = UNTRACED,
    ) -> AsyncIterator[Call]:
        """Take a permit for each of the `candidates`, validate, and queue them; leaving ends them, wherever they are.

        `check` runs before a permit is taken, `prepare` after it in a validation thread; `parameters` is for the log.

        Raises:
            OverloadedError, ShuttingDownError: no permit.
            ValidationError, TemplateError: the request cannot run.
        """
        call: Call | None = None
        arrived = time.monotonic()
        book = Book(self._metrics, parameters, span)
        book.arrived()
        try:
            if check is not None:
                check()
            async with AsyncExitStack() as held:
                for _ in range(candidates):
                    held.enter_context(self.engine.permit())
                prepared = await self._validated(prepare)
                running = [
                    await held.enter_async_context(self.engine.generate(each))
                    for each in _candidates(prepared.request, candidates)
                ]
                call = Call(prepared, running, arrived, time.monotonic(), book)
                book.admitted(call.validation_time, prepared.request)
                yield call
        except TgiError as error:
            book.failed(error)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if call is None or call.finish is None:
                book.dropped()
            raise

    async def _validated(self, prepare: Prepare) -> Prepared:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, prepare, self.limits, self.tokenizer, random.getrandbits(64))


def _candidates(request: GenerationRequest, count: int) -> Iterator[GenerationRequest]:
    """The request, then others that differ from it in their random seed."""
    yield request
    for _ in range(count - 1):
        yield replace(request, sampling=replace(request.sampling, seed=random.getrandbits(64)))
