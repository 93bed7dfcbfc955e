"""The trace of one request: a span with its validation and, for each text, queue, prefill and decode below it.

It is made at the end, of times that are known then. Names are those of OpenTelemetry's GenAI conventions where these
have one, and TGI's beside them. Nothing of it is what a client wrote or a model did.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tgi_server.engine.generation import Generation
from tgi_server.engine.steps import Phase, Steps
from tgi_server.router.http.wire import Body, without_text
from tgi_server.telemetry.tracing import Part, Span, Untraced

UNTRACED = Untraced()
PROVIDER = "tgi_server"

Fields = dict[str, "str | int | float | bool | Sequence[str]"]

_ASKED = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
"""Fields of requests that the conventions know under the same names."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from: its span, its id, its route, and whether its answer is a stream."""

    span: Span = UNTRACED
    id: str = ""
    method: str = ""
    route: str = ""
    streamed: bool = False


@dataclass(slots=True)
class Trace:
    """What becomes of a request's span.

    Args:
        model: the name of the model that is served.
        arrived: when the request did, in seconds on the monotonic clock, as `queued`: when it was in the engine's
            queue, None until then.
        candidates: its generations.
    """

    origin: Origin
    parameters: Body
    model: str
    arrived: float
    queued: float | None = None
    candidates: Sequence[Generation] = ()
    fields: Fields = field(default_factory=dict)

    @property
    def recording(self) -> bool:
        """Whether anything becomes of it."""
        return self.origin.span.recording

    def steps(self) -> Steps | None:
        """Where the engine is to tell of a generation's steps, if it is."""
        return Steps() if self.recording else None

    def end(self, error: str | None = None, admitted: bool = True) -> None:
        """The request has ended; `error` says why it failed. One that was not `admitted` was not validated."""
        if not self.recording:
            return
        parts = [self._validation(error)] if admitted else []
        for number, candidate in enumerate(self.candidates):
            about: Fields = {"tgi.candidate": number} if len(self.candidates) > 1 else {}
            parts += _parts(candidate, about)
        self.origin.span.end(self._asked() | self._used() | self.fields, error, parts)

    def _validation(self, error: str | None) -> Part:
        if self.queued is None:
            return Part("validation", self.arrived, time.monotonic(), error=error)
        first = min(candidate.sequence.arrived for candidate in self.candidates)  # `queued` is when all were
        return Part("validation", self.arrived, first)

    def _asked(self) -> Fields:
        """What the client asked for."""
        asked, origin = self.parameters, self.origin
        told: Fields = {
            "gen_ai.operation.name": asked.OPERATION, "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": str(getattr(asked, "model", None) or self.model)[:128],
            "gen_ai.request.stream": origin.streamed, "http.request.method": origin.method, "http.route": origin.route,
            "request_id": origin.id,
            "parameters": json.dumps(without_text(asked)),  # numbers of any size, unlike orjson
        }  # fmt: skip
        for name in _ASKED:
            value = getattr(asked, name, None)
            if value is not None and abs(value) < 2**63:  # the integers of a span
                told[f"gen_ai.request.{name}"] = value
        return told

    def _used(self) -> Fields:
        """What became of it in the engine."""
        if not self.candidates:
            return {}
        first, texts = self.candidates[0], len(self.candidates)
        told: Fields = {
            "gen_ai.response.model": self.model,
            "gen_ai.request.max_tokens": first.sequence.max_new_tokens,
            "gen_ai.usage.output_tokens": sum(candidate.sequence.committed for candidate in self.candidates),
        }
        if texts > 1:
            told["gen_ai.request.choice.count"] = texts
        arrivals = [each.steps.first for each in self.candidates if each.steps and each.steps.first is not None]
        if self.origin.streamed and arrivals:
            told["gen_ai.response.time_to_first_chunk"] = min(arrivals) - self.arrived
        return told


def _parts(candidate: Generation, about: Fields) -> Iterator[Part]:
    """Queue, prefill and decode of one text, as far as it came."""
    sequence, steps = candidate.sequence, candidate.steps
    now = time.monotonic()
    ended = now if sequence.ended is None else sequence.ended
    failed = candidate.failure
    started = ended if sequence.started is None else sequence.started
    yield Part("queue", sequence.arrived, started, about, failed if sequence.started is None else None)
    if sequence.started is None or steps is None:
        return
    first = ended if steps.first is None else min(steps.first, ended)
    prompt: Fields = {"prompt_tokens": sequence.input_length, "cached_tokens": sequence.cached}
    yield _phase("prefill", started, first, steps.prefill, about | prompt, failed if steps.first is None else None)
    if steps.first is not None:
        generated: Fields = {"generated_tokens": sequence.committed}
        yield _phase("decode", first, ended, steps.decode, about | generated, failed)


def _phase(name: str, begin: float, end: float, phase: Phase, fields: Fields, error: str | None) -> Part:
    """A span of some steps, and below it the time that a shard worked on them, put together before its end."""
    forward, wait = phase.forward_ns / 1e9, phase.wait_ns / 1e9
    told: dict[str, Any] = {"tgi.steps": phase.steps, "tgi.forward_time": forward, "tgi.wait_time": wait}
    shard = [Part("shard 0", max(begin, end - forward), end, {"rank": 0, **told})] if phase.steps else []
    return Part(name, begin, end, fields | told, error, shard)
