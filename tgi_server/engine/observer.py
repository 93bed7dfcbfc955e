"""The batch and queue metrics, updated from what the scheduler did."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tgi_server.batching.scheduler import Scheduler
from tgi_server.telemetry.metrics import Metrics
from tgi_server.types import Outcome, Plan


@dataclass(frozen=True, slots=True)
class _Sent:
    method: str
    at: float
    follows: bool
    """There was work to plan all the time since the step before."""


class BatchObserver:
    """Follows each step from its plan to its outcome. Times are seconds on the caller's clock.

    Args:
        prefix_caching: whether prompts are looked up in the cache, which is then counted.
        most_guessed: tokens that may be guessed of a sequence in a step; what became of them is counted.
    """

    def __init__(self, metrics: Metrics, prefix_caching: bool, most_guessed: int = 0) -> None:
        self._metrics = metrics
        self._prefix_caching = prefix_caching
        self._most_guessed = most_guessed
        metrics.bound("tgi_request_skipped_tokens", range(most_guessed + 1))
        self._in_flight: deque[_Sent] = deque()
        self._last_outcome = 0.0
        self._working = False

    def queue(self, scheduler: Scheduler) -> None:
        """The number of waiting, running or ended sequences changed."""
        self._metrics.gauge("tgi_queue_size", scheduler.waiting)
        self._metrics.gauge("tgi_batch_current_size", scheduler.running)
        self._metrics.gauge("tgi_batch_current_max_tokens", scheduler.reserved_tokens)

    def planned(self, scheduler: Scheduler, plan: Plan, now: float) -> None:
        """A plan is about to be sent."""
        method = "prefill" if scheduler.prefilled else "decode"
        self._in_flight.append(_Sent(method, now, self._working))
        self._working = True
        self._metrics.counter("tgi_batch_inference_count", method=method)
        if plan.new:
            self._metrics.observe("tgi_batch_next_size", len(plan.new))
            self._looked_up(plan)
        if scheduler.joined:
            self._metrics.counter("tgi_batch_concat", reason=scheduler.joined)
        self.queue(scheduler)

    def _looked_up(self, plan: Plan) -> None:
        queries = [new for new in plan.new if self._prefix_caching and not new.sampling.prompt_logprobs]
        if queries:
            self._metrics.counter("tgi_prefix_cache_query_tokens", sum(len(new.prompt_ids) for new in queries))
            self._metrics.counter("tgi_prefix_cache_hit_tokens", sum(new.cached for new in queries))

    def idle(self) -> None:
        """There is nothing to plan: until there is, the device waits for requests and not for the router."""
        self._working = False

    def received(self, outcome: Outcome, now: float) -> None:
        """The outcome of the oldest plan in flight arrived; its time runs from when the shards were free for it."""
        sent = self._in_flight.popleft()
        self._metrics.observe(
            "tgi_batch_inference_duration", now - max(sent.at, self._last_outcome), method=sent.method
        )
        self._metrics.observe("tgi_batch_forward_duration", outcome.forward_ns / 1e9, method=sent.method)
        if sent.follows:
            self._metrics.observe("tgi_batch_wait_duration", outcome.wait_ns / 1e9, method=sent.method)
        result = "failure" if outcome.failed else "success"
        self._metrics.counter(f"tgi_batch_inference_{result}", method=sent.method)
        self._last_outcome = now
        if self._most_guessed:
            self._guesses(outcome)

    def _guesses(self, outcome: Outcome) -> None:
        """How many tokens came beyond the certain one, and which guesses were made and right, by their position."""
        for id, count in zip(outcome.ids, outcome.counts, strict=True):
            if count:
                self._metrics.observe("tgi_request_skipped_tokens", count - 1)
                for position in range(1, outcome.guessed.get(id, 0) + 1):
                    self._metrics.counter("tgi_speculate_guessed_tokens", position=str(position))
                    if position < count:
                        self._metrics.counter("tgi_speculate_accepted_tokens", position=str(position))

    def broke(self) -> None:
        """The shards are gone, and with them the steps in flight."""
        while self._in_flight:
            self._metrics.counter("tgi_batch_inference_failure", method=self._in_flight.popleft().method)
