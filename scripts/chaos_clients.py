"""The clients of scripts/chaos: what becomes of their requests."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

FINISHED = "finished"
CLOSED = "closed"
"""The connection ended without an answer."""
PATIENCE = 120.0
"""Seconds that a client waits for the next piece of an answer."""


@dataclass
class Crowd:
    """Clients that stream, and some that want their answer as a whole.

    Attributes:
        begun: streams whose first token came.
        ends: how each request ended: `finished`, `closed`, or the kind of its error.
    """

    url: str
    streaming: int
    whole: int
    new_tokens: int
    begun: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Returns when all streams have begun."""
        self.tasks = [asyncio.create_task(self._one(index)) for index in range(self.streaming + self.whole)]
        while self.begun < self.streaming:
            await asyncio.sleep(0.02)
            if any(task.done() for task in self.tasks):
                raise RuntimeError(f"requests ended before all had begun: {dict(self.ends)}")

    async def cut(self) -> None:
        """All go away in the middle of their answers."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def wait(self, seconds: float) -> bool:
        """Whether all requests have ended by then; those that have not are given up."""
        _, left = await asyncio.wait(self.tasks, timeout=seconds)
        for task in left:
            self.ends["open"] += 1
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return not left

    async def _one(self, index: int) -> None:
        body = {"inputs": f"A story of {index} men: ", "parameters": {"max_new_tokens": self.new_tokens}}
        async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE) as client:
            try:
                end = await (self._stream(client, body) if index < self.streaming else whole(client, body))
            except httpx.TransportError:
                end = CLOSED
        self.ends[end] += 1

    async def _stream(self, client: httpx.AsyncClient, body: dict[str, Any]) -> str:
        last: dict[str, Any] = {}
        async with client.stream("POST", "/generate_stream", json=body) as answer:
            if answer.status_code != 200:
                return f"status {answer.status_code}"
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    self.begun += not last
                    last = json.loads(line[5:])
        if "error" in last:
            return f"event {last['error_type']}"
        return FINISHED if last.get("generated_text") is not None else CLOSED


async def whole(client: httpx.AsyncClient, body: dict[str, Any], path: str = "/generate") -> str:
    """How a request that is not streamed ends."""
    answer = await client.post(path, json=body)
    if answer.status_code == 200:
        return FINISHED
    return f"{answer.status_code} {answer.json().get('error_type', '')}".strip()
