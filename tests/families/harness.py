"""What every family has to show: a tiny random checkpoint made by transformers, and its logits and text as the measure.

A family's test is a class with the configuration of such a checkpoint; everything else is inherited.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.adapters import merged, write_adapter
from tests.models import needs
from tests.unit.quantize.checkpoints import Layer
from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Sequence
from tgi_server.cache.memory import allocate
from tgi_server.config.schema import BatchingOptions
from tgi_server.kernels.row import Needs
from tgi_server.layers.parallel import Group
from tgi_server.models.description import Description, LayerShape
from tgi_server.models.families import read_spec
from tgi_server.models.load import load_model
from tgi_server.models.tensors import found
from tgi_server.quantize.base import QuantizeMethod
from tgi_server.quantize.eetq import Eetq
from tgi_server.shard.batch import BatchState
from tgi_server.shard.graphs import best_forward
from tgi_server.shard.sampler import Watermark
from tgi_server.shard.step import Stepper
from tgi_server.types import (
    BLOCK_SIZE,
    CacheKind,
    GenerationRequest,
    GroupInfo,
    SamplingParams,
    ShardInfo,
    StoppingParams,
)

VOCABULARY = 101
NEW_TOKENS = 16
LONGEST = 96
TOLERANCE = 1e-4
"""Of the largest logit."""
ROUNDING = 0.05
"""Of the norm of the logits, of weights and activations in bfloat16."""


Generated = tuple[list[list[int]], list[Tensor]]
"""Greedy tokens after each prompt, and the logits `[NEW_TOKENS, vocabulary]` they were chosen by."""


Read = Callable[[Path], Description]
"""How a directory is described."""


class ThreadGroup(Group):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, world: int, shared: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, world)
        self._shared = shared
        self._barrier = barrier

    @classmethod
    def of(cls, world: int) -> list[Group]:
        shared, barrier = [None] * world, threading.Barrier(world, timeout=60)
        return [cls(rank, world, shared, barrier) for rank in range(world)] if world > 1 else [Group()]

    def _exchange(self, x: Tensor) -> list[Tensor]:
        self._shared[self.rank] = x.clone()
        self._barrier.wait()
        everybody = list(self._shared)
        self._barrier.wait()
        return everybody

    def all_reduce(self, x: Tensor) -> Tensor:
        total = torch.stack(self._exchange(x)).sum(0)
        return x.copy_(total)

    def maxima(self, x: Tensor) -> Tensor:
        return x.copy_(torch.stack(self._exchange(x)).amax(0))

    def gather_columns(self, x: Tensor, size: int) -> Tensor | None:
        parts = self._exchange(x)
        return torch.cat(parts, dim=1)[:, :size] if self.rank == 0 else None

    def broadcast(self, x: Tensor) -> Tensor:
        return x.copy_(self._exchange(x)[0])


class Rank:
    """One rank of a model with a stepper; keeps the logits of every token it chose."""

    def __init__(
        self, directory: Path, of: Needs, group: Group, blocks: list[int], recorded: bool, adapter: Path | None = None,
        quantize: QuantizeMethod | None = None, read: Read = read_spec,
    ) -> None:  # fmt: skip
        spec = read(directory)
        options = BatchingOptions(max_total_tokens=LONGEST)
        self._model = load_model(directory, spec, of, LONGEST, quantize, group, adapter_dir=adapter)
        caches = allocate(spec, [count + 1 for count in blocks], group.world, of.dtype, of.device, group.rank)
        for cache in caches:  # what was never written must not matter
            cache.keys.fill_(torch.nan)
            cache.values.fill_(torch.nan)
            for own in cache.states:
                own.fill_(torch.nan)
        if not recorded:
            self._model.recorder = None
        self.recorded = self._model.recorder is not None
        run = best_forward(self._model, caches, spec, options)
        state = BatchState(LONGEST, of.device, spec.groups, start=spec.start_token_id)
        self.scores: list[Tensor] = []
        self.stepper = Stepper(state, run, self._logits, None, Watermark(), group, of)

    def _logits(self, hidden: Tensor) -> Tensor | None:
        logits = self._model.logits(hidden)
        if logits is not None:
            self.scores.append(logits.clone())
        return logits


def generate(
    directory: Path, prompts: list[list[int]], of: Needs, world: int = 1, recorded: bool = True,
    chunk: int | None = None, new_tokens: int = NEW_TOKENS, adapter: Path | None = None,
    quantize: QuantizeMethod | None = None, apart: int = 0, read: Read = read_spec, prefix_caching: bool | None = None,
) -> Generated:  # fmt: skip
    """All prompts at once, through scheduler, paged caches and sampler; `recorded` where that is possible.

    With `apart`, so many plans lie between two arrivals, and the caches hold two texts at a time.
    """
    spec = read(directory)
    options = BatchingOptions(
        max_total_tokens=LONGEST, prefill_chunk_tokens=chunk, max_waiting_tokens=2, prefix_caching=prefix_caching
    )  # fmt: skip
    held = 2 if apart else len(prompts)
    blocks = [held * (1 if g.kind is CacheKind.STATE else -(-LONGEST // BLOCK_SIZE)) for g in spec.groups]
    groups = [GroupInfo(group.kind, group.window, count) for group, count in zip(spec.groups, blocks, strict=True)]
    info = ShardInfo(
        "float32", "cpu", groups, efficient_tokens=64, vocab_size=VOCABULARY, eos_token_ids=[],
        start_token_id=spec.start_token_id, prefix_cacheable=not spec.by_length,
    )  # fmt: skip
    ranks = [Rank(directory, of, group, blocks, recorded, adapter, quantize, read) for group in ThreadGroup.of(world)]
    assert all(rank.recorded == (recorded and world == 1 and not of.plain) for rank in ranks)
    scheduler = Scheduler(options, info)
    stopping = StoppingParams(max_new_tokens=new_tokens, ignore_eos=True)
    coming = deque(
        Sequence(id, GenerationRequest(prompt_ids=prompt, sampling=SamplingParams(), stopping=stopping))
        for id, prompt in enumerate(prompts)
    )
    tokens: list[list[int]] = [[] for _ in prompts]
    scores: list[list[Tensor]] = [[] for _ in prompts]
    for number in count():
        while coming and number % max(1, apart) == 0:
            scheduler.add(coming.popleft())
            if apart:
                break
        plan = scheduler.plan(0.0)
        if plan is None:
            assert not coming
            break
        outcome = _step(ranks, plan)
        assert not outcome.failed, outcome.failed
        rows: Iterator[Tensor] = iter(ranks[0].scores.pop() if sum(outcome.counts) else [])
        for id, got in zip(outcome.ids, outcome.counts, strict=True):
            scores[id] += [next(rows) for _ in range(got)]
        for progress in scheduler.commit(outcome, 0.0):
            tokens[progress.sequence.id] += progress.tokens
    return tokens, [torch.stack(rows) for rows in scores]


def _step(ranks: list[Rank], plan: Any) -> Any:
    if len(ranks) == 1:
        return ranks[0].stepper.step(plan)
    outcomes: list[Any] = [None] * len(ranks)

    def work(rank: int) -> None:
        outcomes[rank] = ranks[rank].stepper.step(plan)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(1, len(ranks))]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    return outcomes[0]


@contextmanager
def interpreted_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The table takes Triton's rows on this CPU, where its interpreter runs them."""
    from tests.triton_device import interpreting
    from tgi_server.kernels import table

    monkeypatch.setitem(table._LIBRARIES, "triton", lambda needs: [])
    table.best.cache_clear()
    with interpreting():
        assert table.best("attention", needs()).library == "triton"
        yield
    table.best.cache_clear()


