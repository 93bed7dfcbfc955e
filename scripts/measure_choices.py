"""What prefix caching and chunked prefill change, on the demo model. See scripts/measure-choices."""

from __future__ import annotations

import itertools
import statistics
import threading
import time

from tests.integration.server import Server

PREFIX = " ".join(f"rule {i} says be kind" for i in range(100))  # about 512 tokens


def first_token(server: Server, prompt: str) -> float:
    """Milliseconds from the request to the first event."""
    begin = time.perf_counter()
    body = {"inputs": prompt, "parameters": {"max_new_tokens": 2}}
    with server.client.stream("POST", "/generate_stream", json=body) as answer:
        times = [time.perf_counter() - begin for line in answer.iter_lines() if line.startswith("data:")]
    return times[0] * 1e3


def shared_prefix() -> None:
    """Requests that share 512 tokens: the first fills the cache, the others find it."""
    for caching in ("false", "true"):
        with Server("model=smollm2", f"prefix_caching={caching}") as server:
            first_token(server, "warm up")
            times = [first_token(server, f"{PREFIX} Question {i}?") for i in range(9)]
            print(f"prefix_caching={caching}: first token p50 {statistics.median(times[1:]):.0f} ms")


def gaps_beside_long_prompts(*options: str) -> list[float]:
    """Milliseconds between the tokens of one stream while prompts of about 1000 tokens arrive twice a second."""
    with Server("model=smollm2", *options) as server:
        first_token(server, "warm up")
        stop = threading.Event()

        def arrive() -> None:
            number = 0
            while not stop.wait(0.5):
                number += 1
                server.generate(f"{number} " + "word " * 950, max_new_tokens=1)

        others = threading.Thread(target=arrive)
        others.start()
        body = {"inputs": "Tell a story.", "parameters": {"max_new_tokens": 400, "do_sample": True}}
        times = []
        with server.client.stream("POST", "/generate_stream", json=body) as answer:
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    times.append(time.perf_counter())
        stop.set()
        others.join()
    return [(b - a) * 1e3 for a, b in itertools.pairwise(times)]


def main() -> None:
    shared_prefix()
    for options in ((), ("batching=chunked",)):
        gaps = sorted(gaps_beside_long_prompts(*options))
        p50, p99 = gaps[len(gaps) // 2], gaps[int(len(gaps) * 0.99)]
        print(f"{' '.join(options) or 'batching=default'}: between tokens p50 {p50:.0f} ms, p99 {p99:.0f} ms")


if __name__ == "__main__":
    main()
