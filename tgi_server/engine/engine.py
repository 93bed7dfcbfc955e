"""The loop between requests and shards: plan, send, receive, commit, deliver."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager

from tokenizers import Tokenizer

from tgi_server.batching.sequence import Progress, Sequence
from tgi_server.config.schema import BatchingOptions
from tgi_server.engine.cycle import Cycle
from tgi_server.engine.gauges import read_state
from tgi_server.engine.generation import Bell, Generation
from tgi_server.engine.observer import BatchObserver
from tgi_server.engine.permits import Permits
from tgi_server.engine.steps import Steps
from tgi_server.engine.text import GenerationText, Vocabulary
from tgi_server.engine.warm_up import warm_up
from tgi_server.errors import GenerationError, TgiError, UnhealthyError
from tgi_server.rpc.client import Shards
from tgi_server.telemetry.metrics import Metrics
from tgi_server.types import GenerationRequest, Outcome, SamplingParams, ShardInfo, StoppingParams

LAST_STEPS = 8.0
"""Seconds that the steps in flight have when the engine stops; less than the launcher waits for the router."""

log = logging.getLogger(__name__)


class Engine:
    """Continuous batching of generations over the shards. All methods belong to one event loop.

    Args:
        health_timeout: seconds that `health` may take; longer than the shards' own, which says more.

    Attributes:
        info: what the shards told about themselves; set by `start`.
        failed: set when the shards are lost; the process cannot recover from that.
        metrics: where it tells of itself.
    """

    def __init__(
        self,
        shards: Shards,
        options: BatchingOptions,
        tokenizer: Tokenizer,
        metrics: Metrics,
        health_timeout: float = 15.0,
    ) -> None:
        self.info: ShardInfo
        self.failed = asyncio.Event()
        self._shards = shards
        self._options = options
        self._vocabulary = Vocabulary(tokenizer)
        self.metrics = metrics
        self._health_timeout = health_timeout
        self._permits = Permits(options.max_concurrent_requests)
        self._ids = itertools.count()
        self._generations: dict[int, Generation] = {}
        self._followed: dict[int, Steps] = {}
        self._work = asyncio.Event()
        self._failure: str | None = None
        self._repeated: str | None = None  # why the last step failed at first that was tried again in parts
        self._proven = False  # the last step that came back with a token or a failure had no failure
        self._probing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._idle: asyncio.Event | None = None  # set when no plan is in flight, once somebody waits for that
        self._cycle: Cycle
        self._observer: BatchObserver

    @property
    def running(self) -> int:
        """Generations that have begun and not ended."""
        return len(self._generations) - self.waiting

    @property
    def idle(self) -> bool:
        """Nobody asks: no request is validated, waits or runs."""
        return not self._permits.held and not self._generations

    @property
    def waiting(self) -> int:
        """Generations that wait for their first step."""
        return self._cycle.scheduler.waiting

    async def start(self) -> None:
        """Connect to the shards and begin to work.

        Raises:
            UnhealthyError: they do not answer.
            ConfigError: the largest step that the options allow does not run.
        """
        self.info = await self._shards.connect()
        self._cycle = Cycle(self._options, self.info)
        unshared = self._cycle.scheduler.unshared
        self._tell_sharing(unshared)
        self._observer = BatchObserver(self.metrics, unshared is None, self.info.draft_width)
        read_state(self.metrics, self._permits, self._cycle.scheduler)
        self._tasks = [asyncio.create_task(self._guard(loop)) for loop in (self._send_plans, self._take_outcomes)]
        await warm_up(self._options, self.info, self.generate, lambda: self._repeated)

    def _tell_sharing(self, unshared: str | None) -> None:
        if unshared is None:
            log.info("prefix caching: on")
        elif self._options.prefix_caching:
            log.warning("prefix_caching has no effect with this model: %s", unshared)
        else:
            log.info("prefix caching: off, %s", unshared)

    async def stop(self) -> bool:
        """End all generations that are left (they raise GenerationError) and close the shards' connections.

        Plans in flight are waited for: all ranks are to have worked on the same ones before another router comes.

        Returns:
            Whether they have.
        """
        self._end_all("the server stopped")
        if self._tasks and self._cycle.in_flight and not self.failed.is_set():
            self._idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_STEPS):
                    await self._idle.wait()
        settled = not self._tasks or not self._cycle.in_flight
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._shards.close()
        return settled

    def permit(self) -> AbstractContextManager[None]:
        """One of the `max_concurrent_requests` places, to be held from validation to the end of the answer.

        Entering raises OverloadedError when all are taken, ShuttingDownError while draining.
        """
        return self._permits.permit()

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return self._permits.full

    def begin_drain(self) -> None:
        """Refuse new permits and report unhealthy; what has a permit goes on."""
        self._permits.draining = True

    @property
    def unready(self) -> str | None:
        """Why no request is taken, however few there are; None while some are."""
        return "the server is shutting down" if self._permits.draining else self._failure

    def generate(
        self,
        request: GenerationRequest,
        bell: Bell | None = None,
        *,
        received: float | None = None,
        steps: Steps | None = None,
    ) -> Generation:
        """A generation that starts when it is entered; those that are read together share a `bell`.

        Args:
            received: when the client's request was there, on the monotonic clock; None for none of a client's.
            steps: is told of each step that the generation has a part in.
        """
        context = request.prompt_ids if self.info.start_token_id is None else ()
        text = GenerationText(self._vocabulary, request, context)
        sequence = Sequence(next(self._ids), request, received=received)
        return Generation(sequence, text, self._enter, self._leave, bell or Bell(), steps)

    async def health(self) -> None:
        """Raises UnhealthyError while draining, or when the shards do not answer.

        A whole one-token generation is tried when none has succeeded yet or the last step failed.
        """
        if self._permits.draining:
            raise UnhealthyError("the server is shutting down")
        try:
            async with asyncio.timeout(self._health_timeout):
                await self._check()
        except TimeoutError:
            if not self._proven:  # a step of others may have proven it while the probe waited in the queue
                raise UnhealthyError(f"no step was done within {self._health_timeout:g} s") from None

    async def _check(self) -> None:
        async with self._probing:  # probes never pile up: who waited here finds the answer of the one before
            if not self._proven:
                await self._probe()
                return
        await self._shards.health()

    async def _probe(self) -> None:
        stopping = StoppingParams(max_new_tokens=1, ignore_eos=True)
        request = GenerationRequest(prompt_ids=[0], sampling=SamplingParams(), stopping=stopping)
        try:
            async with self.generate(request) as generation:
                await generation.drain()
        except GenerationError as error:
            raise UnhealthyError(str(error)) from error

    def _enter(self, generation: Generation) -> None:
        if self._failure is not None:
            raise GenerationError(self._failure)
        self._cycle.add(generation.sequence, time.monotonic())
        self._generations[generation.sequence.id] = generation
        if generation.steps is not None:
            self._followed[generation.sequence.id] = generation.steps
        self._work.set()

    def _leave(self, generation: Generation) -> None:
        """Forget a generation; nothing is left to abort when it ended by itself."""
        self._followed.pop(generation.sequence.id, None)
        if self._generations.pop(generation.sequence.id, None) is not None:
            self._cycle.abort(generation.sequence.id, time.monotonic())
            self._work.set()

    async def _guard(self, loop: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run one of the two loops; its end by an error is the end of all generations."""
        try:
            await loop()
        except TgiError as error:
            log.error("shards lost: %s", error)
            self._break(str(error))
        except Exception as error:
            log.exception("the engine broke")
            self._break(f"{type(error).__name__}: {error}")

    async def _send_plans(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            now = time.monotonic()
            while plan := self._cycle.plan(now):
                self._observer.planned(self._cycle.scheduler, plan, now)
                await self._shards.send(plan)
                now = time.monotonic()
            if not self._cycle.full:
                self._observer.idle()

    async def _take_outcomes(self) -> None:
        while True:
            outcome = await self._shards.receive()
            now = time.monotonic()
            if outcome.failed or any(outcome.counts):  # nothing is proven by the step of one that had failed before
                self._proven = not outcome.failed
            self._observer.received(outcome, now)
            self._repeated = outcome.repeated or self._repeated
            if self._followed:
                self._follow(outcome, now)
            # The sender runs before the readers that `deliver` wakes, and after the stop sequences it finds.
            self._work.set()
            progresses = self._cycle.commit(outcome, now)
            committed = time.monotonic()
            self._deliver(outcome, progresses, now)
            self._observer.delivered(progresses, committed - now, time.monotonic() - committed)
            if self._idle is not None and not self._cycle.in_flight:
                self._idle.set()

    def _follow(self, outcome: Outcome, now: float) -> None:
        for id, tokens in zip(outcome.ids, outcome.counts, strict=True):
            if (steps := self._followed.get(id)) is not None and id in self._generations:
                steps.took(outcome, tokens, now)

    def _deliver(self, outcome: Outcome, progresses: list[Progress], now: float) -> None:
        for id, logprobs in outcome.prompt_logprobs.items():
            if generation := self._generations.get(id):
                start, top = self.info.start_token_id, outcome.prompt_top_tokens.get(id, [])
                request = generation.sequence.request
                ids = request.prompt_ids if start is None else [start]
                generation.prompt = self._vocabulary.prompt(ids, logprobs, top, request.echo)
        for progress in progresses:
            id = progress.sequence.id
            generation = self._generations[id]
            if progress.failure is not None:
                generation.fail(progress.failure)
            elif not generation.deliver(progress):
                continue
            self._cycle.abort(id, now)  # a stop sequence is an end that the scheduler does not see
            del self._generations[id]

    def _break(self, message: str) -> None:
        self._proven = False
        self._observer.broke()
        self._end_all(message)
        self.failed.set()
        if self._idle is not None:
            self._idle.set()

    def _end_all(self, message: str) -> None:
        self._failure = message
        for generation in self._generations.values():
            self._cycle.abort(generation.sequence.id, time.monotonic())
            generation.fail(GenerationError(message))
        self._generations.clear()
