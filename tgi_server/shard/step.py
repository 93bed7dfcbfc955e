"""A plan turned into an outcome: guess, compute, choose, and keep the guesses that turned out right.

All guessed tokens are computed and scored in one pass, each as if those before it had been chosen already. Then tokens
are taken from the first one on while the token chosen is the one that was guessed, so that the text is the same as that
of one token a step; the noise of a choice depends on seed and position only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice, takewhile

import torch
from torch import Tensor

from tgi_server.kernels.row import Needs
from tgi_server.kernels.sampling import Masks
from tgi_server.kernels.table import best
from tgi_server.layers.parallel import Group
from tgi_server.shard import failures
from tgi_server.shard.batch import BatchState, StepInputs
from tgi_server.shard.drafting import Drafting
from tgi_server.shard.guides import Guides
from tgi_server.shard.prompts import PromptScores
from tgi_server.shard.sampler import Choice, Sample, Watermark, choose
from tgi_server.speculate.base import Drafts
from tgi_server.types import Outcome, Plan, TopTokens

log = logging.getLogger(__name__)

NOT_TAKEN = -1
"""Stands for the token of a row behind one that was guessed wrong."""
UNDECIDED = -2
"""Stands for all tokens of a step in which rank 0 could not choose any."""
_ATTEMPTS = 16
"""Most parts of a step that are tried beside the first ones: enough to find one bad text among a thousand."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """The new tokens of each yielding sequence; on rank 0 also their log-probabilities, and alternatives by id."""

    tokens: list[list[int]]
    logprobs: list[float]
    top: dict[int, list[TopTokens]]


class Stepper:
    """Runs plans one after the other.

    Args:
        state: the sequences that the shard knows.
        run: the hidden states `[tokens, hidden]` of a step.
        logits: hidden states `[rows, hidden]` to logits `[rows, vocabulary]`, or None on a rank that has none.
        guides: those of rank 0, which decides for all; None elsewhere.
        watermark: how marked texts are marked.
        group: the ranks of the model.
        needs: what tokens are chosen on.
        drafting: guesses tokens, as far as plans allow it; None for none.
    """

    def __init__(
        self,
        state: BatchState,
        run: Callable[[StepInputs], Tensor],
        logits: Callable[[Tensor], Tensor | None],
        guides: Guides | None,
        watermark: Watermark,
        group: Group,
        needs: Needs,
        drafting: Drafting | None = None,
    ) -> None:
        self._state = state
        self._run = run
        self._logits = logits
        self._guides = guides
        self._watermark = watermark
        self._group = group
        self._device = needs.device
        self._sample: Sample = best("sample", needs).run
        self._drafting = drafting
        self._prompts = PromptScores(state, logits)
        self._computed = False  # whether the step got so far that its tokens are taken
        self._complaints = failures.Complaints(log)

    @torch.inference_mode()
    def step(self, plan: Plan) -> Outcome:
        """Run one step. One that fails is tried again in parts, and fails only those of its sequences that it must.

        Raises what goes wrong where this shard cannot go on, as another rank has not failed alike.
        """
        start = time.perf_counter_ns()
        self._state.update(plan)
        for id in plan.finished:
            self._prompts.forget(id)
        if self._drafting:
            self._drafting.forget(plan.finished)
        if self._guides:
            self._guides.update(plan)
        if not plan.ids:
            return Outcome(plan.step, [], [], [], [])
        try:
            outcome = self._forward(plan)
        except Exception as error:
            outcome = self._in_parts(plan, error)
        return replace(outcome, forward_ns=time.perf_counter_ns() - start)

    def _in_parts(self, plan: Plan, error: Exception) -> Outcome:
        """The outcome of a step that failed with `error`: what it left undone is tried again, in ever smaller parts."""
        why = failures.reason(error)
        self._complaints.error(f"step {plan.step} failed", why, error)
        settled = self._settled(error)
        left, outcomes = failures.parts(plan, self._state) if settled else [], list[Outcome]()
        attempts = _ATTEMPTS + len(left)
        while left:
            part = left.pop(0)
            attempts -= 1
            try:
                outcomes.append(self._forward(part))
            except Exception as again:
                smaller = failures.halves(part) if self._settled(again) and attempts > 0 else []
                outcomes += [] if smaller else [failures.failed(part, again)]
                left = smaller + left
        if not outcomes:
            return failures.failed(plan, error)
        outcome = failures.joined(plan, outcomes)
        log.warning("step %d in parts: %d of %d failed again", plan.step, len(outcome.failed), len(plan.ids))
        return replace(outcome, repeated=why)

    def _settled(self, error: Exception) -> bool:
        """Whether a step may be tried again that failed so. Raises `error` where this shard cannot go on."""
        failures.settle(error, self._group, self._device, "chosen" if self._computed else "computed")
        return not self._computed

    def forget(self, id: int) -> None:
        """Drop a sequence that no plan will finish."""
        self.step(Plan(step=0, ids=[], counts=[], finished=[id]))

    def reset(self) -> None:
        """Drop all sequences: those who made the plans are gone."""
        self.step(Plan(step=0, ids=[], counts=[], finished=self._state.ids))

    def _forward(self, plan: Plan) -> Outcome:
        self._computed = False
        drafts = self._draft(plan)
        inputs = self._state.inputs(plan, drafts)
        ids = [plan.ids[index] for index in inputs.yielding]
        # which tokens are allowed is found out while the device works
        allowed = self._guides.allowed(ids, self._device, drafts) if self._guides else None
        hidden = self._run(inputs)
        self._computed = True
        scores = self._prompts.collect(plan, inputs, hidden)
        taken = self._choose(ids, inputs, hidden, drafts, allowed) if ids else _Taken([], [], {})
        self._state.advance(plan, inputs.yielding, taken.tokens)
        if self._drafting:
            self._drafting.learn(ids, inputs, taken.tokens, hidden)
        counts = [0] * len(plan.ids)
        for index, tokens in zip(inputs.yielding, taken.tokens, strict=True):
            counts[index] = len(tokens)
        return Outcome(
            plan.step, plan.ids, counts, [token for tokens in taken.tokens for token in tokens], taken.logprobs,
            taken.top,
            prompt_logprobs={id: prompt.logprobs for id, prompt in scores.items()},
            prompt_top_tokens={id: prompt.top for id, prompt in scores.items() if prompt.top},
            unguided=self._guides.failures(ids) if self._guides else {},
            complete=self._guides.complete(ids) if self._guides else [],
            guessed={id: len(tokens) for id, tokens in drafts.items()},
        )  # fmt: skip

    def _draft(self, plan: Plan) -> Drafts:
        """What is guessed, cut off where a grammar forbids it; only one rank alone knows that in time."""
        drafts = self._drafting.guess(self._state, plan) if self._drafting else {}
        return self._guides.cut(drafts) if drafts and self._guides and self._group.world == 1 else drafts

    def _choose(
        self, ids: list[int], inputs: StepInputs, hidden: Tensor, drafts: Drafts,
        allowed: Future[Masks | None] | None,
    ) -> _Taken:  # fmt: skip
        """The new tokens of the sequences `ids`: rank 0 decides, all learn them."""
        logits = self._logits(hidden[inputs.score_rows])
        if logits is None:
            tokens = torch.empty(len(inputs.score_rows), dtype=torch.int64, device=self._device)
            told = self._group.broadcast(tokens).tolist()
            if UNDECIDED in told:
                raise failures.UndecidedError
            return _Taken([[t for t in run if t != NOT_TAKEN] for run in _split(told, inputs.scored)], [], {})
        before = self._group.collectives
        try:
            return self._decide(ids, inputs, logits, drafts, allowed)
        except Exception:
            if self._group.collectives == before:  # the others wait for the tokens
                self._group.broadcast(torch.full((len(inputs.score_rows),), UNDECIDED).to(self._device))
            raise

    def _decide(
        self, ids: list[int], inputs: StepInputs, logits: Tensor, drafts: Drafts,
        allowed: Future[Masks | None] | None,
    ) -> _Taken:  # fmt: skip
        masks = allowed.result() if allowed else None
        rows = self._state.sampling_rows(ids, inputs.scored, self._watermark, masks)
        choice = choose(logits, rows, self._sample)
        if not drafts and allowed is None:
            self._group.broadcast(choice.tokens)
            top = {ids[row]: [entry] for row, entry in choice.top.items()}
            return _Taken([[token] for token in choice.tokens.tolist()], choice.logprobs.tolist(), top)
        return self._agree(ids, inputs, choice, logits, drafts)

    def _agree(self, ids: list[int], inputs: StepInputs, choice: Choice, logits: Tensor, drafts: Drafts) -> _Taken:
        """Take what was picked as far as it was guessed, and tell the other ranks."""
        picked = choice.tokens.tolist()
        runs = _split(picked, inputs.scored)
        taken = [self._follow(id, run, drafts.get(id, ())) for id, run in zip(ids, runs, strict=True)]
        told = list[int]()
        for tokens, count in zip(taken, inputs.scored, strict=True):
            told += [*tokens, *[NOT_TAKEN] * (count - len(tokens))]
        if self._group.world > 1:
            self._group.broadcast(torch.tensor(told).to(self._device))
        for row, (token, was) in enumerate(zip(told, picked, strict=True)):
            if token not in (was, NOT_TAKEN):  # a guide wanted another one
                choice.logprobs[row] += logits[row, token] - logits[row, was]
        rows, logprobs = [row for row, token in enumerate(told) if token != NOT_TAKEN], choice.logprobs.tolist()
        top: dict[int, list[TopTokens]] = {}
        owners = [id for id, tokens in zip(ids, taken, strict=True) for _ in tokens]
        for id, row in zip(owners, rows, strict=True):
            if row in choice.top:
                top.setdefault(id, []).append(choice.top[row])
        return _Taken(taken, [logprobs[row] for row in rows], top)

    def _follow(self, id: int, picked: list[int], guesses: Sequence[int]) -> list[int]:
        """The tokens of sequence `id` up to the first one that was not guessed: the last that is right for sure."""
        taken = self._guides.follow(id, picked, guesses) if self._guides else None
        if taken is not None:
            return taken
        right = takewhile(lambda pair: pair[0] == pair[1], zip(picked, guesses, strict=False))
        return picked[: 1 + sum(1 for _ in right)]


def _split(tokens: list[int], counts: Sequence[int]) -> Iterator[list[int]]:
    """The tokens of each sequence, from their concatenation."""
    rest = iter(tokens)
    return ([*islice(rest, count)] for count in counts)
