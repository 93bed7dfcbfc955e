"""How requests go over the wire: as they should, slowly, in bits and pieces, against the rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.bodies import Bodies

Headers = list[tuple[bytes, bytes]]

JSON: Headers = [(b"content-type", b"application/json")]
PAGES = (
    "/ui",
    "/docs",
    "/docs/",
    "/docs/start.js",
    "/docs/../../x",
    "/docs/%2e%2e",
    "/api-doc/openapi.json",
    "/nothing",
)
"""What the document does not describe."""
METHODS = (
    b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"PROPFIND", b"get", b"", b"G\x00T",
    b"POST ",
    b"A" * 5000, b"QUERY", b"PRI", b"\xff",
)  # fmt: skip
TARGETS = (
    b"http://other.example%b", b"https://user:pass@127.0.0.1:1%b", b"other.example:443", b"*", b"/%b",
    b"//evil.example%b",
    b"%b?a=%%00&b=%%ff&&=", b"%b#x", b"%b%%00", b"%b/../..", b"%b/%%2e%%2e/", b"%b\xff\xfe", b"%b%%zz", b"%b;a=b",
    b"%b ",
    b"%b" + b"?" + b"q=1&" * 5000, b"%b" + b"/a" * 20_000, b"", b"x", b"http://[::1", b"http://%b", b"%b\x01", b"\\",
)  # fmt: skip
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/plain"), (b"content-type", b"application/json; charset=utf-16"), (b"content-type", b""),
    (b"content-type", b"multipart/form-data; boundary=x"), (b"content-type", b"application/vnd.a+json"),
    (b"range", b"bytes=0-"),
    (b"content-type", b"application/x-www-form-urlencoded"), (b"content-encoding", b"gzip"),
    (b"content-encoding", b"br, gzip"),
    (b"authorization", b"Bearer " + b"\xff" * 50), (b"authorization", b"Basic Og=="), (b"x-api-key", b"\xc3\xa9"),
    (b"te", b"gzip"),
    (b"traceparent", b"00-" + b"f" * 32 + b"-" + b"0" * 16 + b"-01"), (b"traceparent", b"\x80"),
    (b"tracestate", b"a=" + b"b" * 9000),
    (b"baggage", b"\xff=%00"), (b"x-request-id", b"a\tb\x7f\x80"), (b"x-request-id", b"9" * 9000),
    (b"cookie", b"a=b; " * 900),
    (b"expect", b"100-continue"), (b"expect", b"200-ok"), (b"connection", b"close, keep-alive"), (b"origin", b"null"),
    (b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"upgrade", b"h2c"), (b"http2-settings", b"AAMAAABk"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="), (b"sec-websocket-version", b"13"),
    (b"proxy-connection", b"keep-alive"),
    (b"x-forwarded-for", b"127.0.0.1, ::1, x"), (b"forwarded", b'for="[::1]"'), (b"x-http-method-override", b"DELETE"),
    (b"accept", b"text/event-stream"), (b"accept", b"*/*;q=nan"), (b"accept-encoding", b"gzip, zstd"),
    (b"if-none-match", b"*"),
    (b"if-modified-since", b"Mon, 99 Foo 2026 99:99:99 GMT"), (b"range", b"bytes=9-1,a-"), (b"if-range", b'W/"'),
    (b"access-control-request-method", b"POST"), (b"access-control-request-headers", b"x\x80, " * 50),
    (b"x", b"a\x00b"),
    (b"anthropic-version", b"\xff"), (b"openai-organization", b"{{7*7}}"), (b"x y", b"z"), (b"x\x00", b"z"),
    (b"", b"z"),
    (b"host", b"other.example"), (b"host", b""), (b"host", b"a\xffb"), (b"host", b"[::1"), (b"x", b"y" * 30_000),
    (b":path", b"/"),
    (b"content-length", b"5"), (b"content-length", b"-1"), (b"content-length", b"1e3"),
    (b"content-length", b"0x10"), (b"a\r\n b", b"c"),
    (b"content-length", b"9" * 40), (b"content-length", b"5, 5"), (b"content-length", b" 5 "),
    (b"content-length", b"\xb2"),
    (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"gzip, chunked"), (b"transfer-encoding", b"identity"),
    (b"transfer-encoding", b"chunked, chunked"), (b"transfer-encoding", b"\x0bchunked"),
    (b"transfer-encoding", b"xchunked"),
)  # fmt: skip
NO_HTTP = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99),
    b"GET /\r\n\r\n",
    b"\x04\x01\x1f\x90\x00\x00\x00\x00\x00", b"SSH-2.0-x\r\n", bytes(range(256)) * 5, b"GET / HTTP/1.1\n\n",
    b"\r\n" * 40_000,
    b"GET / HTTP/3.0\r\nhost: x\r\n\r\n", b"GET / HTTP/11\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1 x\r\nhost: x\r\n\r\n",
    b"GET / FTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\rx: y\r\n\r\n", b"\x00", b"*1\r\n$4\r\nPING\r\n",
    b"GET\t/\tHTTP/1.1\r\nhost: x\r\n\r\n",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What one client does.

    Attributes:
        name: what is odd about it.
        pieces: what it writes, and seconds that it waits.
        answers: how many it waits for.
        allowed: the statuses that the document knows for it, None where it follows no rules.
        leaves: seconds after which it goes away without reading; None to read.
        unanswered: it may be that there is no answer, as nothing was asked for yet.
    """

    name: str
    pieces: list[bytes | float]
    answers: int = 1
    allowed: frozenset[int] | None = None
    leaves: float | None = None
    unanswered: bool = False


