"""A collector of traces that speaks OTLP over gRPC on the loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent; answers no sooner than `answering` is set."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.answering = threading.Event()
        self.answering.set()
        self.port = 0

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.answering.wait(10)
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def every(self) -> list[Span]:
        """All spans, in the order of their ends."""
        scopes = [scope for request in self.requests for one in request.resource_spans for scope in one.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    @property
    def spans(self) -> dict[str, Span]:
        """Those of requests by their names, in the order of their ends."""
        return {span.name: span for span in self.every if span.kind == Span.SPAN_KIND_SERVER}

    def below(self, parent: Span) -> list[Span]:
        """The parts of a span, in the order of their beginnings."""
        parts = [span for span in self.every if span.parent_span_id == parent.span_id]
        return sorted(parts, key=lambda span: span.start_time_unix_nano)


@contextmanager
def collecting() -> Iterator[Collector]:
    servicer = Collector()
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        servicer.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield servicer
        servicer.answering.set()
        server.stop(0).wait()


def attributes(span: Span) -> dict[str, Any]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in span.attributes}