class Reference:
    """Subclasses say which transformers configuration class with which numbers, beside the usual small ones.

    Attributes:
        config: name of the class in transformers.
        numbers: its arguments.
        implementation: of transformers' attention.
        lengths: of prompts in one batch: more than two blocks, and longer than the windows.
    """

    auto: ClassVar[str] = "AutoModelForCausalLM"
    config: ClassVar[str]
    numbers: ClassVar[dict[str, Any]]
    implementation: ClassVar[str] = "eager"
    lengths: ClassVar[tuple[int, ...]] = (37, 3, 20, 1)

    @classmethod
    def make(cls) -> Any:
        """transformers' own float32 module; norms and biases are random too."""
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, cls.config)(
            vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=1, pad_token_id=0, initializer_range=0.2, **cls.numbers
        )
        config._attn_implementation = cls.implementation
        model = getattr(transformers, cls.auto).from_config(config, dtype=torch.float32).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, 0.7 if name.endswith("weight") else 0.0, 0.3)
        return model

    @classmethod
    def save(cls, directory: Path) -> None:
        """The checkpoint of it."""
        cls.make().save_pretrained(directory)

    @classmethod
    def scores(cls, model: Any, prompt: list[int], text: list[int]) -> Tensor:
        """Of the token after the prompt, and after each token of `text` behind it."""
        with torch.no_grad():
            logits: Tensor = model(torch.tensor([prompt + text]), use_cache=False).logits[0, len(prompt) - 1 :]
        return logits.float()

    def compare(
        self, got: tuple[list[list[int]], list[Tensor]], expected: tuple[list[list[int]], list[Tensor]]
    ) -> None:
        for tokens, scores, right_tokens, right_scores in zip(*got, *expected, strict=True):
            assert tokens == right_tokens
            assert (scores - right_scores).abs().max() <= TOLERANCE * right_scores.abs().max()


