"""What is told of a request: metrics, one log line, a span."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from tgi_server.errors import GenerationError, IncompleteGenerationError, TgiError
from tgi_server.router.http.wire import Body, without_text
from tgi_server.telemetry.logging import SPAN
from tgi_server.telemetry.metrics import Metrics
from tgi_server.telemetry.tracing import Span
from tgi_server.types import Finish, GenerationRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Times:
    """Of a finished request, in seconds: all together, before it was queued, until its first step, from there on."""

    total_time: float
    validation_time: float
    queue_time: float
    inference_time: float


class Book:
    """The record of one request with these `parameters`. Every request that has `arrived` has one of the three ends."""

    def __init__(self, metrics: Metrics, parameters: Body, span: Span) -> None:
        self._metrics = metrics
        self._parameters = parameters
        self._span = span
        self._attributes: dict[str, str | int | float] = {}

    def arrived(self) -> None:
        """It was read."""
        self._metrics.counter("tgi_request_count")

    def admitted(self, validation_time: float, request: GenerationRequest) -> None:
        """It is in the engine's queue, `validation_time` seconds after its arrival."""
        self._metrics.observe("tgi_request_validation_duration", validation_time)
        self._metrics.observe("tgi_request_input_length", len(request.prompt_ids))
        self._metrics.observe("tgi_request_max_new_tokens", request.stopping.max_new_tokens)
        self._attributes |= {"validation_time": validation_time, "prompt_tokens": len(request.prompt_ids)}

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
        told = {name: f"{value:.6f}s" for name, value in seconds.items()}
        self._log(logging.INFO, "Success", **told, seed=finish.seed)
        self._attributes |= seconds
        self._attributes |= {"generated_tokens": finish.generated_tokens, "finish_reason": finish.reason.value}
        if finish.seed is not None:
            self._attributes["seed"] = str(finish.seed)  # may be more than the 63 bits of a span's number
        self._end(None)

    def failed(self, error: TgiError) -> None:
        """It was refused, or a shard failed."""
        self._metrics.counter("tgi_request_failure", err=error.label)
        level = logging.ERROR if isinstance(error, (GenerationError, IncompleteGenerationError)) else logging.INFO
        self._log(level, f"Failed: {error.public_message()}")
        self._attributes["error.type"] = error.error_type
        self._end(error.public_message())

    def dropped(self) -> None:
        """The client went away before the last token."""
        self._metrics.counter("tgi_request_failure", err="dropped")
        self._log(logging.INFO, "Dropped: the client went away")
        self._attributes["error.type"] = "dropped"
        self._end("the client went away")

    def _log(self, level: int, message: str, **fields: Any) -> None:
        logger.log(level, "%s", message, extra={SPAN: {**fields, "parameters": without_text(self._parameters)}})

    def _end(self, error: str | None) -> None:
        parameters = json.dumps(without_text(self._parameters))  # numbers of any size, unlike orjson
        self._span.end({**self._attributes, "parameters": parameters}, error)
