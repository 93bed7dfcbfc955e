"""One request on its way through the engine, as its caller sees it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType

from tgi_server.batching.sequence import Progress, Sequence
from tgi_server.engine.steps import Steps
from tgi_server.engine.text import GenerationText
from tgi_server.errors import TgiError
from tgi_server.types import TokenEvent, TopTokens

MOST_TAKEN = 64
"""Events given out at a time: what a reader that is behind makes of them, and has not passed on, stays small."""


class Bell:
    """Rung by generations that have something ready, heard by the one who reads them."""

    def __init__(self) -> None:
        self._listener: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake the listener; one that is busy looks at the generations before it listens again."""
        if self._listener is not None and not self._listener.done():
            self._listener.set_result(None)

    async def heard(self) -> None:
        """Until the next ring. Safe to cancel."""
        self._listener = asyncio.get_running_loop().create_future()
        await self._listener


class Generation:
    """Async context manager and async iterator of the token events of one request.

    Entering queues the request (raises ValidationError for one that can never run, GenerationError when the engine
    has failed); leaving before the last event aborts it. Reading raises GenerationError when a shard failed,
    ValidationError when the request's grammar turned out to be too much.

    Attributes:
        prompt: the prompt's tokens with their log-probabilities and alternatives, where the request asked for them;
            filled before the first event.
        steps: what its steps took, where somebody asked for that.
    """

    def __init__(
        self,
        sequence: Sequence,
        text: GenerationText,
        enter: Callable[[Generation], None],
        leave: Callable[[Generation], None],
        bell: Bell,
        steps: Steps | None = None,
    ) -> None:
        self.prompt: list[TokenEvent] = []
        self.steps = steps
        self.sequence = sequence
        self._text = text
        self._enter, self._leave = enter, leave
        self._events: deque[TokenEvent] = deque()
        self._closed = False
        self._failure: TgiError | None = None
        self._bell = bell

    @property
    def queue_time(self) -> float:
        """Seconds it waited, or has been waiting, for its first step."""
        started = self.sequence.started
        return (time.monotonic() if started is None else started) - self.sequence.arrived

    @property
    def inference_time(self) -> float:
        """Seconds from its first step to its last token or to now."""
        if self.sequence.started is None:
            return 0.0
        ended = self.sequence.ended
        return (time.monotonic() if ended is None else ended) - self.sequence.started

    @property
    def failure(self) -> str | None:
        """Why it failed, in words for logs and traces; None if it did not."""
        return None if self._failure is None else self._failure.log_message()

    @property
    def cached_tokens(self) -> int:
        """Tokens of its prompt that were in the cache when it started; 0 until then."""
        return self.sequence.cached

    async def __aenter__(self) -> Generation:
        self._enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(self)

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> TokenEvent:
        await self._wait()
        if not self._events:
            raise StopAsyncIteration
        return self._events.popleft()

    async def drain(self) -> list[TokenEvent]:
        """The first events that are ready, once there is one; empty after the last. For writers that join events."""
        await self._wait()
        return self.take()

    def take(self) -> list[TokenEvent]:
        """The first events that are ready, none if none is. Raises GenerationError behind the last of a failed one."""
        if not self._events and self._failure is not None:
            raise self._failure
        if len(self._events) > MOST_TAKEN:
            return [self._events.popleft() for _ in range(MOST_TAKEN)]
        events = list(self._events)
        self._events.clear()
        return events

    @property
    def over(self) -> bool:
        """Nothing is ready and nothing will be."""
        return self._closed and not self._events

    def deliver(self, progress: Progress) -> bool:
        """Engine side: turn new tokens into events. True when the generation ended."""
        tops: Iterable[TopTokens | None] = progress.top_tokens or [None] * len(progress.tokens)
        events: list[TokenEvent] = []
        last = len(progress.tokens) - 1
        for index, (id, logprob, top) in enumerate(zip(progress.tokens, progress.logprobs, tops, strict=True)):
            events += self._text.push(id, logprob, top, progress.finish if index == last else None)
            if events and events[-1].finish:
                self._closed = True
                break
        self._events.extend(events)
        if events:
            self._bell.ring()
        return self._closed

    def fail(self, error: TgiError) -> None:
        """Engine side: end with an error, which the reader meets after the events that are ready."""
        self._closed, self._failure = True, error
        self._bell.ring()

    async def _wait(self) -> None:
        """Until an event is ready or the generation is over."""
        while not self._events:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                return
            await self._bell.heard()
