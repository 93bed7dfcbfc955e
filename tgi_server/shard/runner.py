"""Runs a model on one rank: loads it, warms it up, and turns each plan into an outcome."""

from __future__ import annotations

import logging
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tgi_server import custom_kernels
from tgi_server.attention.auto import AutoAttention
from tgi_server.config.load import instantiate
from tgi_server.config.schema import Launch, ServerConfig
from tgi_server.errors import ConfigError, ModelError
from tgi_server.layers.ops import best_ops
from tgi_server.layers.parallel import Group
from tgi_server.models.decoder import Decoder, attention_shape
from tgi_server.models.spec import ModelSpec
from tgi_server.models.weights import Checkpoint, WeightLoader
from tgi_server.quantize.base import QuantizeMethod
from tgi_server.shard import kv_cache
from tgi_server.shard.batch import BatchState
from tgi_server.shard.graphs import best_forward
from tgi_server.shard.guides import Guides
from tgi_server.shard.prompts import PromptScores
from tgi_server.shard.sampler import Choice, Row, Watermark, choose
from tgi_server.types import BLOCK_SIZE, PROGRESS, NewSequence, Outcome, Plan, SamplingParams, ShardInfo, TopTokens

log = logging.getLogger(__name__)

WARM_UP_TOKENS = 24
"""Length of the first prompt: enough for the kernels of many rows."""
EFFICIENT_TOKENS = {"cpu": 256, "cuda": 4096}
"""New positions that fill a step, see ShardInfo."""


