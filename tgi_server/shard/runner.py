"""A model on one rank: loads it, sizes and makes its caches, warms it up."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from tgi_server.cache import lengths, memory
from tgi_server.config.load import instantiate
from tgi_server.config.schema import Launch, ServerConfig
from tgi_server.errors import ConfigError, ModelError
from tgi_server.kernels.row import Needs
from tgi_server.kernels.table import UnavailableError, best, efficient_tokens
from tgi_server.layers.parallel import Group
from tgi_server.models.description import Description
from tgi_server.models.load import load_model
from tgi_server.models.model import Model
from tgi_server.placement import local_ranks, placements
from tgi_server.shard.batch import BatchState
from tgi_server.shard.drafting import Drafting
from tgi_server.shard.graphs import best_forward
from tgi_server.shard.guides import Guides
from tgi_server.shard.sampler import Watermark
from tgi_server.shard.step import Stepper
from tgi_server.shard.timing import STEPS, StepTimer, agreed
from tgi_server.speculate.base import Drafter, Surroundings
from tgi_server.speculate.costs import Allotment, Costs
from tgi_server.types import (
    PROGRESS,
    SETTLED,
    CacheKind,
    GroupInfo,
    NewSequence,
    Outcome,
    Plan,
    SamplingParams,
    ShardInfo,
)

log = logging.getLogger(__name__)

WARM_UP_TOKENS = 24
"""Length of the first prompt: enough for the kernels of many rows."""
MANY_TEXTS = 16
"""Texts of which guesses are timed, where the drafter computes for them."""
SHORT_CONTEXT, LONG_CONTEXT = 32, 1024
"""Contexts at which decode steps are timed where tokens are guessed."""


class ModelRunner:
    """One rank of a model.

    Args:
        launch: the configuration, and what the launcher found out.
        spec: the model's description.
        rank: of this process.

    Raises ConfigError or ModelError when the model cannot be served with these options on this machine.
    """

    def __init__(self, launch: Launch, spec: Description, rank: int) -> None:
        asked, world = launch.config, launch.resolved.num_shard
        config = lengths.longest(asked, spec.max_positions)
        launch = replace(launch, config=config)  # until it is known what fits beside the weights
        self._spec = spec
        self._width = _draft_width(launch, spec)
        self._neighbours = len(local_ranks(config, world))
        place = placements(config, world, launch.resolved.node_hosts)[rank]
        self._device = _device(place.device, config.cuda_memory_fraction)
        self._dtype: torch.dtype = getattr(torch, launch.resolved.dtype.value)
        self._group = Group.join(rank, world, config.master_addr, config.master_port, self._device)
        self._told = 0.0
        self._free = memory.free_memory(self._device, config.cuda_memory_fraction)
        guides = self._read_vocabulary(launch) if rank == 0 else None  # which decides for all
        needs = Needs(
            device=self._device, dtype=self._dtype, plain=config.disable_custom_kernels,
            library=instantiate(config.attention).wanted,
        )  # fmt: skip
        model = self._load(launch, needs)
        drafter = self._drafter(launch, model, needs)  # before the caches, which take what memory is left
        self._group.gather("the model is loaded")
        config = self._settled(asked) if lengths.is_open(asked) else asked
        state = BatchState(config.max_total_tokens, self._device, spec.groups, start=spec.start_token_id)
        blocks = self._allocate(config)
        run = best_forward(model, self._caches, spec, config, config.enable_cuda_graphs, 1 + self._width)
        parts = run, model.logits, guides, Watermark.of(config), self._group, needs
        self._stepper = Stepper(state, *parts)
        self._warm_up(config)
        if drafter is not None:
            timer = StepTimer(
                lambda state: Stepper(state, *parts).step, spec.groups, blocks, self._group, self._device,
                spec.start_token_id,
            )  # fmt: skip
            self._stepper = Stepper(state, *parts, Drafting(drafter, self._allotment(timer, drafter, config)))
        self.info = self._info(blocks, guides)

    def _info(self, blocks: list[int], guides: Guides | None) -> ShardInfo:
        unguided = guides.unsupported() if guides else None
        if unguided:
            log.warning("requests with grammars, JSON schemas or tools are refused: %s", unguided)
        return ShardInfo(
            dtype=str(self._dtype),
            device_type=self._device.type,
            groups=[
                GroupInfo(group.kind, group.window, count)
                for group, count in zip(self._spec.groups, blocks, strict=True)
            ],
            efficient_tokens=efficient_tokens(self._device),
            vocab_size=self._spec.vocab_size,
            eos_token_ids=list(self._spec.eos_token_ids),
            unguided=unguided,
            draft_width=self._width,
            prefix_cacheable=not self._spec.by_length,
            start_token_id=self._spec.start_token_id,
        )

    def _read_vocabulary(self, launch: Launch) -> Guides:
        path = Path(launch.resolved.model_dir) / "tokenizer.json"
        return Guides(path, self._spec.vocab_size, self._spec.eos_token_ids)

    def _load(self, launch: Launch, needs: Needs) -> Model:
        config = launch.config
        directory, longest = Path(launch.resolved.model_dir), config.max_total_tokens
        quantize, adapter = instantiate(config.quantize), launch.resolved.adapter_dir
        try:
            model = load_model(
                directory, self._spec, needs, longest, quantize, self._group, self._tell,
                adapter_dir=None if adapter is None else Path(adapter),
            )  # fmt: skip
        except UnavailableError as error:
            raise ConfigError(f"attention={needs.library}: {error}") from error
        for choice in (*model.choices, best("sample", needs)):
            slow = choice.library == "torch"
            log.log(logging.WARNING if slow else logging.INFO, "%s%s", choice, ", which is slow" if slow else "")
        return model

    def _drafter(self, launch: Launch, model: Model, needs: Needs) -> Drafter | None:
        """What guesses; None where nothing is to be guessed."""
        if not self._width:
            return None
        heads = launch.resolved.heads_dir
        around = Surroundings(
            model, self._spec, self._group, needs, None if heads is None else Path(heads), self._width
        )  # fmt: skip
        drafter: Drafter = instantiate(launch.config.speculation).drafter(around)
        return drafter

    def _allotment(self, timer: StepTimer, drafter: Drafter, config: ServerConfig) -> Allotment:
        """What guesses cost on this machine, which the log tells."""
        longest = config.max_total_tokens - STEPS - 2
        contexts = min(SHORT_CONTEXT, longest), min(LONG_CONTEXT, longest)
        own = Costs.measure(
            lambda texts, _: agreed(drafter.seconds(texts), self._group, self._device), (0, 0), MANY_TEXTS
        )
        allotment = Allotment(Costs.measure(timer, contexts), self._width, own)
        log.info("speculation: %s", allotment)
        return allotment

    def _tell(self, fraction: float) -> None:
        """A line for the launcher, which shows it; not more often than a person can read."""
        now = time.monotonic()
        if now - self._told > 0.1 or fraction >= 1:
            self._told = now
            print(f"{PROGRESS}{fraction:.3f}", file=sys.stderr, flush=True)

    def _settled(self, asked: ServerConfig) -> ServerConfig:
        """The lengths that fit, which rank 0 tells the launcher; the poorest rank decides for all."""
        positions = self._spec.max_positions
        plan = self._plan(lengths.longest(asked, positions))
        free = memory.free_memory(self._device, asked.cuda_memory_fraction)
        free = self._group.minimum(self._share(free), self._device)
        config = lengths.settled(asked, positions, lambda shorter: plan.of(shorter).fits_one(free))
        total, most = config.max_total_tokens, lengths.longest(asked, positions).max_total_tokens
        if self._group.rank == 0:
            log.info(
                "lengths: max_input_length=%d max_total_tokens=%d%s",
                config.max_input_length, total, "" if total == most else f" of the {most} that the model was made for",
            )  # fmt: skip
            print(f"{SETTLED}{json.dumps({'max_total_tokens': total})}", file=sys.stderr, flush=True)
        return config

    def _share(self, free: int) -> int:
        """What one rank may take of so many free bytes: on a CPU all of a node share them."""
        return free // self._neighbours if self._device.type == "cpu" else free

    def _plan(self, config: ServerConfig) -> memory.CachePlan:
        sizes = memory.group_sizes(self._spec, self._group.world, self._dtype)
        return memory.CachePlan(config, sizes, 1 + self._width)

    def _allocate(self, config: ServerConfig) -> list[int]:
        """Make the caches; every rank gets as many blocks as the poorest would hold of the largest."""
        rank, world = self._group.rank, self._group.world
        free = memory.free_memory(self._device, config.cuda_memory_fraction)
        weights, free = max(0, self._free - free), self._share(free)
        plan = self._plan(config)
        blocks = plan.blocks(memory.plan_tokens(config, plan, self._group.minimum(free, self._device)))
        spare = 1 if self._device.type == "cuda" else 0  # for the padded rows of CUDA graphs
        self._caches = memory.allocate(
            self._spec, [count + spare for count in blocks], world, self._dtype, self._device, rank,
            written=config.preallocate_cache,
        )  # fmt: skip
        sizes = memory.group_sizes(self._spec, world, self._dtype, rank)
        for line in memory.arithmetic(sizes, blocks, weights, free):
            log.info("memory: %s", line)
        if self._device.type == "cpu":
            when = "now" if config.preallocate_cache else "as it is first used (preallocate_cache=true: now)"
            log.info("memory: that of the caches is taken from the system %s", when)
        return blocks

    def _warm_up(self, config: ServerConfig) -> None:
        """Run a small prefill and a decode, so that the first request does not pay for what is set up lazily.

        One of the two draws its token: on GPUs that takes a kernel of its own. Raises ModelError when they fail.
        """
        prompt = [0] * min(WARM_UP_TOKENS, config.max_input_length)
        total = len(prompt) + 1  # positions: the second token is not fed back
        blocks = [list(range(group.blocks(len(prompt), total, total, 1))) for group in self._spec.groups]

        def sequence(id: int, sampling: SamplingParams) -> NewSequence:
            return NewSequence(
                id=id, prompt_ids=prompt, blocks=blocks, sampling=sampling, max_length=len(prompt) + 2
            )  # fmt: skip

        for plan in (
            Plan(step=-3, ids=[-1], counts=[len(prompt)], new=[sequence(-1, SamplingParams(do_sample=True))]),
            Plan(step=-2, ids=[-2], counts=[len(prompt)], new=[sequence(-2, SamplingParams())], finished=[-1]),
            Plan(step=-1, ids=[-2], counts=[1]),
        ):
            outcome = self.step(plan)
            if outcome.failed:
                raise ModelError(f"the model does not run: {next(iter(outcome.failed.values()))}")
            if not all(map(math.isfinite, outcome.logprobs)):
                raise ModelError("the model computes no finite scores: its weights or its config.json are damaged")
        self._stepper.forget(-2)

    def step(self, plan: Plan) -> Outcome:
        """Run one step; see `Stepper`."""
        return self._stepper.step(plan)

    def reset(self) -> None:
        """Forget all sequences; see `Stepper`."""
        self._stepper.reset()


def _draft_width(launch: Launch, spec: Description) -> int:
    """Most tokens that may be guessed of a sequence in a step."""
    speculate, longest = launch.config.speculate, launch.config.max_total_tokens
    width = launch.resolved.heads if speculate is None else speculate
    if width and any(group.kind is CacheKind.STATE for group in spec.groups):
        log.warning("speculate has no effect with this model: what a layer remembers in a state cannot be taken back")
        return 0
    if width and longest <= STEPS + 2:
        log.warning("speculate has no effect with max_total_tokens=%d: guesses pay in longer texts only", longest)
        return 0
    return width


def _device(number: int, memory_fraction: float) -> torch.device:
    """The GPU of this number, of whose memory torch may take `memory_fraction` at most; the CPU where there is none.

    It becomes the current device: Triton, graphs and NCCL go by that.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    torch.cuda.set_per_process_memory_fraction(memory_fraction, device)
    return device
