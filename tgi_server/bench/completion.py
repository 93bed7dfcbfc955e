"""One streamed completion, timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from tgi_server.bench.http import Pool
from tgi_server.bench.sse import EventReader

_SHOWN = 300
"""Characters of an error that are kept."""
_LONGEST_TOKEN = 4096
"""Bytes of an answer for each token asked for, the JSON around it included: several times what servers send."""


@dataclass
class Record:
    """What happened to one request. Times are in seconds since the measurement began.

    Attributes:
        start: when it was due; in an open loop it may have been sent later, if too many were under way.
        sent: when it was written to the socket.
        arrivals: one time for each event that brought text.
        end: when the answer was complete, or failed.
        tokens: generated, as the server counts them, or the number of events where it does not tell.
        prompt_tokens: None where the server does not tell.
        error: why it failed.
    """

    start: float
    sent: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    end: float = 0.0
    tokens: int = 0
    prompt_tokens: int | None = None
    error: str | None = None


class Completions:
    """Asks one server for completions.

    Args:
        pool: connections to the server.
        model: the model's name in requests; None leaves it out.
        sampling: further fields of each request, as `sampling.fields` gives them.
    """

    def __init__(self, pool: Pool, model: str | None, sampling: Mapping[str, Any]) -> None:
        self._pool = pool
        self._options: dict[str, Any] = {
            **sampling,
            "stream": True,
            "stream_options": {"include_usage": True},
        } | ({"model": model} if model is not None else {})

    async def ask(self, prompt: str, new_tokens: int, began: float, start: float, limit: float) -> Record:
        """Send one request and read its answer; failures are in the record.

        Args:
            new_tokens: how many to generate.
            began: when the measurement began (`time.monotonic`).
            start: when the request was due, in seconds since then.
            limit: seconds since then after which the request is given up.
        """
        record = Record(start, time.monotonic() - began)
        body = orjson.dumps({"prompt": prompt, "max_tokens": new_tokens, **self._options})
        answer = _Answer(record, began, (1 << 20) + _LONGEST_TOKEN * new_tokens)
        try:
            async with asyncio.timeout_at(began + limit):
                status = await self._pool.send(self._pool.target.request("POST", "/v1/completions", body), answer.feed)
            answer.complete(status)
        except TimeoutError:
            record.error = f"not done after {limit:g} s"
        except OSError as error:
            record.error = _line(error.strerror or str(error))
        record.end = time.monotonic() - began
        record.tokens = record.tokens or len(record.arrivals)
        return record


class _Answer:
    """Fills a record from the body of an answer of `longest` bytes at most."""

    def __init__(self, record: Record, began: float, longest: int) -> None:
        self._record = record
        self._began = began
        self._left = longest
        self._now = 0.0
        self._reader = EventReader(self._take)
        self._events = 0
        self._head = b""

    def feed(self, data: bytes) -> None:
        self._now = time.monotonic() - self._began
        self._left -= len(data)
        if self._left < 0:
            raise ConnectionError("the answer is far longer than the tokens asked for")
        if not self._events:
            self._head = (self._head + data)[:4096]
        self._reader.feed(data)

    def complete(self, status: int) -> None:
        if status != 200:
            body = self._head.decode(errors="replace")
            message = _message(_loads(self._head)) if body.startswith("{") else None
            self._record.error = _line(f"status {status}: {message or body}")
        elif not self._record.arrivals and self._record.error is None:
            self._record.error = "the answer has no tokens"

    def _take(self, text: bytes) -> None:
        self._events += 1
        if text == b"[DONE]":
            return
        event = _loads(text)
        if message := _message(event):
            self._record.error = _line(message)
        if isinstance(usage := event.get("usage"), dict):
            self._record.tokens = _count(usage.get("completion_tokens")) or 0
            self._record.prompt_tokens = _count(usage.get("prompt_tokens"))
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            # A token may have no text yet (a part of a character); the event that only tells the end is none.
            if choice.get("text") or choice.get("finish_reason") is None:
                self._record.arrivals.append(self._now)


def _loads(text: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"error": f"not JSON: {text[:80]!r}"} if text else {}
    return value if isinstance(value, dict) else {}


def _message(event: dict[str, Any]) -> str | None:
    """The message of an error in one of the usual shapes; None when it is none."""
    error = event.get("error") or (event.get("message") if event.get("object") == "error" else None)
    return str(error.get("message") or error if isinstance(error, dict) else error) if error else None


def _count(value: object) -> int | None:
    """A number of tokens; None for what cannot be one."""
    return value if type(value) is int and 0 <= value < 1 << 31 else None


def _line(text: str) -> str:
    return " ".join(text.split())[:_SHOWN]
