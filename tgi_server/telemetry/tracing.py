"""Traces of requests for an OpenTelemetry collector (option `otlp_endpoint`). Imports opentelemetry only when used.

Spans wait in a bounded queue for a thread that sends them in batches: requests never wait for the collector, and what
it does not take is lost. The library's own OTEL_* environment variables (sampling, headers, certificates) hold.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context

CONTEXT = ("traceparent", "tracestate")
"""Request headers that name the trace a request is a part of (W3C Trace Context)."""

_MOMENT = 0.5
"""Seconds that the library has to end its threads."""

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a span, from `begin` to `end` in seconds on the monotonic clock; `error` says why it failed."""

    name: str
    begin: float
    end: float
    attributes: Attributes = field(default_factory=dict)
    error: str | None = None
    parts: Sequence[Part] = ()


class Span(Protocol):
    """A request that is under way."""

    @property
    def recording(self) -> bool:
        """Whether anything is made of it; if not, its end needs no arguments."""
        ...

    def end(self, attributes: Attributes, error: str | None = None, parts: Sequence[Part] = ()) -> None:
        """Close it; `error` says why it failed, None that it did not. Its parts become spans below it."""
        ...


class Tracer(Protocol):
    """Where spans come from."""

    def begin(self, name: str, context: Mapping[str, str]) -> Span:
        """A span that begins now, as a part of the trace that the headers `context` name, if any."""
        ...

    def close(self) -> None:
        """Send what is left, as far as that is quick."""
        ...


def unusable(endpoint: str) -> str | None:
    """Why traces cannot be sent to `endpoint`, None when they can."""
    try:
        url = urlsplit(endpoint)
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # of the port
        good = False
    if not good:
        return "expected the URL of a collector's gRPC port, such as http://localhost:4317"
    for package in ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc"):
        try:
            found = find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return "the packages of OpenTelemetry are not installed; pip install 'tgi-server[otlp]'"
    return None


def tracer(endpoint: str | None, service: str) -> Tracer:
    """A tracer that sends the spans of `service` to `endpoint`; one that drops them where that is None."""
    return Untraced() if endpoint is None else OtlpTracer(endpoint, service)


class Untraced:
    """Tracer and span that do nothing."""

    recording = False

    def begin(self, name: str, context: Mapping[str, str]) -> Untraced:
        """See `Tracer`."""
        return self

    def end(self, attributes: Attributes, error: str | None = None, parts: Sequence[Part] = ()) -> None:
        """See `Span`."""

    def close(self) -> None:
        """See `Tracer`."""


class OtlpTracer:
    """Sends spans over OTLP, gRPC.

    Args:
        flush_seconds: how long `close` waits for the last spans to be delivered.
    """

    def __init__(self, endpoint: str, service: str, flush_seconds: float = 3.0) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        address = _without_user(endpoint)  # which gRPC has no use for, and the library's messages would tell
        self._exporter = OTLPSpanExporter(endpoint=address, insecure=address.startswith("http:"))
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._flush_seconds = flush_seconds
        self._tracer = self._provider.get_tracer("tgi_server")

    def begin(self, name: str, context: Mapping[str, str]) -> OtlpSpan:
        """See `Tracer`."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        return OtlpSpan(self._tracer, name, TraceContextTextMapPropagator().extract(context))

    def close(self) -> None:
        """See `Tracer`."""
        # the library waits 30 s for a collector that does not answer; a daemon ends with the process
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(self._flush_seconds)
        if closing.is_alive():  # ends the attempt to send, and with it the library's thread
            self._exporter.shutdown()
            closing.join(_MOMENT)


class OtlpSpan:
    """A span of the library. All of its times are those of the monotonic clock, moved once: what is within stays so."""

    def __init__(self, tracer: trace.Tracer, name: str, parent: Context) -> None:
        from opentelemetry.trace import SpanKind

        self._tracer = tracer
        now = time.monotonic()
        self._moved = time.time_ns() - _nanoseconds(now)
        self._span = tracer.start_span(name, parent, SpanKind.SERVER, start_time=self._at(now))

    @property
    def recording(self) -> bool:
        """See `Span`."""
        return self._span.is_recording()

    def end(self, attributes: Attributes, error: str | None = None, parts: Sequence[Part] = ()) -> None:
        """See `Span`."""
        if self._span.is_recording():
            self._close(self._span, attributes, error, parts, time.monotonic())

    def _close(
        self, span: trace.Span, attributes: Attributes, error: str | None, parts: Sequence[Part], end: float
    ) -> None:
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        for part in parts:
            below = self._tracer.start_span(
                part.name, set_span_in_context(span), start_time=self._at(part.begin)
            )  # fmt: skip
            self._close(below, part.attributes, part.error, part.parts, part.end)
        span.set_attributes(attributes)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(self._at(end))

    def _at(self, moment: float) -> int:
        return _nanoseconds(moment) + self._moved


def _without_user(endpoint: str) -> str:
    url = urlsplit(endpoint)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
