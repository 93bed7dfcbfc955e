"""One server against replicas on Ray Serve, on the same processors. See scripts/replicas."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import httpx

from tests.integration.server import Server, series

WORDS = ["time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state"]
"""Each is one token of the demo model."""
PREFIX_TOKENS = 512
HITS, ASKED = "tgi_prefix_cache_hit_tokens", "tgi_prefix_cache_query_tokens"


@dataclass
class Load:
    """What clients saw. Times in seconds."""

    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        ranked = sorted(self.first)
        last = ranked[int(0.95 * (len(ranked) - 1))]
        half = statistics.median(ranked)
        return f"{self.tokens / self.seconds:7.1f} tokens/s, first token {half:.2f} s (p50), {last:.2f} s (p95)"


def words(seed: int, count: int) -> str:
    """A text of so many tokens."""
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(count))


async def ask(client: httpx.AsyncClient, prompt: str, new_tokens: int) -> AsyncIterator[str | None]:
    """The text of each token as it comes, then None if the answer was whole."""
    body = {"inputs": prompt, "parameters": {"max_new_tokens": new_tokens}}
    async with client.stream("POST", "/generate_stream", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                event = json.loads(line[5:])
                if "error" in event:
                    raise RuntimeError(event["error"])
                yield event["token"]["text"]
                if event["generated_text"] is not None:
                    yield None


async def load(url: str, prompts: Sequence[str], clients: int, new_tokens: int) -> Load:
    """All prompts, by so many clients at a time."""
    left, seen = list(enumerate(prompts)), Load()

    async def work(client: httpx.AsyncClient) -> None:
        while left:
            _, prompt = left.pop(0)
            began, text, whole = time.monotonic(), "", False
            async for token in ask(client, prompt, new_tokens):
                if token is None:
                    whole = True
                    break
                if not text:
                    seen.first.append(time.monotonic() - began)
                seen.tokens += 1
                text += token
            assert whole, f"an answer ended after {text!r}"
            seen.texts[prompt] = text

    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        began = time.monotonic()
        await asyncio.gather(*(work(client) for _ in range(clients)))
        seen.seconds = time.monotonic() - began
    return seen


def total(metrics: str, name: str) -> float:
    """The sum of a metric over all replicas."""
    return sum(value for line, value in series(metrics).items() if line.partition("{")[0] == name)


def shared(prefixes: int, turns: int) -> list[str]:
    """Prompts that begin with so many texts of 512 tokens, each of them once a turn, in any order."""
    order = random.Random(0)
    prompts = []
    for turn in range(turns):
        for prefix in order.sample(range(prefixes), prefixes):
            prompts.append(f"{words(prefix, PREFIX_TOKENS)} {words(1000 + turn * prefixes + prefix, 8)}")
    return prompts


async def hits(url: str, prefixes: int, turns: int, clients: int) -> tuple[Load, float, float]:
    """What clients saw, tokens that were in a cache, and tokens that were looked for."""
    before = read(url)
    seen = await load(url, shared(prefixes, turns), clients, 4)
    after = read(url)
    found, asked = (total(after, name) - total(before, name) for name in (HITS, ASKED))
    return seen, found, asked


def front_seconds(metrics: str) -> float | None:
    """Processor time that the front has used; None where there is none."""
    return series(metrics).get('process_cpu_seconds_total{replica="front"}')


def told(url: str, seen: Load, before: float | None) -> str:
    """What passing the answers on took, where there is a front."""
    after = front_seconds(read(url))
    if before is None or after is None:
        return ""
    each = (after - before) / seen.tokens
    return f"; the front: {1000 * each:.2f} ms of a processor for a token, with what it does every second"


def read(url: str) -> str:
    """The metrics of a server."""
    return httpx.get(f"{url}/metrics", timeout=30).text


def main() -> None:
    parser = argparse.ArgumentParser(prog="replicas", description=__doc__)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("options", nargs="*", default=[], help="of all servers: model=smollm2")
    given = parser.parse_args()
    common = given.options or ["model=smollm2"]
    common = [*common, "max_concurrent_requests=32", "max_input_length=768", "max_total_tokens=1024"]
    on_ray = ["deployment=ray", f"replicas={given.replicas}"]
    kinds = {
        "one server": [],
        f"{given.replicas} replicas": on_ray,
        f"{given.replicas} replicas, prefix_routing=false": [*on_ray, "prefix_routing=false"],
    }
    prompts = [f"Question {number}: {words(number, 40)}" for number in range(given.requests)]
    texts: dict[str, str] | None = None
    for name, more in kinds.items():
        with Server(*common, *more, patience=300) as server:
            url = f"http://127.0.0.1:{server.port}"
            run = partial(load, url, clients=given.clients, new_tokens=given.new_tokens)
            asyncio.run(run(prompts[: given.clients]))
            before = front_seconds(read(url))
            seen = asyncio.run(run(prompts))
            print(f"{name:40} {seen}{told(url, seen, before)}", flush=True)
            texts = texts or seen.texts
            print(
                f"{'':40} texts as of one server: {sum(texts[p] == t for p, t in seen.texts.items())} of {len(texts)}"
            )
            seen, found, asked = asyncio.run(hits(url, 8, 6, 4))
            print(f"{'':40} {found:.0f} of {asked:.0f} prompt tokens in a cache; {seen}", flush=True)


if __name__ == "__main__":
    main()
