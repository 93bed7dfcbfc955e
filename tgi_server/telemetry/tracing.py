"""Traces of requests for an OpenTelemetry collector (option `otlp_endpoint`). Imports opentelemetry only when used.

Spans wait in a bounded queue for a thread that sends them in batches: requests never wait for the collector, and what
it does not take is lost. The library's own OTEL_* environment variables (sampling, headers, certificates) hold.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from opentelemetry import trace

CONTEXT = ("traceparent", "tracestate")
"""Request headers that name the trace a request is a part of (W3C Trace Context)."""

Attributes = Mapping[str, str | int | float]


class Span(Protocol):
    """A request that is under way."""

    def end(self, attributes: Attributes, error: str | None = None) -> None:
        """Close it; `error` says why it failed, None that it did not."""
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

    def begin(self, name: str, context: Mapping[str, str]) -> Untraced:
        """See `Tracer`."""
        return self

    def end(self, attributes: Attributes, error: str | None = None) -> None:
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

        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.lower().startswith("http:"))
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._flush_seconds = flush_seconds
        self._tracer = self._provider.get_tracer("tgi_server")

    def begin(self, name: str, context: Mapping[str, str]) -> OtlpSpan:
        """See `Tracer`."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(context)
        return OtlpSpan(self._tracer.start_span(name, parent, SpanKind.SERVER, start_time=time.time_ns()))

    def close(self) -> None:
        """See `Tracer`."""
        # the library waits 30 s for a collector that does not answer; a daemon ends with the process
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(self._flush_seconds)


class OtlpSpan:
    """A span of the library."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def end(self, attributes: Attributes, error: str | None = None) -> None:
        """See `Span`."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes(dict(attributes))
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()
