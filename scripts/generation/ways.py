"""What is measured: ways to choose tokens, ways to guess ahead, and the work they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tgi_server.bench.options import Texts

CLIENTS = (1, 8, 32)
GREEDY = "greedy"
_SAMPLED: Mapping[str, Any] = {"temperature": 1.0}
SAMPLING: Mapping[str, Mapping[str, Any]] = {
    GREEDY: {},
    "temperature 1": _SAMPLED,
    "top-p 0.95": {"top_p": 0.95},
    "top-k 50": {"top_k": 50},
    "top-k 50 and top-p 0.95": {"top_k": 50, "top_p": 0.95},
    "typical-p 0.9": {"typical_p": 0.9},
    "min-p 0.05": {"min_p": 0.05},
    "repetition penalty 1.2": {**_SAMPLED, "repetition_penalty": 1.2},
    "frequency penalty 0.5": {**_SAMPLED, "frequency_penalty": 0.5},
    "presence penalty 0.5": {**_SAMPLED, "presence_penalty": 0.5},
    "watermark": {**_SAMPLED, "watermark": True},
}
"""Fields of the load generator. Where no temperature is given it is 1."""

PLAIN = "speculate=0"
SPECULATION: Mapping[str, list[str]] = {PLAIN: [PLAIN]} | {
    f"speculate={width} speculation={kind}": [f"speculate={width}", f"speculation={kind}"]
    for kind in ("ngram", "suffix")
    for width in (4, 8)
}
"""Options of servers."""

REPETITIVE, ORDINARY = "repetitive", "ordinary"
WORKLOADS: Mapping[str, Mapping[str, Any]] = {
    f"{kind}{suffix}": {"workload": Texts[kind], "prompt_tokens": None, **sampling}
    for kind in (REPETITIVE, ORDINARY)
    for suffix, sampling in (("", {}), ("-sampled", {**_SAMPLED, "sampling_seed": 7}))
}
"""Fields of the load generator. What is drawn has one seed: all servers write the same texts."""

TURNS: Mapping[int, int] = {1: 3, 8: 2}
"""Requests of each client, by the number of clients, where it is not one: few requests tell little."""