class ModelRunner:
    """One rank of a model.

    Raises ConfigError or ModelError when the model cannot be served with these options on this machine.
    """

    def __init__(self, launch: Launch, spec: ModelSpec, rank: int) -> None:
        config, world = launch.config, launch.resolved.num_shard
        if config.disable_custom_kernels:
            custom_kernels.disable()
        self._spec = spec
        self._device = _device(rank, config.cuda_memory_fraction)
        self._dtype: torch.dtype = getattr(torch, launch.resolved.dtype.value)
        self._group = Group.join(rank, world, config.master_addr, config.master_port, self._device)
        self._told = 0.0
        self._watermark = Watermark.of(config)
        self._guides = self._read_vocabulary(launch) if rank == 0 else None  # which decides for all
        self._model = self._load(launch)
        self._state = BatchState(config.max_total_tokens, self._device)
        self._prompts = PromptScores(self._state, self._model.logits)
        blocks = self._allocate(config)
        self._run = best_forward(self._model, self._caches, config, config.enable_cuda_graphs)
        self._warm_up(config)
        self.info = ShardInfo(
            dtype=str(self._dtype),
            device_type=self._device.type,
            num_blocks=blocks,
            efficient_tokens=EFFICIENT_TOKENS[self._device.type],
            vocab_size=spec.vocab_size,
            eos_token_ids=list(spec.eos_token_ids),
            unguided=self._guides.unsupported() if self._guides else None,
        )
        if self.info.unguided:
            log.warning("requests with grammars, JSON schemas or tools are refused: %s", self.info.unguided)

    def _read_vocabulary(self, launch: Launch) -> Guides:
        path = Path(launch.resolved.model_dir) / "tokenizer.json"
        return Guides(path, self._spec.vocab_size, self._spec.eos_token_ids)

    def _load(self, launch: Launch) -> Decoder:
        quantize: QuantizeMethod = instantiate(launch.config.quantize)
        _require("quantize", quantize, quantize.unsupported(self._device, self._dtype))
        attention = instantiate(launch.config.attention)
        if isinstance(attention, AutoAttention):
            attention = attention.choose(self._device, self._dtype, self._spec.head_dim)
        _require("attention", attention, attention.unsupported(self._device, self._dtype, self._spec.head_dim))
        checkpoint = Checkpoint(Path(launch.resolved.model_dir), self._tell)
        loader = WeightLoader(checkpoint, quantize, self._group, self._dtype, self._device)
        ops = best_ops(self._device, self._dtype)
        return Decoder(self._spec, loader, attention, ops, launch.config.max_total_tokens)

    def _tell(self, fraction: float) -> None:
        """A line for the launcher, which shows it; not more often than a person can read."""
        now = time.monotonic()
        if now - self._told > 0.1:
            self._told = now
            print(f"{PROGRESS}{fraction:.3f}", file=sys.stderr, flush=True)

    def _allocate(self, config: ServerConfig) -> int:
        """Make the KV cache; every rank gets as many blocks as the poorest can hold."""
        shape = attention_shape(self._spec, self._group.world)
        size = kv_cache.block_bytes(shape, self._spec.num_layers, self._dtype)
        free = kv_cache.free_memory(self._device, config.cuda_memory_fraction)
        if self._device.type == "cpu":
            free //= self._group.world  # the ranks share the host's memory
        blocks = kv_cache.plan_blocks(config, self._group.minimum(free, self._device), size)
        spare = 1 if self._device.type == "cuda" else 0  # for the padded rows of CUDA graphs
        self._caches = kv_cache.allocate(blocks + spare, shape, self._spec.num_layers, self._dtype, self._device)
        log.info(
            "KV cache: %d tokens in %d blocks of %.1f KiB a shard (%.2f of %.2f GiB free)",
            blocks * BLOCK_SIZE, blocks, size / 1024, blocks * size / 2**30, free / 2**30,
        )  # fmt: skip
        return blocks

    def _warm_up(self, config: ServerConfig) -> None:
        """Run a small prefill and a decode, so that the first request does not pay for what is set up lazily.

        One of the two draws its token: on GPUs that takes a kernel of its own. Raises ModelError when they fail.
        """
        prompt = [0] * min(WARM_UP_TOKENS, config.max_input_length)
        blocks = list(range(-(-(len(prompt) + 1) // BLOCK_SIZE)))
        drawn = NewSequence(id=-1, prompt_ids=prompt, blocks=blocks, sampling=SamplingParams(do_sample=True))
        greedy = NewSequence(id=-2, prompt_ids=prompt, blocks=blocks, sampling=SamplingParams())
        for plan in (
            Plan(step=-3, ids=[-1], counts=[len(prompt)], new=[drawn]),
            Plan(step=-2, ids=[-2], counts=[len(prompt)], new=[greedy], finished=[-1]),
            Plan(step=-1, ids=[-2], counts=[1]),
        ):
            if failed := self.step(plan).failed:
                raise ModelError(f"the model does not run: {next(iter(failed.values()))}")
        self._state.forget(-2)

    @torch.inference_mode()
    def step(self, plan: Plan) -> Outcome:
        """Run one step. A failure is told as the failure of the plan's sequences as long as no other rank waits."""
        start = time.perf_counter_ns()
        self._state.update(plan)
        for id in plan.finished:
            self._prompts.forget(id)
        if self._guides:
            self._guides.update(plan)
        if not plan.ids:
            return Outcome(plan.step, [], [], [], [])
        try:
            outcome = self._forward(plan)
        except Exception as error:
            if self._group.world > 1:
                raise
            return self._failed(plan, error)
        return _timed(outcome, time.perf_counter_ns() - start)

    def _forward(self, plan: Plan) -> Outcome:
        inputs = self._state.inputs(plan)
        ids = [plan.ids[index] for index in inputs.yielding]
        allowed = self._guides.allowed(ids, self._device) if self._guides else None  # found out while the device works
        hidden = self._run(inputs)
        scores = self._prompts.collect(plan, inputs, hidden)
        tokens, logprobs, top = self._choose(ids, hidden[inputs.last_rows], allowed)
        self._state.advance(plan, inputs.yielding, tokens)
        counts = [0] * len(plan.ids)
        for index in inputs.yielding:
            counts[index] = 1
        return Outcome(
            plan.step, plan.ids, counts, tokens, logprobs, top,
            prompt_logprobs={id: prompt.logprobs for id, prompt in scores.items()},
            prompt_top_tokens={id: prompt.top for id, prompt in scores.items() if prompt.top},
            unguided=self._guides.failures(ids) if self._guides else {},
        )  # fmt: skip

    def _choose(
        self, ids: list[int], hidden: Tensor, allowed: Future[dict[int, Tensor]] | None
    ) -> tuple[list[int], list[float], dict[int, list[TopTokens]]]:
        """The next token of each of the sequences `ids`: rank 0 decides, all learn it."""
        if not ids:
            return [], [], {}
        logits = self._model.logits(hidden)
        if logits is None:
            tokens = torch.empty(len(ids), dtype=torch.int64, device=self._device)
            return self._group.broadcast(tokens).tolist(), [], {}
        choice = self._sample(ids, logits, allowed.result() if allowed else {})
        self._group.broadcast(choice.tokens)
        top = {ids[row]: [entry] for row, entry in choice.top.items()}
        return choice.tokens.tolist(), choice.logprobs.tolist(), top

    def _sample(self, ids: list[int], logits: Tensor, allowed: dict[int, Tensor]) -> Choice:
        rows = [Row(self._state.sampling(id), self._state.known(id), self._state.prompt_length(id)) for id in ids]
        choice = choose(logits, rows, self._watermark, allowed)
        if allowed and self._guides:
            for row, token in self._guides.take(ids, choice.tokens.tolist()).items():
                choice.logprobs[row] += logits[row, token] - logits[row, choice.tokens[row]]
                choice.tokens[row] = token
        return choice

    def _failed(self, plan: Plan, error: Exception) -> Outcome:
        """Blame the whole step. Its sequences stay known: a plan that is under way may still name them."""
        log.exception("step %d failed", plan.step)
        failed = dict.fromkeys(plan.ids, f"{type(error).__name__}: {error}")
        return Outcome(plan.step, plan.ids, [0] * len(plan.ids), [], [], failed=failed)


def _timed(outcome: Outcome, elapsed_ns: int) -> Outcome:
    return replace(outcome, forward_ns=elapsed_ns)


def _device(rank: int, memory_fraction: float) -> torch.device:
    """This rank's GPU, of whose memory torch may take `memory_fraction` at most; the CPU where there is none.

    It becomes the current device: Triton, graphs and NCCL go by that.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    torch.cuda.set_per_process_memory_fraction(memory_fraction, device)
    return device


def _require(option: str, part: object, reasons: list[str]) -> None:
    if reasons:
        raise ConfigError(f"{option}={type(part).__name__}: {'; '.join(reasons)}")