@dataclass
class _Request:
    """One to be made odd."""

    method: bytes
    path: bytes
    body: bytes
    allowed: frozenset[int]
    headers: Headers = field(default_factory=list)

    def head(self, version: bytes = b"1.1") -> bytes:
        host = [] if any(name == b"host" for name, _ in self.headers) else [(b"host", b"localhost")]
        lines = [b"%b %b HTTP/%b" % (self.method, self.path, version)]
        lines += [b"%b: %b" % header for header in [*host, *self.headers]]
        return b"\r\n".join([*lines, b"\r\n"])

    def with_length(self, length: int | None = None) -> bytes:
        """As a client should send it, but maybe for its `length`."""
        if self.body or length is not None:
            self.headers.append((b"content-length", b"%d" % (len(self.body) if length is None else length)))
        return self.head() + self.body


class Cases:
    """Cases for every operation of a document, decided by `chance`.

    Args:
        wait: the longest that a slow client waits between two pieces, in seconds.
    """

    def __init__(self, document: Mapping[str, Any], chance: random.Random, wait: float) -> None:
        self._chance, self._wait = chance, wait
        self._bodies = Bodies(document, chance)
        self._operations = [
            (path, method, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            # those that take a body have more to them
            for _ in range(6 if "requestBody" in operation else 1)
        ] + [(path, "get", {}) for path in PAGES]
        self._odd: list[Callable[[_Request], Case]] = [
            self._cut_short, self._slow, self._pieces, self._chunked, self._badly_chunked, self._length_lies,
            self._ahead,
            self._leaving, self._method, self._target, self._headers, self._version, self._no_http, self._mutated,
        ]  # fmt: skip

    def next(self) -> Case:
        """Most of them are odd in their body only, one in three in how it is sent."""
        request = self._request()
        if self._chance.random() < 0.65:
            return Case("body", [request.with_length()], allowed=request.allowed)
        return self._chance.choice(self._odd)(request)

    def _request(self) -> _Request:
        path, method, operation = self._chance.choice(self._operations)
        path = path.replace(
            "{name}", self._chance.choice(["x", "a%2Fb", "%00", "%ff", "..%2f", "a" * 5000, "%F0%9F%98%80"])
        )
        has_body = "requestBody" in operation
        body = self._bodies.body(operation) if has_body else b""
        allowed = frozenset(map(int, operation.get("responses", {200, 303, 404})))
        return _Request(method.upper().encode(), path.encode(), body, allowed, list(JSON) if has_body else [])

    def _cut_short(self, request: _Request) -> Case:
        data = request.with_length()
        return Case("cut short", [data[: self._chance.randrange(len(data))]], leaves=0.01)

    def _slow(self, request: _Request) -> Case:
        data = request.with_length()
        middle = self._chance.randrange(len(data))
        return Case("slow", [data[:middle], self._chance.uniform(0, self._wait), data[middle:]], unanswered=True)

    def _pieces(self, request: _Request) -> Case:
        data, pieces = request.with_length(), list[bytes | float]()
        size = max(1, len(data) // self._chance.choice([2, 5, 30]))
        for begin in range(0, len(data), size):
            pieces += [data[begin : begin + size], 0.0]
        return Case("in pieces", pieces, allowed=request.allowed)

    def _chunked(self, request: _Request) -> Case:
        request.headers.append((b"transfer-encoding", b"chunked"))
        size = self._chance.choice([1, 7, 1000, 1 << 20])
        parts = [request.body[i : i + size] for i in range(0, len(request.body), size)][:2000]
        extension = self._chance.choice([b"", b"", b";a=b", b";" + b"x" * 200])
        chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
        end = self._chance.choice([b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"000000\r\n\r\n"])
        return Case("chunked", [request.head() + chunks + end])

    def _badly_chunked(self, request: _Request) -> Case:
        request.headers.append((b"transfer-encoding", b"chunked"))
        bad = self._chance.choice([
            b"-1\r\n", b"g\r\n", b"fffffffffffffffff\r\n", b"7fffffffffffffff\r\nx", b"5\r\nabcdefgh\r\n0\r\n\r\n",
            b"\r\n\r\n", b"3\nabc\n0\n\n",
            b"5;" + b"a" * 70_000, b"1\r\nab\r\n", b"0x5\r\nabcde\r\n", b" 5\r\nabcde\r\n0\r\n\r\n",
            b"0\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
            b"5\r\nabcde", b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n", b"0\r\ncontent-length: 5\r\n\r\n",
            b"0\r\n\x00: \r\n\r\n", b"",
        ])  # fmt: skip
        return Case("badly chunked", [request.head() + bad], unanswered=True)

    def _length_lies(self, request: _Request) -> Case:
        length = len(request.body) + self._chance.choice([-9, -1, 1, 5, 1000, 3 << 20, 10**18])
        return Case("content-length lies", [request.with_length(max(0, length))], unanswered=True)

    def _ahead(self, request: _Request) -> Case:
        count = self._chance.choice([2, 3, 20])
        requests = [request, *(self._request() for _ in range(count - 1))]
        return Case("sent ahead", [b"".join(each.with_length() for each in requests)], answers=count)

    def _leaving(self, request: _Request) -> Case:
        return Case("leaving", [request.with_length()], leaves=self._chance.uniform(0, 0.05))

    def _method(self, request: _Request) -> Case:
        request.method = self._chance.choice(METHODS)
        request.headers.append((b"connection", b"close"))
        return Case("method", [request.with_length()], unanswered=True)

    def _target(self, request: _Request) -> Case:
        target = self._chance.choice(TARGETS)
        request.path = target % request.path if b"%b" in target else target
        return Case("target", [request.with_length()], unanswered=True)

    def _headers(self, request: _Request) -> Case:
        request.headers += self._chance.choices(HEADERS, k=self._chance.choice([1, 1, 2, 5]))
        return Case("headers", [request.with_length()], unanswered=True)

    def _version(self, request: _Request) -> Case:
        request.headers.append((b"content-length", b"%d" % len(request.body)))
        version = self._chance.choice([b"1.0", b"1.0", b"0.9", b"2.0", b"1.9", b"1.", b"9" * 99, b"1.1\x00"])
        return Case("version", [request.head(version) + request.body], unanswered=True)

    def _no_http(self, request: _Request) -> Case:
        return Case("no HTTP", [self._chance.choice(NO_HTTP)], unanswered=True)

    def _mutated(self, request: _Request) -> Case:
        """Any bytes of it changed, doubled or taken away."""
        data, chance = bytearray(request.with_length()), self._chance
        for _ in range(chance.choice([1, 2, 5])):
            place, count = chance.randrange(len(data)), chance.choice([1, 1, 3, 20])
            piece = bytes(data[place : place + count])
            data[place : place + count] = chance.choice(
                [b"", piece * 2, chance.randbytes(count), b"\r\n", b"\x00", b" "]
            )
            if not data:
                break
        return Case("bytes", [bytes(data)], unanswered=True)