class FamilyTests(Reference):
    """What a family of our own shows.

    Attributes:
        interpreted_tokens: how many the Triton kernels generate, which the interpreter makes slow; all of them in the
            families that together have every feature.
        adapted: the modules that an adapter changes; PEFT's adapters of fused experts are not served.
        shards: rank counts that have to work, whether they divide heads and features or not.
    """

    interpreted_tokens: ClassVar[int] = 2
    adapted: ClassVar[str | list[str]] = "all-linear"
    shards: ClassVar[tuple[int, ...]] = (2, 3)

    def test_recorded_kernels(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        self.compare(generate(directory, prompts, needs()), expected)

    def test_kernels_call_by_call(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        self.compare(generate(directory, prompts, needs(), recorded=False), expected)

    def test_plain_torch(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        self.compare(generate(directory, prompts, needs(plain=True)), expected)

    def test_chunks_of_prompts(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        self.compare(generate(directory, prompts, needs(), chunk=16), expected)

    def test_prompts_that_begin_alike(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        """What a step computes is found by others in the same step, and by later ones; windows keep all for that."""
        longest = max(range(len(prompts)), key=lambda index: len(prompts[index]))
        right = [expected[0][longest]] * 3, [expected[1][longest]] * 3
        for of, apart in ((needs(), 0), (needs(), 5), (needs(plain=True), 0)):
            got = generate(directory, [prompts[longest]] * 3, of, apart=apart, prefix_caching=True)
            self.compare(got, right)

    def test_shards(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        for world in self.shards:
            self.compare(generate(directory, prompts, needs(plain=world % 2 == 1), world), expected)

    def test_bfloat16(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        """The first token's scores, which rounding may move as far as in transformers; texts soon differ for good."""
        _, scores = generate(directory, prompts, needs(dtype=torch.bfloat16))
        theirs = self.make().bfloat16()
        for prompt, got, right in zip(prompts, scores, expected[1], strict=True):
            rounded = self.scores(theirs, prompt, [])[-1]
            allowed = max(ROUNDING * right[0].norm(), 1.25 * (rounded - right[0]).norm())
            assert (got[0] - right[0]).norm() <= allowed

    def test_adapter(self, directory: Path, prompts: list[list[int]], tmp_path: Path) -> None:
        """LoRA, on all linear layers where that is possible, merged at load, is what PEFT merges."""
        own, place = [prompts[2]], tmp_path / "adapter"
        adapted = write_adapter(self.make(), place, str(directory), target_modules=self.adapted, r=4)
        merged(adapted).save_pretrained(tmp_path / "merged")
        expected = generate(tmp_path / "merged", own, needs(), new_tokens=2)
        for world in (1, self.shards[0]):
            got = generate(directory, own, needs(), world, new_tokens=2, adapter=tmp_path / "adapter")
            self.compare(got, expected)

    def test_4_bits(self, directory: Path, prompts: list[list[int]], tmp_path: Path) -> None:
        """Linear layers as GPTQ with act-order has them, whatever their place and shape, are what they stand for."""
        spec, own = read_spec(directory), [prompts[2]]
        quantise(directory, spec, tmp_path)
        expected = generate(tmp_path / "floats", own, needs(), new_tokens=2)
        for world in (1, *self.shards[:1]):
            if spec.whole(world, 8, 8):
                got = generate(tmp_path / "codes", own, needs(plain=world > 1), world, new_tokens=2)
                self.compare(got, expected)

    def test_interpreted_triton(
        self, directory: Path, prompts: list[list[int]], expected: Generated, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokens = self.interpreted_tokens
        few = [0, 3, 0] if tokens == NEW_TOKENS else [2, 3, 2]  # the last finds a block that the first fills
        with interpreted_triton(monkeypatch):
            got = generate(directory, [prompts[i] for i in few], needs(), recorded=False, new_tokens=tokens)
        self.compare(got, ([expected[0][i][:tokens] for i in few], [expected[1][i][:tokens] for i in few]))


def quantise(directory: Path, spec: Description, place: Path) -> None:
    """Writes `codes`, a checkpoint whose linear layers have random weights of 4 bits, and `floats`, the same widened.

    Layers whose sizes fill no whole words stay as they are.
    """
    tensors = {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}
    codes, floats = dict(tensors), dict(tensors)
    for number, (name, shape) in enumerate(spec.tensors()):
        full = found(name, spec.prefixes, tensors)
        if full is None or not isinstance(shape, LayerShape) or any(size % 8 for size in shape):
            continue
        layer = Layer(*shape.size, group_size=16, seed=number)
        layer.scale *= np.float16(0.3)
        layer.order = np.random.default_rng(0).permutation(layer.order)  # the same of layers with the same inputs
        floats[full] = layer.dense().T.contiguous() if shape.turned else layer.dense()
        del codes[full]
        codes |= {f"{full.removesuffix('weight')}{kind}": tensor for kind, tensor in layer.gptq().items()}
    assert codes.keys() != tensors.keys()
    for name, own in (("codes", codes), ("floats", floats)):
        (place / name).mkdir()
        shutil.copy(directory / "config.json", place / name)
        save_file(own, place / name / "model.safetensors")
    settings = {"bits": 4, "group_size": 16, "desc_act": True, "sym": False}
    (place / "codes" / "quantize_config.json").write_text(json.dumps(settings))


class PastFamilyTests(FamilyTests):
    """The same of models whose past is held in other ways than by position."""

    def test_texts_come_and_go(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        """What others leave in the caches does not matter."""
        for recorded in (True, False):
            self.compare(generate(directory, prompts, needs(), recorded=recorded, apart=5), expected)

    def test_8_bits(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        _, scores = generate(directory, prompts, needs(), quantize=Eetq())
        for got, right in zip(scores, expected[1], strict=True):
            assert 0.0 < (got[0] - right[0]).norm() <= ROUNDING * right[0].norm()


class Seq2SeqFamilyTests(PastFamilyTests):
    """The same of models whose encoder reads the prompt."""

    auto = "AutoModelForSeq2SeqLM"

    @classmethod
    def scores(cls, model: Any, prompt: list[int], text: list[int]) -> Tensor:
        start = model.config.decoder_start_token_id
        begun = torch.tensor([[0 if start is None else start, *text]])
        with torch.no_grad():
            logits: Tensor = model(torch.tensor([prompt]), decoder_input_ids=begun, use_cache=False).logits[0]
        return logits.float()
