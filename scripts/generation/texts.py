"""Whether servers that guess ahead write what they would write without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import httpx

from tgi_server.bench.options import BenchOptions, Texts
from tgi_server.bench.workload import Workload

CHOICES: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"temperature": 0},
    "with penalties": {"temperature": 0, "repetition_penalty": 1.2, "frequency_penalty": 0.5},
    "with a stop sequence": {"temperature": 0, "stop": ["\n\n", "5"]},
    "guided": {"temperature": 0, "ignore_eos": False, "response_format": {"type": "json_object"}},
    "sampled": {"temperature": 1, "seed": 7, "top_p": 0.95},
}
"""Fields of requests."""
TOGETHER = 8


def prompts(count: int) -> list[str]:
    """So many, half of them repetitive."""
    kinds = (Texts.repetitive, Texts.ordinary)
    sources = [Workload.of(BenchOptions(workload=kind)).texts("texts") for kind in kinds]
    return list(islice(_in_turns(sources), count))


def _in_turns(sources: Sequence[Iterator[str]]) -> Iterator[str]:
    while True:
        for source in sources:
            yield next(source)


def written(client: httpx.Client, prompts: Sequence[str], new_tokens: int, together: int) -> dict[str, list[str]]:
    """Texts by the way they were chosen, in the order of the prompts, `together` of which run at a time."""

    def ask(prompt: str, fields: Mapping[str, Any]) -> str:
        body = {"prompt": prompt, "max_tokens": new_tokens, "ignore_eos": True, **fields}
        answer = client.post("/v1/completions", json=body)
        answer.raise_for_status()
        text: str = answer.json()["choices"][0]["text"]
        return text

    with ThreadPoolExecutor(together) as pool:
        return {
            name: list(pool.map(lambda prompt, fields=fields: ask(prompt, fields), prompts))
            for name, fields in CHOICES.items()
        }


def compared(texts: Mapping[str, Sequence[str]], expected: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many texts there are, and how many of them are the expected ones."""
    pairs = [pair for name in texts for pair in zip(texts[name], expected[name], strict=True)]
    return {"texts": len(pairs), "equal": sum(one == other for one, other in pairs)}
