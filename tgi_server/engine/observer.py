"""The metrics of steps, recorded as they are planned and come back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Progress
from tgi_server.telemetry.metrics import Metrics
from tgi_server.types import Outcome, Plan


class _Method:
    """The series of steps of one kind."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.sent = metrics.counted("tgi_batch_inference_count", method=name)
        self.succeeded = metrics.counted("tgi_batch_inference_success", method=name)
        self.failed = metrics.counted("tgi_batch_inference_failure", method=name)
        self.inference = metrics.histogram("tgi_batch_inference_duration", method=name)
        self.forward = metrics.histogram("tgi_batch_forward_duration", method=name)
        self.wait = metrics.histogram("tgi_batch_wait_duration", method=name)
        self.filter = metrics.histogram("tgi_batch_filter_duration", method=name)
        self.decode = metrics.histogram("tgi_batch_decode_duration", method=name)


@dataclass(frozen=True, slots=True)
class _Sent:
    method: _Method
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
        metrics.guesses(most_guessed)
        self._prefill, self._decode = (_Method(metrics, name) for name in ("prefill", "decode"))
        self._sizes = metrics.histogram("tgi_batch_next_size")
        self._first = metrics.histogram("tgi_request_first_token_duration")
        self._gaps = metrics.histogram("tgi_request_inter_token_duration")
        self._in_flight: deque[_Sent] = deque()
        self._last = self._decode  # the method of the step that came back last
        self._last_outcome = 0.0
        self._working = False

    def planned(self, scheduler: Scheduler, plan: Plan, now: float) -> None:
        """A plan is about to be sent."""
        method = self._prefill if scheduler.prefilled else self._decode
        self._in_flight.append(_Sent(method, now, self._working))
        self._working = True
        method.sent.add()
        if plan.new:
            self._sizes.observe(len(plan.new))
            self._looked_up(plan)
        if scheduler.joined:
            self._metrics.counter("tgi_batch_concat", reason=scheduler.joined)

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
        method = self._last = sent.method
        method.inference.observe(now - max(sent.at, self._last_outcome))
        method.forward.observe(outcome.forward_ns / 1e9)
        if sent.follows:
            method.wait.observe(outcome.wait_ns / 1e9)
        (method.failed if outcome.failed or outcome.repeated else method.succeeded).add()
        self._last_outcome = now
        if self._most_guessed:
            self._guesses(outcome)

    def delivered(self, progresses: Iterable[Progress], taken_in: float, passed_on: float) -> None:
        """What the outcome received last brought its sequences, and the seconds that went on it in the router."""
        self._last.filter.observe(taken_in)
        self._last.decode.observe(passed_on)
        self._gaps_until(self._last_outcome, progresses)

    def _gaps_until(self, now: float, progresses: Iterable[Progress]) -> None:
        """Most sequences got their last tokens together, at a time that is one object: they are counted at once."""
        last, together = now, 0
        for progress in progresses:
            count, sequence = len(progress.tokens), progress.sequence
            if not count:
                continue
            before = sequence.last_token
            sequence.last_token = now
            if before is last and count == 1:
                together += 1
            elif before is None:
                if sequence.received is not None:
                    self._first.observe(now - sequence.received)
            elif count == 1:
                self._gaps.observe(now - last, together)
                last, together = before, 1
            else:
                self._gaps.observe((now - before) / count, count)
        self._gaps.observe(now - last, together)

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
            self._in_flight.popleft().method.failed.add()
