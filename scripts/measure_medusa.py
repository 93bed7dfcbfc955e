"""Tokens a second of the demo model with Medusa heads and without, in turns. See scripts/measure-medusa."""

from __future__ import annotations

import argparse
import re
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.integration.server import Server
from tests.medusa_training import learnt, others, write_trained


def speed(server: Server, prompts: list[str], new_tokens: int) -> float:
    """Tokens a second of greedy answers, one after the other."""
    begin, made = time.perf_counter(), 0
    for prompt in prompts:
        body = {"inputs": prompt, "parameters": {"max_new_tokens": new_tokens, "details": True}}
        made += server.client.post("/generate", json=body).json()["details"]["generated_tokens"]
    return made / (time.perf_counter() - begin)


def shares(server: Server) -> str:
    """Of right guesses, by their place."""
    text = server.client.get("/metrics").text
    counts = {
        kind: dict(re.findall(rf'tgi_speculate_{kind}_tokens\{{position="(\d+)"\}} (\S+)', text))
        for kind in ("guessed", "accepted")
    }
    told = (
        f"{position}: {float(counts['accepted'].get(position, 0)) / float(made):.0%} of {float(made):.0f}"
        for position, made in sorted(counts["guessed"].items())
    )
    return ", ".join(told) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(prog="measure-medusa", description=__doc__)
    parser.add_argument("--dtype", default="bfloat16", help="[%(default)s]")
    parser.add_argument("--others", action="store_true", help="questions that nothing was learnt from")
    parser.add_argument("--rounds", type=int, default=5, help="medians count [%(default)s]")
    parser.add_argument("--new-tokens", type=int, default=128, help="of an answer [%(default)s]")
    given = parser.parse_args()
    prompts = others() if given.others else learnt()
    with TemporaryDirectory() as place, ExitStack() as stack:
        models = {
            "base": "model=smollm2",
            "shared head": f"model_id={write_trained(Path(place) / 'shared')}",
            "own projections": f"model_id={write_trained(Path(place) / 'own', own=True)}",
        }
        servers = {n: stack.enter_context(Server(m, f"dtype={given.dtype}")) for n, m in models.items()}
        rates: dict[str, list[float]] = {name: [] for name in servers}
        for server in servers.values():
            speed(server, prompts[:1], 16)
        for _ in range(given.rounds):
            for name, server in servers.items():
                rates[name].append(speed(server, prompts, given.new_tokens))
        for name, server in servers.items():
            ratio = median(own / base for own, base in zip(rates[name], rates["base"], strict=True))
            print(f"{name}: {median(rates[name]):.1f} tokens/s, {ratio:.2f} times the base; right {shares(server)}")
            print("\n".join(line for line in server.output.splitlines() if "speculation:" in line))


if __name__ == "__main__":
    main()
