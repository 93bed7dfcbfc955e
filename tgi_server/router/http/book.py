"""What is told of a request: metrics, one log line, a span."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

from tgi_server.errors import GenerationError, IncompleteGenerationError, OverloadedError, TgiError
from tgi_server.router.http.trace import Trace
from tgi_server.router.http.wire import Body, without_text
from tgi_server.telemetry.logging import SPAN
from tgi_server.telemetry.metrics import Metrics
from tgi_server.telemetry.seldom import Seldom, since_last
from tgi_server.types import Finish, GenerationRequest

DROPPED_STATUS = 499
"""What the log has for a client that went away, who got none; nginx's word for it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Times:
    """Of a finished request, in seconds: all together, before it was queued, until its first step, from there on."""

    total_time: float
    validation_time: float
    queue_time: float
    inference_time: float


class Book:
    """The record of one request with these `parameters`. Every request that has `arrived` has one of the three ends.

    Args:
        seldom: knows what is not to be logged of each request.
    """

    def __init__(self, metrics: Metrics, parameters: Body, trace: Trace, seldom: Seldom) -> None:
        self._metrics = metrics
        self._parameters = parameters
        self.trace = trace
        self._seldom = seldom
        self._prompt_tokens: int | None = None

    def arrived(self) -> None:
        """It was read."""
        self._metrics.counter("tgi_request_count")

    def admitted(self, validation_time: float, request: GenerationRequest) -> None:
        """It is in the engine's queue, `validation_time` seconds after its arrival."""
        self._metrics.observe("tgi_request_validation_duration", validation_time)
        self._metrics.observe("tgi_request_input_length", len(request.prompt_ids))
        self._metrics.observe("tgi_request_max_new_tokens", request.stopping.max_new_tokens)
        self._prompt_tokens = len(request.prompt_ids)
        if self.trace.recording:
            tokens = self._prompt_tokens
            self.trace.fields |= {
                "validation_time": validation_time, "prompt_tokens": tokens, "gen_ai.usage.input_tokens": tokens,
            }  # fmt: skip

    def finished(self, times: Times, finish: Finish) -> None:
        """It got its last token."""
        per_token = times.inference_time / finish.generated_tokens
        observe = self._metrics.observe
        observe("tgi_request_duration", times.total_time)
        observe("tgi_request_queue_duration", times.queue_time)
        observe("tgi_request_inference_duration", times.inference_time)
        observe("tgi_request_mean_time_per_token_duration", per_token)
        observe("tgi_request_generated_tokens", finish.generated_tokens)
        self._metrics.counter("tgi_request_success")
        seconds = asdict(times) | {"time_per_token": per_token}
        tokens, reason = finish.generated_tokens, finish.reason.value
        told = {name: f"{value:.6f}s" for name, value in seconds.items()}
        self._log(logging.INFO, "Success", 200, **told, seed=finish.seed, generated_tokens=tokens, finish_reason=reason)
        if self.trace.recording:
            self.trace.fields |= seconds | {"generated_tokens": tokens, "finish_reason": reason}
            self.trace.fields["gen_ai.response.finish_reasons"] = [reason]
            if finish.seed is not None:
                self.trace.fields["seed"] = str(finish.seed)  # may be more than the 63 bits of a span's number
        self.trace.end()

    def failed(self, error: TgiError) -> None:
        """It was refused, or a shard failed."""
        self._metrics.counter("tgi_request_failure", err=error.label)
        level = logging.ERROR if isinstance(error, (GenerationError, IncompleteGenerationError)) else logging.INFO
        reason, times = error.log_message(), ""
        if isinstance(error, OverloadedError):  # clients who do not wait would hide all other lines
            count = self._seldom.due(reason)
            level, times = logging.INFO if count else logging.DEBUG, since_last(count)
        self._log(level, f"Failed: {reason}{times}", self._parameters.status_of(error), error_type=error.error_type)
        self.trace.fields["error.type"] = error.error_type
        self.trace.end(reason, admitted=not isinstance(error, OverloadedError))

    def dropped(self) -> None:
        """The client went away before the last token."""
        self._metrics.counter("tgi_request_failure", err="dropped")
        self._log(logging.INFO, "Dropped: the client went away", DROPPED_STATUS, error_type="dropped")
        self.trace.fields["error.type"] = "dropped"
        self.trace.end("the client went away")

    def _log(self, level: int, message: str, status: int, **fields: Any) -> None:
        if not logger.isEnabledFor(level):
            return
        origin, trace = self.trace.origin, self.trace
        if "total_time" not in fields:
            fields["total_time"] = f"{time.monotonic() - trace.arrived:.6f}s"
        span = {
            **fields, "status": status, "prompt_tokens": self._prompt_tokens, "route": origin.route,
            "request_id": origin.id, "parameters": without_text(self._parameters),
        }  # fmt: skip
        logger.log(level, "%s", message, extra={SPAN: span})
