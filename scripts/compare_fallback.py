"""Tokens/s of our own decoder and of transformers' module over the same weights. See scripts/compare-fallback."""

from __future__ import annotations

import argparse
import statistics

import torch
from profile_step import DEMO, Bench

from tgi_server.models.fallback.probe import describe

PROMPT, NEW = 80, 64


def tokens_per_second(benches: list[Bench], clients: int) -> list[float]:
    """Of so many clients who begin together, their prompts in one step, then one token each in a step.

    The models take turns after each step, so that what else the machine does hits all of them.
    """
    batches = [bench.start(clients, PROMPT) for bench in benches]
    seconds = [0.0] * len(benches)
    for counts in ([PROMPT] * clients, *[[1] * clients] * (NEW - 1)):
        for number, (bench, batch) in enumerate(zip(benches, batches, strict=True)):
            seconds[number] += bench.step(batch, counts)
    return [clients * NEW / each for each in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(prog="compare-fallback", description=__doc__)
    parser.add_argument(
        "--model", default=DEMO, metavar="MODEL_ID", help="a model that a family serves [the demo model]"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="at a time [1 8 32]")
    parser.add_argument("--rounds", type=int, default=5, help="in turns; medians count [5]")
    arguments = parser.parse_args()
    size = max(arguments.clients) * (PROMPT + NEW + 64)
    benches = [
        Bench("none", arguments.model, size),
        Bench("none", arguments.model, size, lambda directory: describe(directory, trust=False)),
    ]
    print("| clients | own decoder, tokens/s | transformers' module | ratio |\n| ---: | ---: | ---: | ---: |")
    for clients in arguments.clients:
        rounds = [tokens_per_second(benches, clients) for _ in range(arguments.rounds)]
        own, theirs = (statistics.median(speeds) for speeds in zip(*rounds, strict=True))
        ratio = statistics.median(other / one for one, other in rounds)
        print(f"| {clients} | {own:.1f} | {theirs:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
