"""The life of one request between HTTP and the engine: its permits, its validation, its times."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from quart import request
from tokenizers import Tokenizer

from tgi_server.engine.engine import Engine
from tgi_server.engine.generation import Bell, Generation
from tgi_server.errors import IncompleteGenerationError, TgiError
from tgi_server.router.http.book import Book, Times
from tgi_server.router.http.identity import known_of
from tgi_server.router.http.limits import Limits, Prepared
from tgi_server.router.http.recording import Recorder
from tgi_server.router.http.trace import Origin, Trace
from tgi_server.router.http.wire import Body
from tgi_server.telemetry.metrics import Metrics
from tgi_server.telemetry.seldom import Seldom
from tgi_server.telemetry.tracing import CONTEXT, Tracer
from tgi_server.types import Finish, TokenEvent

UNKNOWN = Origin()
_CONTEXT = frozenset(name.encode() for name in CONTEXT)

Prepare = Callable[[Limits, Tokenizer, int], Prepared]
"""Validation with tokenising; the integer is the seed for a client that gives none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished generation; `others` are the candidates that were less likely."""

    prompt: list[TokenEvent]
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

    `candidates` generate at the same time and ring the same `bell`; `generation` is the one whose times are told, the
    likeliest of them where only that is the answer. `finish` is set once all are done, with the tokens of the answer.
    """

    prepared: Prepared
    candidates: list[Generation]
    bell: Bell
    arrived: float
    queued: float
    book: Book
    generation: Generation = field(init=False)
    finish: Finish | None = field(default=None, init=False)
    _open: list[tuple[int, Generation]] = field(init=False)
    _finishes: dict[int, Finish] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.generation = self.candidates[0]
        self._open = list(enumerate(self.candidates))

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompts that the model sees."""
        return self.prepared.prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """Of these tokens, those that were in the cache when the first text of each prompt began."""
        return sum(first.cached_tokens for first in self.candidates[:: self.each])

    @property
    def each(self) -> int:
        """Texts that are generated for each prompt; those of one prompt follow each other in `candidates`."""
        return len(self.candidates) // len(self.prepared.prompts)

    @property
    def validation_time(self) -> float:
        """From arrival to the engine's queue."""
        return self.queued - self.arrived

    @property
    def total_time(self) -> float:
        """From arrival to now."""
        return time.monotonic() - self.arrived

    def generated(self) -> list[int]:
        """Tokens of each candidate, of those that are not done the ones until now."""
        return [
            finish.generated_tokens if (finish := self._finishes.get(index)) else candidate.sequence.committed
            for index, candidate in enumerate(self.candidates)
        ]

    async def drain(self) -> list[tuple[int, list[TokenEvent]]]:
        """All events that are ready, once there is one, with the index of their candidate. Safe to cancel.

        Raises:
            GenerationError: a shard failed.
            IncompleteGenerationError: a generation is over without a last token.
        """
        while not (ready := self._take()):
            await self.bell.heard()
        if not self._open:
            self._close(self._together())
        return ready

    async def answers(self) -> list[Answer]:
        """The whole generations of all candidates, in their order. Raises what `drain` raises."""
        answers = await self._whole()
        self._close(self._together())
        return answers

    async def best(self) -> Answer:
        """The likeliest candidate, of equal ones the first. Raises what `drain` raises."""
        answers = await self._whole()
        best = max(range(len(answers)), key=lambda index: answers[index].mean_logprob)
        self.generation = self.candidates[best]
        self._close(answers[best].finish)
        return replace(answers[best], others=answers[:best] + answers[best + 1 :])

    async def _whole(self) -> list[Answer]:
        events: list[list[TokenEvent]] = [[] for _ in self.candidates]
        while self._open:
            ready = self._take()
            for index, some in ready:
                events[index] += some
            if not ready:
                await self.bell.heard()
        return [
            Answer(candidate.prompt, events[index], self._finishes[index])
            for index, candidate in enumerate(self.candidates)
        ]

    def _take(self) -> list[tuple[int, list[TokenEvent]]]:
        ready = [(index, events) for index, candidate in self._open if (events := candidate.take())]
        if not ready and any(candidate.over for _, candidate in self._open):
            raise IncompleteGenerationError()
        for index, events in ready:
            if finish := events[-1].finish:
                self._finishes[index] = finish
                self._open = [(other, candidate) for other, candidate in self._open if other != index]
        return ready

    def _together(self) -> Finish:
        tokens = sum(finish.generated_tokens for finish in self._finishes.values())
        return replace(self._finishes[0], generated_tokens=tokens)

    def _close(self, finish: Finish) -> None:
        self.finish = finish
        generation = self.generation
        times = Times(self.total_time, self.validation_time, generation.queue_time, generation.inference_time)
        self.book.finished(times, finish)


