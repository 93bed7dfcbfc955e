"""The life of one request between HTTP and the engine: its permit, its validation, its times and what is told of it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from msgspec import Struct
from tokenizers import Tokenizer

from tgi_server.engine.engine import Engine
from tgi_server.engine.generation import Generation
from tgi_server.errors import GenerationError, IncompleteGenerationError, TgiError
from tgi_server.router.validate import Limits, Prepared
from tgi_server.router.wire import without_text
from tgi_server.telemetry.metrics import Metrics
from tgi_server.types import Finish, Token, TokenEvent

logger = logging.getLogger(__name__)

Prepare = Callable[[Limits, Tokenizer, int], Prepared]
"""Validation with tokenising; the integer is the seed for a client that gives none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished generation."""

    prompt: list[Token]
    events: list[TokenEvent]
    finish: Finish


@dataclass(slots=True)
class Call:
    """An admitted request. Times are seconds; `arrived` and `queued` are on the monotonic clock."""

    prepared: Prepared
    generation: Generation
    arrived: float
    queued: float
    on_finish: Callable[[Call, Finish], None]
    finish: Finish | None = field(default=None, init=False)

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
        """All events that are ready, once there is one. Safe to cancel.

        Raises:
            GenerationError: a shard failed.
            IncompleteGenerationError: the generation is over without a last token.
        """
        events = await self.generation.drain()
        if not events:
            raise IncompleteGenerationError()
        if finish := events[-1].finish:
            self.finish = finish
            self.on_finish(self, finish)
        return events

    async def answer(self) -> Answer:
        """The whole generation. Raises what `drain` raises."""
        events: list[TokenEvent] = []
        while self.finish is None:
            events += await self.drain()
        return Answer(self.generation.prompt, events, self.finish)


class Calls:
    """Admits requests to the engine and keeps the books about them.

    Args:
        pool: the threads that tokenise and check.
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, limits: Limits, pool: ThreadPoolExecutor, metrics: Metrics
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.pool = pool
        self.metrics = metrics
        self._limits = limits

    @asynccontextmanager
    async def begin(
        self, prepare: Prepare, parameters: Struct, check: Callable[[], None] | None = None
    ) -> AsyncIterator[Call]:
        """Take a permit, validate, and queue the request; leaving ends it, wherever it is.

        `check` runs before the permit is taken, `prepare` after it in a validation thread; `parameters` is for the log.

        Raises:
            OverloadedError, ShuttingDownError: no permit.
            ValidationError, TemplateError: the request cannot run.
        """
        call: Call | None = None
        arrived = time.monotonic()
        self.metrics.counter("tgi_request_count")
        try:
            if check is not None:
                check()
            with self.engine.permit():
                prepared = await self._validated(prepare)
                async with self.engine.generate(prepared.request) as generation:
                    call = Call(prepared, generation, arrived, time.monotonic(), _Book(self.metrics, parameters).close)
                    self._admitted(call)
                    yield call
        except TgiError as error:
            self.metrics.counter("tgi_request_failure", err=error.label)
            level = logging.ERROR if isinstance(error, (GenerationError, IncompleteGenerationError)) else logging.INFO
            logger.log(level, "Failed: %s", error.public_message(), extra={"parameters": without_text(parameters)})
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if call is None or call.finish is None:
                self.metrics.counter("tgi_request_failure", err="dropped")
                logger.info("Dropped: the client went away", extra={"parameters": without_text(parameters)})
            raise

    async def _validated(self, prepare: Prepare) -> Prepared:
        loop = asyncio.get_running_loop()
        seed = random.getrandbits(64)
        return await loop.run_in_executor(self.pool, prepare, self._limits, self.tokenizer, seed)

    def _admitted(self, call: Call) -> None:
        self.metrics.observe("tgi_request_validation_duration", call.validation_time)
        self.metrics.observe("tgi_request_input_length", call.prompt_tokens)
        self.metrics.observe("tgi_request_max_new_tokens", call.prepared.request.stopping.max_new_tokens)


@dataclass(frozen=True, slots=True)
class _Book:
    metrics: Metrics
    parameters: Struct

    def close(self, call: Call, finish: Finish) -> None:
        """Record a request that got its last token: metrics and one log line."""
        total, queue, inference = call.total_time, call.generation.queue_time, call.generation.inference_time
        per_token = inference / finish.generated_tokens
        observe = self.metrics.observe
        observe("tgi_request_duration", total)
        observe("tgi_request_queue_duration", queue)
        observe("tgi_request_inference_duration", inference)
        observe("tgi_request_mean_time_per_token_duration", per_token)
        observe("tgi_request_generated_tokens", finish.generated_tokens)
        self.metrics.counter("tgi_request_success")
        times = {
            "total_time": total,
            "validation_time": call.validation_time,
            "queue_time": queue,
            "inference_time": inference,
            "time_per_token": per_token,
        }
        fields = {name: f"{seconds:.6f}s" for name, seconds in times.items()}
        logger.info("Success", extra={**fields, "seed": finish.seed, "parameters": without_text(self.parameters)})