class Calls:
    """Admits requests to the engine and keeps the books about them.

    Args:
        pool: the threads that tokenise and check.
        grammar_pool: those that do it where grammars are made as well, so that these keep nobody else waiting.
        tracer: where requests leave a trace.
        model: the name of the model that is served, as traces call it.
        recorder: where they leave their lengths.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        limits: Limits,
        pool: ThreadPoolExecutor,
        grammar_pool: ThreadPoolExecutor,
        metrics: Metrics,
        tracer: Tracer,
        recorder: Recorder | None = None,
        model: str = "",
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.pool = pool
        self._grammar_pool = grammar_pool
        self.limits = limits
        self._metrics = metrics
        self._tracer = tracer
        self._recorder = recorder
        self._model = model
        self._seldom = Seldom()

    def origin(self, streamed: bool) -> Origin:
        """What is known of the HTTP request that is handled now, with a span for it. A book is kept about it."""
        scope, rule = cast(dict[str, Any], request.scope), request.url_rule
        return self.origin_of(scope, scope["path"] if rule is None else rule.rule, streamed)

    def origin_of(self, scope: dict[str, Any], route: str, streamed: bool) -> Origin:
        """The same of the request with this scope."""
        about = known_of(scope)
        about.booked = True
        context = {name.decode(): value.decode("latin1") for name, value in scope["headers"] if name in _CONTEXT}
        span = self._tracer.begin(f"{scope['method']} {scope['path']}", context)
        return Origin(span, about.id, scope["method"], route, streamed)

    def refuse(self, error: TgiError, parameters: Body, origin: Origin) -> None:
        """Keep the books about a request that gets no place."""
        self._book(parameters, origin).failed(error)

    @asynccontextmanager
    async def begin(
        self,
        prepare: Prepare,
        parameters: Body,
        check: Callable[[], int],
        origin: Origin = UNKNOWN,
    ) -> AsyncIterator[Call]:
        """Take a permit for each text to generate, validate, and queue them; leaving ends them, wherever they are.

        `check` runs first and says how many texts that are, `prepare` in a validation thread once there are permits.
        `parameters` is for the log.

        Raises:
            OverloadedError, ShuttingDownError: no permit.
            ValidationError, TemplateError: the request cannot run.
        """
        call: Call | None = None
        book = self._book(parameters, origin)
        trace, arrived = book.trace, book.trace.arrived
        try:
            texts = check()
            async with AsyncExitStack() as held:
                for _ in range(texts):
                    held.enter_context(self.engine.permit())
                prepared, bell = await self._validated(prepare, parameters), Bell()
                generations = [
                    self.engine.generate(each, bell, received=arrived, steps=trace.steps())
                    for each in prepared.requests
                ]
                running = [await held.enter_async_context(each) for each in generations]
                call = Call(prepared, running, bell, arrived, time.monotonic(), book)
                trace.queued, trace.candidates = call.queued, running
                book.admitted(call.validation_time, prepared.requests[0])
                yield call
            self._record(call)
        except TgiError as error:
            book.failed(error)
            raise
        except Exception as error:  # a defect
            if call is None or call.finish is None:
                book.failed(IncompleteGenerationError(f"{type(error).__name__}, which is a defect of the server"))
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if call is None or call.finish is None:
                book.dropped()
            if call is not None:
                self._record(call)
            raise

    def _book(self, parameters: Body, origin: Origin) -> Book:
        """That of a request that has just been read."""
        arrived = time.monotonic()
        book = Book(self._metrics, parameters, Trace(origin, parameters, self._model, arrived), self._seldom)
        book.arrived()
        if self._recorder is not None:
            self._recorder.arrived(arrived)
        return book

    def _record(self, call: Call) -> None:
        """One line for each prompt, with the longest of its texts."""
        if self._recorder is not None:
            generated = call.generated()
            for number, prompt in enumerate(call.prepared.prompts):
                most = max(generated[number * call.each : (number + 1) * call.each])
                self._recorder.ended(call.arrived, prompt.requests[0].prompt_ids, most)

    async def _validated(self, prepare: Prepare, parameters: Body) -> Prepared:
        loop = asyncio.get_running_loop()
        pool = self._grammar_pool if parameters.guided else self.pool
        return await loop.run_in_executor(pool, prepare, self.limits, self.tokenizer, random.getrandbits(64))
